"""Multipliers by hand, in closed form, and on two devices."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.distribute import strategy
from kerobust.methods.multipliers import Multipliers

DUE, NOT_DUE = tf.constant(True), tf.constant(False)
FEATURES = tf.random.stateless_normal([8, 4], [1, 2])


def make(kind="scalar", count=2, rate=0.1, weight=1.0):
    return Multipliers(kind, count, 4, width=6, rate=rate, weight=weight)


def test_a_multiplier_is_the_softplus_of_its_number():
    multipliers = make()
    multipliers.climbing[0].assign([0.0, -2.0])

    values = multipliers(FEATURES)

    expected = [np.log(2.0), np.log1p(np.exp(-2.0))]
    np.testing.assert_allclose(values, np.tile(expected, [8, 1]), rtol=1e-6)


def test_adaptive_multipliers_are_those_of_two_layers():
    multipliers = make("adaptive")
    (kernel, bias, last, shift) = (each.numpy() for each in multipliers.climbing)

    values = multipliers(FEATURES)

    raw = np.maximum(FEATURES.numpy() @ kernel + bias, 0.0) @ last + shift
    np.testing.assert_allclose(values, np.log1p(np.exp(raw)), rtol=1e-5)
    assert [each.shape for each in (kernel, last)] == [(4, 6), (6, 2)]


def test_two_steps_of_scalar_multipliers_by_hand():
    """Mean slacks 0.2 and -0.4; the gradient is sigmoid(raw) times the mean slack."""
    multipliers = make(rate=0.1)
    slacks = tf.constant([[0.1, -0.3], [0.3, -0.5]])
    raw, first, second = np.zeros(2), np.zeros(2), np.zeros(2)

    for count in (1, 2):
        multipliers.ascend(FEATURES[:2], slacks, DUE)
        gradient = np.array([0.2, -0.4]) / (1.0 + np.exp(-raw))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        root = np.sqrt(second / (1 - 0.999**count))
        raw = raw + 0.1 * first / (1 - 0.9**count) / (root + 1e-8)

        np.testing.assert_allclose(multipliers.climbing[0], raw, rtol=1e-4)


def test_an_update_that_is_not_due_changes_no_bit():
    multipliers = make("adaptive")
    multipliers.ascend(FEATURES, tf.ones([8, 2]), DUE)
    before = [each.numpy() for each in multipliers.weights]

    multipliers.ascend(FEATURES, tf.ones([8, 2]), NOT_DUE)

    for old, each in zip(before, multipliers.weights, strict=True):
        np.testing.assert_array_equal(old, each.numpy())


@pytest.mark.parametrize("kind", ["adaptive", "scalar"])
def test_multipliers_rise_where_violated_and_fall_to_zero_elsewhere(kind):
    multipliers = make(kind)
    slacks = tf.tile([[0.5, -0.5]], [8, 1])
    before = multipliers(FEATURES).numpy()

    for _ in range(150):
        multipliers.ascend(FEATURES, slacks, DUE)

    after = multipliers(FEATURES).numpy()
    assert np.all(after[:, 0] > before[:, 0] + 1.0)
    assert np.all(after[:, 1] < 0.02)


def test_adaptive_multipliers_tell_images_apart():
    multipliers = make("adaptive", count=1)
    violated = FEATURES[:, :1] > 0

    for _ in range(150):
        multipliers.ascend(FEATURES, tf.where(violated, 1.0, -1.0), DUE)

    values, mask = multipliers(FEATURES).numpy()[:, 0], violated.numpy()[:, 0]
    assert values[mask].min() > values[~mask].max()


def test_fixed_multipliers_are_the_weight_and_never_move():
    multipliers = make("fixed", weight=3.0)

    multipliers.ascend(FEATURES, tf.ones([8, 2]), DUE)

    np.testing.assert_array_equal(multipliers(FEATURES), np.full([8, 2], 3.0))


def test_two_devices_make_the_step_of_one():
    def weights(devices):
        with strategy(devices).scope():
            tf.keras.utils.set_random_seed(0)
            multipliers = make("adaptive")
        slacks = tf.random.stateless_normal([8, 2], [3, 4])

        def step():
            context = tf.distribute.get_replica_context()
            index = context.replica_id_in_sync_group
            own = slice(index * 8 // devices, (index + 1) * 8 // devices)
            multipliers.ascend(FEATURES[own], slacks[own], DUE)

        for _ in range(3):
            tf.function(strategy(devices).run, autograph=False)(step)
        return [each.numpy() for each in multipliers.weights]

    for one, two in zip(weights(1), weights(2), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
