"""Tests of checkpoints: complete or absent, and never silently wrong."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.training.checkpoints import Checkpoints


def make(value=0.0, size=50):
    variable = tf.Variable(tf.fill([size], float(value)))
    return variable, tf.train.Checkpoint(variable=variable)


def saved(folder, steps, **options):
    """Returns a store where the checkpoint of step s holds the number s."""
    store = Checkpoints(folder, **options)
    for step in steps:
        store.save(make(step)[1], step, {"config_digest": "a"})
    return store


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def test_restores_the_newest_with_its_extra(tmp_path):
    store = saved(tmp_path, [5, 40])
    variable, checkpoint = make()

    step, extra = store.restore(checkpoint)

    assert step == 40
    assert extra == {"config_digest": "a", "step": 40}
    np.testing.assert_array_equal(variable, np.full(50, 40.0))


def test_empty_folder_restores_nothing(tmp_path):
    assert Checkpoints(tmp_path / "new").restore(make()[1]) is None


def test_keeps_the_newest_only(tmp_path):
    saved(tmp_path, [1, 2, 30, 4], keep=2)

    assert sorted(os.listdir(tmp_path)) == ["step-00000004", "step-00000030"]


def test_saving_a_step_again_replaces_it(tmp_path):
    store = saved(tmp_path, [3])
    store.save(make(7.0)[1], 3)
    variable, checkpoint = make()

    assert store.restore(checkpoint) == (3, {"step": 3})
    assert variable[0] == 7.0


@pytest.mark.parametrize("harm", [flip_a_bit, truncate, os.remove])
@pytest.mark.parametrize(
    "file",
    [
        "checkpoint.index",
        "checkpoint.data-00000-of-00001",
        "manifest.json",
        "extra.json",
    ],
)
def test_damage_is_reported_in_one_line_and_the_previous_is_used(tmp_path, file, harm):
    lines = []
    store = saved(tmp_path, [1, 2], report=lines.append)
    harm(tmp_path / "step-00000002" / file)
    variable, checkpoint = make()

    step, _ = store.restore(checkpoint)

    assert step == 1
    assert variable[0] == 1.0
    (line,) = lines
    assert "step-00000002 is damaged" in line
    assert "using step-00000001" in line
    assert "\n" not in line


def test_damaged_checkpoints_never_crowd_out_good_ones(tmp_path):
    store = saved(tmp_path, [10, 20], keep=1, report=lambda line: None)
    store = Checkpoints(tmp_path, keep=2, report=lambda line: None)
    store.save(make(30)[1], 30)
    flip_a_bit(tmp_path / "step-00000030" / "checkpoint.index")
    store.restore(make()[1])

    Checkpoints(tmp_path, keep=1).save(make(25)[1], 25)

    assert Checkpoints(tmp_path).restore(make()[1])[0] == 25
    assert (tmp_path / "damaged-step-00000030").is_dir()


def test_all_damaged_is_an_error_and_stays_one(tmp_path):
    store = saved(tmp_path, [1, 2], report=lambda line: None)
    for step in (1, 2):
        truncate(tmp_path / f"step-0000000{step}" / "checkpoint.index")

    for _ in range(2):
        with pytest.raises(UserError) as caught:
            store.restore(make()[1])

        text = str(caught.value)
        assert "`--run.workdir`" in text
        assert "step-00000001: checkpoint.index is not as written" in text
        assert "delete that folder" in text


def test_leftovers_of_interrupted_writes_are_cleaned(tmp_path):
    saved(tmp_path, [1])
    leftover = tmp_path / ".partial-step-00000002"
    leftover.mkdir()
    (leftover / "checkpoint.index").write_text("half")

    step, _ = Checkpoints(tmp_path).restore(make()[1])

    assert step == 1
    assert os.listdir(tmp_path) == ["step-00000001"]


@pytest.mark.parametrize("moment", ["fsync", "rename"])
def test_failed_write_leaves_the_older_checkpoint_alone(tmp_path, monkeypatch, moment):
    store = saved(tmp_path, [1])

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, moment, full)
    with pytest.raises(UserError, match=r"`--run.workdir`.*No space left"):
        store.save(make(2)[1], 2)
    monkeypatch.undo()

    assert os.listdir(tmp_path) == ["step-00000001"]
    assert store.restore(make()[1])[0] == 1


def test_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    store = Checkpoints(tmp_path / "file" / "checkpoints")

    for attempt in (lambda: store.restore(make()[1]), lambda: store.save(make()[1], 1)):
        with pytest.raises(UserError, match=r"`--run.workdir`.*file.*Not a directory"):
            attempt()


def test_other_digest_is_refused_before_anything_is_read(tmp_path):
    store = saved(tmp_path, [6])
    variable, checkpoint = make()

    with pytest.raises(UserError) as caught:
        store.restore(checkpoint, {"config_digest": "b"})

    text = str(caught.value)
    assert "holds another configuration" in text
    assert "config_digest=a, this run has b" in text
    assert "Choose another --run.workdir" in text
    assert variable[0] == 0.0


def test_other_variables_are_refused(tmp_path):
    store = saved(tmp_path, [6])
    more = tf.train.Checkpoint(variable=make()[0], other=tf.Variable(1.0))

    for checkpoint in (make(size=7)[1], tf.train.Checkpoint(), more):
        with pytest.raises(UserError, match="holds another configuration"):
            store.restore(checkpoint)


def test_manifest_lists_every_file(tmp_path):
    saved(tmp_path, [6])
    folder = tmp_path / "step-00000006"

    manifest = json.loads((folder / "manifest.json").read_text())

    assert sorted([*manifest["sha256"], "manifest.json"]) == sorted(os.listdir(folder))


def test_keep_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="`keep` must be at least 1.*keep=0"):
        Checkpoints(tmp_path, keep=0)
