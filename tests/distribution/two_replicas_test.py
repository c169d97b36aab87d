"""The same update on one device and on two, at once and in parts, for every method."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.distribute import replica_index
from kerobust.methods import base
from tests.distribution.updates import (
    NAMES,
    weights_after_two_steps,
    weights_on_one_device,
)

# What the others do differently is little: they are slow rows.
ROWS = [
    pytest.param(name, marks=[pytest.mark.slow] * (name != "natural")) for name in NAMES
]


@pytest.mark.parametrize("name", ROWS)
def test_two_devices_make_the_update_of_one(name):
    one = weights_on_one_device(name)
    two = weights_after_two_steps(name, 2)

    for first, second in zip(one, two, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ROWS)
def test_parts_of_a_batch_make_the_update_of_the_batch(name):
    whole = weights_on_one_device(name)
    parts = weights_after_two_steps(name, accumulation_steps=2)

    for first, second in zip(whole, parts, strict=True):
        scale = max(1.0, np.abs(first).max())  # Sums of other order: rounding alone.
        np.testing.assert_allclose(first, second, rtol=1e-6, atol=1e-6 * scale)


def test_scaled_losses_add_up_in_parts():
    whole = weights_on_one_device("natural")
    parts = weights_after_two_steps(
        "natural",
        accumulation_steps=2,
        wrap=tf.keras.mixed_precision.LossScaleOptimizer,
    )

    for first, second in zip(whole, parts, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)


def test_only_the_first_replica_reads_the_clock(monkeypatch):
    # Operations with side effects run in order: replicas would wait for each other.
    seen, timed = set(), base._timed

    def noted(*given):
        seen.add(replica_index())
        return timed(*given)

    monkeypatch.setattr(base, "_timed", noted)
    weights_after_two_steps("natural", 2)

    assert seen == {0}
