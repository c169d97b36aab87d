"""The command line: sources of settings, flag files, switches."""

import pathlib

import pytest

from kerobust import evaluate, flags, probe, train
from kerobust.config import UserError

ROOT = pathlib.Path(__file__).parents[2]


def test_fractions_are_read_exactly():
    assert flags.parse(["--attack.epsilon=8/255"]).config.attack.epsilon == 8 / 255


def test_the_last_setting_wins_and_its_source_is_known(tmp_path):
    path = tmp_path / "a.flags"
    path.write_text("# comment\n--run.seed=1\n--run.devices=2\n")

    parsed = flags.parse([f"--flagfile={path}", "--run.seed=7"])

    assert parsed.config.run.seed == 7
    assert parsed.sources["run.seed"] == "command line"
    assert parsed.sources["run.devices"] == str(path)


def test_nested_flag_files_are_found_beside_the_file_that_names_them(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "outer.flags").write_text("--flagfile=inner/a.flags\n--run.seed=2\n")
    (tmp_path / "inner" / "a.flags").write_text("--flagfile=b.flags\n--run.seed=1\n")
    (tmp_path / "inner" / "b.flags").write_text("--method=mae\n")

    config = flags.parse([f"--flagfile={tmp_path / 'outer.flags'}"]).config

    assert (config.method, config.run.seed) == ("mae", 2)


def test_booleans_lists_and_empty_values_are_read():
    config = flags.parse(
        [
            "--mae.norm_pix=false",
            "--run.jit_compile",
            "--evaluate.epsilons=1/255,0.1",
            "--evaluate.limit=",
        ]
    ).config

    assert config.mae.norm_pix is False and config.run.jit_compile is True
    assert config.evaluate.epsilons == (1 / 255, 0.1)
    assert config.evaluate.limit is None


def test_a_space_instead_of_the_equals_sign_is_explained():
    with pytest.raises(UserError, match="--run.seed=value"):
        flags.parse(["--run.seed"])
    with pytest.raises(UserError, match="--name=value"):
        flags.parse(["--run.seed=1", "3"])


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/**/*.flags")), ids=str)
def test_every_flag_file_parses_and_names_its_command(path):
    config = flags.parse([f"--flagfile={path}"]).config

    assert config.to_flags()["method"] == config.method
    first = path.read_text().splitlines()[0]
    assert first.startswith("# python -m kerobust.")
    assert str(path.relative_to(ROOT)) in path.read_text()


@pytest.mark.parametrize("main", [train.main, probe.main, evaluate.main])
def test_help_version_and_config_are_printed(main, capsys):
    assert main(["program", "--version"]) == 0
    assert capsys.readouterr().out.startswith("kerobust ")
    assert main(["program", "--help"]) == 0
    assert "--attack.epsilon=8/255" in capsys.readouterr().out
    assert main(["program", "--print_config", "--attack.epsilon=4/255"]) == 0
    assert "--attack.epsilon=4/255  # command line" in capsys.readouterr().out


@pytest.mark.slow
def test_a_dry_run_estimates_and_writes_nothing(tmp_path, capsys):
    workdir = tmp_path / "run"

    code = train.main(
        [
            "train",
            f"--run.workdir={workdir}",
            "--run.stages=pretrain,finetune",
            "--finetune.batch_size=32",
            "--model.width=16",
            "--dry_run",
        ]
    )

    printed = capsys.readouterr().out
    assert code == 0 and not workdir.exists()
    sizes = "train 1,100; validation 200; test 497"
    assert f"data: digits: 10 classes, 8 x 8 pixels, in memory; {sizes}\n" in printed
    assert "trained parameters" in printed and "minutes" in printed


def test_debug_shows_the_traceback(capsys):
    assert train.main(["train", "--attack.epsilon=8", "--debug"]) == flags.USER_ERROR
    assert "Traceback" in capsys.readouterr().err
