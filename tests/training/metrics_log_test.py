"""Tests of the record of a training: metrics.jsonl and the event files."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf

from kerobust.training.metrics_log import read_rows
from tests.training.small import STEPS, fit_small


def events(folder):
    """Returns {tag: {step: value}} of all event files; each step once or it fails."""
    found = {}
    for path in sorted((folder / "tensorboard").iterdir()):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                steps = found.setdefault(value.tag, {})
                assert event.step not in steps, (value.tag, event.step)
                steps[event.step] = tf.make_ndarray(value.tensor)
    return found


def crash(step):
    if step == 7:
        raise KeyError(step)
    return {}


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """A run that crashed at step 7 and was continued from step 4."""
    folder = tmp_path_factory.mktemp("resumed")
    picture = np.full([2, 3, 3], 200, np.uint8)
    probes = [
        (3, lambda step: {"knn/clean": step / 100, "view": picture}),
        (1, crash),
    ]
    hparams = {"rate": 0.1, "attack": "pgd", "units": (1, 2)}
    with pytest.raises(KeyError):
        fit_small(folder, probes=probes, hparams=hparams)
    # A kill tears the last line and the last event.
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "tr')
    (event_file,) = (folder / "tensorboard").iterdir()
    os.truncate(event_file, event_file.stat().st_size - 3)
    return folder, fit_small(folder, probes=probes[:1], hparams=hparams)[1]


def test_each_step_stands_once_in_both_records_after_a_resume(resumed):
    folder, fitted = resumed

    # Rows: log 2, checkpoint 4, probe 3.
    steps = [2, 3, 4, 6, 8, 9, 10, 12]
    assert [row["step"] for row in fitted.history] == steps
    found = events(folder)
    for name in ("train/loss", "train/error", "train/penalty", "learning_rate"):
        assert sorted(found[name]) == steps
    assert sorted(found["knn/clean"]) == sorted(found["view"]) == [3, 6, 9, 12]


def test_events_and_lines_hold_the_same_numbers(resumed):
    folder, fitted = resumed

    found = events(folder)

    for row in fitted.history:
        for name in set(row) - {"step", "time"}:
            assert found[name][row["step"]] == np.float32(row[name])


def test_means_cover_the_steps_since_the_last_row(tmp_path):
    _, every_step = fit_small(tmp_path / "one", probes=[(1, lambda step: {"x": 0.0})])
    _, usual = fit_small(tmp_path / "two")

    single = {row["step"]: row["train/loss"] for row in every_step.history}
    for row in usual.history:  # rows at 2, 4, ..., 12
        mean = (single[row["step"] - 1] + single[row["step"]]) / 2
        assert row["train/loss"] == pytest.approx(mean, rel=1e-6)


def test_rate_is_the_one_of_the_step(resumed):
    _, fitted = resumed

    # Update t uses the rate of schedule step t - 1: 0, 0.05, then the cosine from 0.1.
    rates = {row["step"]: row["learning_rate"] for row in fitted.history}
    assert rates[2] == pytest.approx(0.05)
    assert rates[3] == pytest.approx(0.1)
    assert rates[8] == pytest.approx(0.05)  # half of the cosine: (7 - 2) / 10


def test_hyperparameters_are_written_once(resumed):
    folder, _ = resumed

    assert list(events(folder)["_hparams_/session_start_info"]) == [0]


def test_images_of_probes_are_stored_as_given(resumed):
    folder, _ = resumed

    width, height, png = events(folder)["view"][12]

    assert (int(width), int(height)) == (3, 2)
    assert (tf.io.decode_png(png).numpy() == 200).all()


def test_start_without_checkpoint_forgets_everything_of_the_attempt(tmp_path):
    def early_crash(step):
        raise KeyError(step)

    with pytest.raises(KeyError):
        fit_small(tmp_path, probes=[(3, early_crash)], hparams={"rate": 0.1})
    other = tmp_path / "tensorboard" / "events.out.tfevents.1.host.report"
    other.touch()

    _, fitted = fit_small(tmp_path, hparams={"rate": 0.1})

    assert [row["step"] for row in fitted.history] == list(range(2, STEPS + 1, 2))
    assert list(events(tmp_path)["_hparams_/session_start_info"]) == [0]
    assert other.exists()


def test_infinite_measurements_are_null_in_json(tmp_path):
    fit_small(tmp_path, probes=[(12, lambda step: {"ratio": float("inf")})])

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()

    assert json.loads(lines[-1])["ratio"] is None
    assert "Infinity" not in lines[-1]


def test_wrong_probe_results_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`view` of a probe must .* dtype=float32"):
        fit_small(tmp_path, probes=[(1, lambda _: {"view": np.zeros([2, 2, 3], "f4")})])


def test_rows_end_at_a_torn_line_and_at_the_last_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')

    assert read_rows(path) == [{"step": 1}, {"step": 2}, {"step": 3}]
    assert read_rows(path, 2) == [{"step": 1}, {"step": 2}]
    assert read_rows(tmp_path / "none.jsonl") == []
