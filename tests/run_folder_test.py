"""Tests of run folders: whose they are, over versions too."""

import dataclasses
import errno
import os

import pytest

from kerobust import run_folder
from kerobust.config import UserError
from kerobust.experiment import ExperimentConfig
from kerobust.run_folder import identity

DATA = "0" * 64


def config_in(folder, **changes):
    """Returns an experiment in `folder`; changes are SECTION={NAME: VALUE}."""
    run = {"workdir": str(folder), **changes.pop("run", {})}
    whole = ExperimentConfig()
    parts = {
        name: dataclasses.replace(getattr(whole, name), **values)
        for name, values in {"run": run, **changes}.items()
    }
    return dataclasses.replace(whole, **parts)


def claim(config, digest):
    """Claims a run folder and lets go of it at once."""
    run_folder.claim(config, digest).close()


def forget(folder, setting):
    """Makes a run folder one of a version that did not have the setting."""
    path = folder / "config.flags"
    lines = path.read_text().splitlines()
    kept = [line for line in lines if not line.startswith(f"--{setting}=")]
    assert len(kept) == len(lines) - 1
    path.write_text("\n".join(kept))


def test_a_version_with_more_settings_continues_where_they_have_their_defaults(
    tmp_path,
):
    claim(config_in(tmp_path), DATA)
    forget(tmp_path, "multi.head_chance")

    claim(config_in(tmp_path), DATA)

    assert "--multi.head_chance=" in (tmp_path / "config.flags").read_text()


def test_a_setting_that_an_older_version_could_not_have_had_is_refused(tmp_path):
    claim(config_in(tmp_path), DATA)
    forget(tmp_path, "multi.head_chance")

    with pytest.raises(UserError, match=r"multi.head_chance=0.5 \(there: 0.25\)"):
        claim(config_in(tmp_path, multi={"head_chance": 0.5}), DATA)


def test_a_default_that_has_changed_since_is_refused(tmp_path):
    claim(config_in(tmp_path), DATA)
    path = tmp_path / "config.flags"
    text = path.read_text()
    assert "--mimir.steps=1\n" in text
    path.write_text(text.replace("--mimir.steps=1\n", "--mimir.steps=3\n"))

    with pytest.raises(UserError, match=r"mimir.steps=1 \(there: 3\)"):
        claim(config_in(tmp_path), DATA)


@pytest.mark.parametrize(
    "section, name, value",
    [("benchmark", "steps", 7), ("evaluate", "steps", 7), ("run", "log_steps", 3)],
)
def test_what_trains_nothing_may_change_within_a_folder(tmp_path, section, name, value):
    claim(config_in(tmp_path), DATA)

    claim(config_in(tmp_path, **{section: {name: value}}), DATA)


def test_other_data_are_refused(tmp_path):
    claim(config_in(tmp_path), DATA)

    with pytest.raises(UserError, match=r"data.digest=1+ \(there: 0+\)"):
        claim(config_in(tmp_path), "1" * 64)


def test_the_identity_holds_what_is_chosen_and_the_data(tmp_path):
    usual = identity(config_in(tmp_path), DATA)

    assert identity(config_in(tmp_path / "elsewhere"), DATA) == usual
    assert identity(config_in(tmp_path, mimir={"steps": 3}), DATA) != usual
    assert identity(config_in(tmp_path, run={"seed": 1}), DATA) != usual
    assert identity(config_in(tmp_path), "1" * 64) != usual


def test_a_folder_is_free_again_when_the_run_is_over(tmp_path):
    with run_folder.claim(config_in(tmp_path), DATA):
        before = (tmp_path / "environment.json").read_text()
        with pytest.raises(UserError) as caught:  # An open file of its own.
            run_folder.claim(config_in(tmp_path), DATA)

    assert f"in use by process {os.getpid()} on " in str(caught.value)
    assert (tmp_path / "environment.json").read_text() == before
    claim(config_in(tmp_path), DATA)
    assert len((tmp_path / ".lock").read_text().splitlines()) == 1


def test_a_file_system_without_locks_stops_nobody(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with run_folder.claim(config_in(tmp_path), DATA):
        claim(config_in(tmp_path), DATA)
