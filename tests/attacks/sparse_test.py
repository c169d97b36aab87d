"""Tests of kerobust.attacks.sparse and of the sparse direction under it."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import BALLS, PGD, SparsePGD
from kerobust.attacks.balls import L1Ball, sparse_direction
from tests.attacks.victims import Linear, convnet, digits

WEIGHTS = np.array([4.0, -3.0, 2.0, -1.0, 0.5], np.float32)


def change_of(attack, weights, value=0.5):
    """Returns what an attack adds to a row of grey pixels, [D]."""
    images = tf.fill([1, 1, len(weights), 1], value)
    adversarial = attack(images, tf.zeros([1]), Linear(weights))
    return (adversarial - images).numpy().ravel()


def slow_direction(gradient, count, lower, upper):
    """Returns the direction of one example, coordinate by coordinate."""
    free = [
        index
        for index, slope in enumerate(gradient)
        if (slope < 0 and lower[index] < 0) or (slope > 0 and upper[index] > 0)
    ]
    free.sort(key=lambda index: -abs(gradient[index]))
    result = np.zeros(len(gradient))
    for index in free[:count]:
        result[index] = np.sign(gradient[index]) / min(count, len(free))
    return result


@pytest.mark.parametrize(
    ("quantile", "moved"), [(0.0, 5), (0.2, 4), (0.6, 2), (0.75, 1), (0.99, 1)]
)
def test_a_step_goes_along_the_coordinates_above_the_quantile(quantile, moved):
    options = {"quantile": quantile, "steps": 1, "random_start": False}

    change = change_of(SparsePGD(0.8, step_size=0.4, **options), WEIGHTS)

    # floor(5 (1 - quantile)) of the largest |w|, at least one, share a step of 0.4.
    expected = np.zeros(5)
    expected[:moved] = np.sign(WEIGHTS[:moved]) * 0.4 / moved
    np.testing.assert_allclose(change, expected, atol=1e-6)


def test_rounding_does_not_lose_a_coordinate():
    gradient = tf.reshape(tf.range(1.0, 11.0), [1, 1, 10, 1])

    # 10 (1 - 0.8) is 1.9999999999999996 in floating point.
    direction = L1Ball(0.8).ascent_direction(gradient).numpy().ravel()

    np.testing.assert_allclose(direction, [0] * 8 + [0.5, 0.5])


def test_coordinates_that_the_box_holds_leave_their_turn_to_the_next():
    images = tf.constant([1.0, 0.0, 0.5, 0.5, 0.5], shape=[1, 1, 5, 1])
    attack = SparsePGD(0.4, quantile=0.6, steps=1, step_size=0.4, random_start=False)

    change = attack(images, tf.zeros([1]), Linear(WEIGHTS)) - images

    # 4 pulls up at 1 and -3 down at 0: the two next ones share the step.
    expected = [0, 0, 0.2, -0.2, 0]
    np.testing.assert_allclose(tf.reshape(change, [-1]), expected, atol=1e-6)


def test_steps_end_in_the_maximum_over_ball_and_box_at_once():
    # Up to 0.1 fits into each pixel, and 0.25 into the ball: the two largest weights
    # are spent entirely, the third takes the rest.
    attack = SparsePGD(0.25, quantile=0.5, steps=60, step_size=0.02)

    change = change_of(attack, np.float32([4.0, 3.0, 2.0, 1.0, 0.5]), value=0.9)

    np.testing.assert_allclose(change, [0.1, 0.1, 0.05, 0, 0], atol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 12])
def test_direction_equals_a_slow_one(count):
    generator = np.random.default_rng(count)
    gradient = generator.normal(size=[40, 12]).astype(np.float32)
    images = generator.choice([0.0, 0.4, 1.0], [40, 12]).astype(np.float32)
    shaped = [tf.reshape(a, [40, 2, 2, 3]) for a in (gradient, -images, 1 - images)]

    direction = sparse_direction(shaped[0], count, *shaped[1:])

    rows = zip(gradient, -images, 1 - images, strict=True)
    expected = [slow_direction(row, count, low, high) for row, low, high in rows]
    np.testing.assert_allclose(tf.reshape(direction, [40, 12]), expected, atol=1e-6)


def test_every_example_may_have_a_count_of_its_own():
    gradient = tf.reshape(tf.range(1.0, 25.0), [2, 2, 2, 3])
    count = tf.constant([2, 5])

    together = sparse_direction(gradient, count, most=7)

    alone = [sparse_direction(gradient[i : i + 1], [2, 5][i]) for i in range(2)]
    np.testing.assert_array_equal(together, tf.concat(alone, axis=0))
    np.testing.assert_array_equal(together, sparse_direction(gradient, count))


def test_the_default_is_pgd_in_l1():
    images, labels = digits(8)
    network = convnet()

    sparse, plain = (
        attack(3.0, steps=5, seed=0, **options)(images, labels, network)
        for attack, options in ((SparsePGD, {}), (PGD, {"norm": "l1"}))
    )

    np.testing.assert_array_equal(sparse, plain)


def test_result_lies_in_ball_and_box():
    images, labels = digits(8)
    images = np.round(images)

    attack = SparsePGD(3.0, quantile=0.9, steps=5, restarts=2, seed=0)
    adversarial, info = attack(images, labels, convnet(), return_info=True)

    assert (info.norm <= 3 * (1 + 1e-5)).numpy().all()
    assert tf.reduce_min(adversarial) >= 0 and tf.reduce_max(adversarial) <= 1
    norm = BALLS["l1"].norm(adversarial - images)
    np.testing.assert_allclose(info.norm, norm, rtol=1e-5)


def test_sparse_pgd_comes_back_from_its_config():
    attack = SparsePGD(2.0, quantile=0.8, steps=3, norm=1, name="mine", seed=2)

    packed = tf.keras.saving.serialize_keras_object(attack)
    again = tf.keras.saving.deserialize_keras_object(packed)

    assert type(again) is SparsePGD and again.get_config() == attack.get_config()
    config = again.get_config()
    assert (config["quantile"], config["norm"], config["steps"]) == (0.8, "l1", 3)


def test_a_changed_quantile_takes_effect_at_the_next_call():
    attack = SparsePGD(0.4, quantile=0.8, steps=1, step_size=0.4, random_start=False)
    first = change_of(attack, WEIGHTS)

    attack.quantile = 0.6

    assert np.count_nonzero(first) == 1
    assert np.count_nonzero(change_of(attack, WEIGHTS)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l2"}, '`norm` of SparsePGD must be "l1".*Received: norm=l2'),
        ({"quantile": 1.0}, r"`quantile` must lie in \[0, 1\).*quantile=1.0"),
        ({"quantile": -0.1}, r"`quantile` must lie in \[0, 1\).*quantile=-0.1"),
        ({"quantile": float("nan")}, "`quantile`.*quantile=nan"),
    ],
)
def test_what_it_cannot_do_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SparsePGD(1.0, **options)
