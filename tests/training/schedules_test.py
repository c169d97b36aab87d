"""Tests of the schedules against closed forms and the papers' values."""

import hashlib
import json
import math
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from kerobust.config import UserError
from kerobust.training.schedules import PerEpoch, Ramp, WarmupCosine, scaled_rate

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
GOLDEN = GOLDENS / "mimir_dense_diffattack.json"
SHA256 = "841065bda02673aec62e78177271a9bada832a636becb22b2c3095e0270b9c5e"


@pytest.fixture(scope="module")
def expected():
    data = GOLDEN.read_bytes()
    assert hashlib.sha256(data).hexdigest() == SHA256
    return json.loads(data)["checks"]["schedules"]["expected"]


def pretraining() -> WarmupCosine:
    # MIMIR on CIFAR-10 in epochs: batch 512, 40 of 800 epochs of warm-up.
    return WarmupCosine(scaled_rate(1.5e-4, 512), 40, 800)


@pytest.mark.parametrize("epoch", ["0.5", "40", "420"])
def test_pretraining_rate_is_that_of_the_reference(expected, epoch):
    rate = pretraining()(float(epoch))

    assert float(rate) == pytest.approx(expected[f"lr_e{epoch}"], rel=1e-6)


def test_fine_tuning_rate_starting_above_zero_is_that_of_the_reference(expected):
    rate = WarmupCosine(1e-3, 20, 300, final=5e-6, initial=1e-7)

    first = expected["apgd_ft_lr_epoch0(base1e-3,peak20)"]
    middle = expected["apgd_ft_lr_epoch160(E300)"]
    assert float(rate(0)) == pytest.approx(first, rel=1e-6)
    assert float(rate(160)) == pytest.approx(middle, rel=1e-6)


def test_rate_is_scaled_linearly_by_the_batch_size(expected):
    assert scaled_rate(1.5e-4, 512) == expected["pretrain_lr_c10(blr1.5e-4,bs512)"]
    assert scaled_rate(1.5e-4, 2048) == expected["pretrain_lr_in1k(bs2048)"]
    assert scaled_rate(0.05, 128) == expected["ft_lr_c10(blr0.05,bs128)"]


def test_warm_up_starts_at_exactly_zero_and_is_linear():
    rate = WarmupCosine(0.8, 4, 10)

    assert [float(rate(step)) for step in range(4)] == pytest.approx(
        [0.0, 0.2, 0.4, 0.6], rel=1e-6
    )
    assert float(rate(0)) == 0.0


def test_cosine_ends_at_the_final_rate_and_stays_there():
    rate = WarmupCosine(1.0, 0, 8, final=0.25)

    assert float(rate(0)) == 1.0
    # A quarter of the way, the cosine has come (1 - cos(pi / 4)) / 2 of the way.
    quarter = 0.25 + 0.75 * (1 + math.cos(math.pi / 4)) / 2
    assert float(rate(2)) == pytest.approx(quarter, rel=1e-6)
    assert float(rate(8)) == float(rate(100)) == 0.25


def test_warm_up_may_last_the_whole_training():
    rate = WarmupCosine(1.0, 4, 4)

    assert [float(rate(step)) for step in range(4)] == [0.0, 0.25, 0.5, 0.75]


def test_compiled_rate_of_a_whole_step_equals_the_eager_one():
    rate = WarmupCosine(0.3, 5, 50, final=0.01)
    compiled = tf.function(rate)

    for step in (0, 3, 5, 17, 50):
        step = tf.constant(step, tf.int64)
        assert float(compiled(step)) == pytest.approx(float(rate(step)), rel=1e-6)


@pytest.mark.parametrize("schedule", [WarmupCosine(0.1, 3, 9, 0.01, 0.001), Ramp(7)])
def test_schedules_survive_serialisation(schedule):
    config = keras.optimizers.schedules.serialize(schedule)

    copy = keras.optimizers.schedules.deserialize(config)

    assert type(copy) is type(schedule)
    assert copy.get_config() == schedule.get_config()


def test_ramp_rises_from_zero_to_one():
    ramp = Ramp(4)

    assert [float(ramp(step)) for step in (0, 1, 2, 4, 9)] == [0, 0.25, 0.5, 1, 1]
    assert float(Ramp(0)(0)) == 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WarmupCosine(-1.0, 0, 1), "`peak` must be at least 0.*peak=-1.0"),
        (lambda: WarmupCosine(1.0, 0, 0), "`total_steps` must be at least 1.*steps=0"),
        (lambda: WarmupCosine(1.0, 5, 4), "`warmup_steps` must not.*=5, total_steps=4"),
        (lambda: Ramp(-1), "`steps` must be at least 0.*steps=-1"),
    ],
)
def test_arguments_out_of_range_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_rates_and_decays_of_dino_are_its_tables():
    # Its code: linspace(0, peak, warm-up) then f + (b - f) / 2 (1 + cos(pi i / n)).
    warm, total = 5, 20
    rate = WarmupCosine(2e-3, warm, total, final=1e-6, inclusive=True)
    decay = WarmupCosine(0.04, 0, total, final=0.4)

    index = np.arange(total - warm)
    cosine = 1e-6 + 0.5 * (2e-3 - 1e-6) * (1 + np.cos(np.pi * index / (total - warm)))
    expected = np.concatenate([np.linspace(0, 2e-3, warm), cosine])
    np.testing.assert_allclose([rate(i) for i in range(total)], expected, rtol=1e-5)
    index = np.arange(total)
    expected = 0.4 + 0.5 * (0.04 - 0.4) * (1 + np.cos(np.pi * index / total))
    np.testing.assert_allclose([decay(i) for i in range(total)], expected, rtol=1e-5)


def test_rates_of_deacl_change_by_the_epoch():
    # Linear from 0.003, the base reached in epoch 9, held in epoch 10, 0 at epoch 100.
    rate = PerEpoch(WarmupCosine(0.5, 10, 100, 0.0, 0.003, inclusive=True), 195)

    found = [float(rate(epoch * 195 + step)) for epoch, step in RATE_STEPS]

    slope = (0.5 - 0.003) / 9
    half = 0.25 * (1 + math.cos(math.pi * 45 / 90))
    expected = [0.003, 0.003, 0.003 + slope, 0.5, 0.5, half]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


RATE_STEPS = [(0, 0), (0, 194), (1, 0), (9, 194), (10, 7), (55, 100)]


def test_a_schedule_by_the_epoch_survives_serialisation():
    rate = PerEpoch(WarmupCosine(0.5, 10, 100, inclusive=True), 7)

    copy = keras.optimizers.schedules.deserialize(
        keras.optimizers.schedules.serialize(rate)
    )

    assert copy.get_config() == rate.get_config()
    assert float(copy(200)) == float(rate(200))
