"""Tests of the loop: exact resume, errors, and both kinds of execution."""

import json

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.distribute import strategy
from kerobust.training.fit import RunConfig, fit
from tests.training.small import (
    BATCH,
    STEPS,
    fit_small,
    make_batches,
    make_small,
    run_config,
    state_digest,
)


class CrashError(Exception):
    """Stands for a crash."""


def crash_at(step):
    def probe(now):
        if now == step:
            raise CrashError

    return [(1, lambda now: probe(now) or {})]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return fit_small(tmp_path_factory.mktemp("uninterrupted"))


# The probe crashes before the step is saved: it continues from step 8, 4 or 0.
@pytest.mark.parametrize("crash", [11, 8, 3])
def test_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(
    tmp_path, uninterrupted, crash
):
    with pytest.raises(CrashError):
        fit_small(tmp_path / "run", probes=crash_at(crash))

    resumed, fitted = fit_small(tmp_path / "run")

    assert fitted.step == STEPS
    assert state_digest(resumed) == state_digest(uninterrupted[0])


def test_resumed_run_logs_every_step_once_and_the_same_numbers(tmp_path, uninterrupted):
    with pytest.raises(CrashError):
        fit_small(tmp_path / "run", probes=crash_at(11))

    _, resumed = fit_small(tmp_path / "run")

    # Rows at multiples of 2 (log) and 4 (checkpoint).
    assert [row["step"] for row in resumed.history] == [2, 4, 6, 8, 10, 12]
    for one, two in zip(uninterrupted[1].history, resumed.history, strict=True):
        for name in ("train/loss", "train/error", "train/penalty", "learning_rate"):
            assert one[name] == two[name]


def test_steps_per_execution_changes_no_bit_also_over_a_resume(tmp_path, uninterrupted):
    run = run_config(steps_per_execution=5, checkpoint_steps=3)
    with pytest.raises(CrashError):
        fit_small(tmp_path / "run", run=run, probes=crash_at(10))

    resumed, fitted = fit_small(tmp_path / "run", run=run)

    # Executions end at 5 (checkpoint), 10 (crash); then 10 (checkpoint) and 12.
    assert [row["step"] for row in fitted.history] == [5, 10, 12]
    assert state_digest(resumed) == state_digest(uninterrupted[0])


@pytest.mark.slow
def test_two_devices_train_and_resume(tmp_path):
    with strategy(2).scope():
        whole = make_small()
    fit_small(tmp_path / "uninterrupted", method=whole)
    with strategy(2).scope():
        crashing = make_small()
    with pytest.raises(CrashError):
        fit_small(tmp_path / "run", method=crashing, probes=crash_at(6))
    with strategy(2).scope():
        resumed = make_small()

    _, fitted = fit_small(tmp_path / "run", method=resumed)

    assert fitted.step == STEPS
    assert state_digest(resumed) == state_digest(whole)


def test_loss_scale_optimizer_resumes_exactly(tmp_path):
    def method():
        inner = tf.keras.optimizers.Adam(0.01)
        scaled = tf.keras.mixed_precision.LossScaleOptimizer(
            inner, initial_scale=64.0, dynamic_growth_steps=3
        )
        return make_small(optimizer=scaled)

    whole, _ = fit_small(tmp_path / "uninterrupted", method=method())
    with pytest.raises(CrashError):
        fit_small(tmp_path / "run", method=method(), probes=crash_at(7))

    resumed, _ = fit_small(tmp_path / "run", method=method())

    assert state_digest(resumed) == state_digest(whole)
    # Doubled after each 3 of the 12 steps: 64 * 2^4; lost counts would show here.
    assert float(resumed.optimizer.loss_scale) == 1024.0


def test_finished_run_is_left_as_it_is(tmp_path):
    whole, first = fit_small(tmp_path)

    again, second = fit_small(tmp_path)

    assert state_digest(again) == state_digest(whole)
    assert second == first


def test_run_folder_holds_checkpoints_metrics_and_events(tmp_path):
    fit_small(tmp_path)

    row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["step"] == STEPS
    assert row["images_per_second"] > BATCH
    assert 0 < row["attack_share"] < 1
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000008", "step-00000012"]
    assert (tmp_path / "metrics.jsonl").is_file()
    assert list((tmp_path / "tensorboard").iterdir())


def test_other_configuration_is_refused(tmp_path):
    fit_small(tmp_path)

    with pytest.raises(UserError, match=r"`--run.workdir` holds another configur"):
        fit_small(tmp_path, digest="other")
    with pytest.raises(UserError, match=r"holds another .* at step 12, .* at step 5"):
        fit_small(tmp_path, method=make_small(), steps=5)
    with pytest.raises(UserError, match="holds another configuration"):
        fit_small(tmp_path, method=make_small(width=5))


def test_bad_loss_term_stops_with_its_name_and_nothing_is_saved(tmp_path):
    with pytest.raises(UserError) as caught:
        fit_small(tmp_path, method=make_small(bad_step=7))

    text = str(caught.value)
    assert text.startswith("Loss term `penalty` is nan after step 7;")
    assert "step-00000004. Remedies: lower the base rate" in text
    assert "--run.mixed_precision=float32" in text
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_bad_weight_is_not_saved_even_if_the_loss_is_finite(tmp_path):
    method = make_small()

    def spoil(step):
        method.top.kernel.assign(tf.fill([3, 1], np.inf))
        return {}

    with pytest.raises(UserError) as caught:
        fit_small(tmp_path, method=method, probes=[(4, spoil)])

    text = str(caught.value)
    assert "kernel:0` holds numbers that are not finite after step 4" in text
    assert "Nothing is saved yet" in text
    assert not list((tmp_path / "checkpoints").iterdir())


def test_method_without_weights_or_slots_is_refused(tmp_path):
    method = make_small()
    method.compile(optimizer=tf.keras.optimizers.Adam())

    with pytest.raises(ValueError, match=r"`method` must have all its weights and a b"):
        fit_small(tmp_path, method=method)
    with pytest.raises(ValueError, match="`steps` must be at least 1.*steps=0"):
        fit(method, None, steps=0, batch_size=1, folder=tmp_path, run=RunConfig())


def test_too_few_batches_are_noticed(tmp_path):
    short = make_batches(5)

    with pytest.raises(ValueError, match="`batches` must yield .* step 5 of 12"):
        fit_small(tmp_path, batches=short)


def test_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(UserError, match="`--run.workdir` must be a folder that can"):
        fit_small(tmp_path / "file")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": 0}, "`--run.devices` must be at least 1"),
        ({"checkpoint_steps": 0}, "`--run.checkpoint_steps` must be at least 1"),
        ({"mixed_precision": "half"}, "`--run.mixed_precision` must be one of"),
        ({"workdir": " "}, "`--run.workdir` must name a folder"),
        ({"jit_compile": True, "devices": 2}, r"`--run.jit_compile` .*devices=2"),
    ],
)
def test_wrong_run_settings_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        RunConfig(**changes)
