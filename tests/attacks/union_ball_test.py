"""Tests of kerobust.attacks.union_ball."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import BALLS, UnionBall
from kerobust.randomness import example_keys
from tests.attacks.balls_test import problems
from tests.attacks.victims import digits

RADII = {"linf": 0.1, "l2": 0.25, "l1": 0.6}
ORDERS = {"linf": np.inf, "l2": 2, "l1": 1}


def test_norm_is_the_smallest_of_the_members_over_their_radii():
    change = tf.constant(
        [[0.3, 0, 0, 0], [0.1, 0.1, 0.1, -0.1], [0.2, 0.2, 0.0, 0.1]], tf.float32
    )

    norm = UnionBall(RADII).norm(tf.reshape(change, [3, 2, 2, 1]))

    # (3, 1.2, 0.5), (1, 0.8, 0.667) and (2, 1.2, 0.833).
    np.testing.assert_allclose(norm, [0.5, 0.4 / 0.6, 0.5 / 0.6], rtol=1e-6)


def test_projection_is_that_of_the_member_with_the_smallest_norm():
    change, epsilon, lower, upper = problems()
    ball = UnionBall(RADII)

    result = ball.project(change, epsilon, lower, upper).numpy()

    flat = change.numpy().reshape(300, -1)
    norms = [np.linalg.norm(flat, ORDERS[p], axis=1) / r for p, r in RADII.items()]
    winner = np.argmin(norms, axis=0)
    assert set(winner) == {0, 1, 2}
    for index, (norm, radius) in enumerate(RADII.items()):
        own = BALLS[norm].project(change, epsilon * radius, lower, upper).numpy()
        np.testing.assert_array_equal(result[winner == index], own[winner == index])


def test_projection_lies_in_union_and_box_leaves_what_is_inside_and_is_idempotent():
    change, epsilon, lower, upper = problems()
    ball = UnionBall(RADII)

    once = ball.project(change, epsilon, lower, upper)
    twice = ball.project(once, epsilon, lower, upper)
    inside = ball.project(once, ball.norm(once) + 1e-3, lower, upper)

    assert (ball.norm(once) <= epsilon * (1 + 1e-5) + 1e-6).numpy().all()
    assert (once >= lower).numpy().all() and (once <= upper).numpy().all()
    np.testing.assert_allclose(twice, once, atol=1e-6)
    np.testing.assert_array_equal(inside, once)


@pytest.mark.parametrize("norm", sorted(RADII))
def test_a_union_of_one_is_that_ball(norm):
    images = tf.constant(digits(20)[0])
    adversarial = images + 0.5 * tf.sign(images - 0.4)
    factor, union = tf.linspace(0.1, 2.0, 20), UnionBall({norm: RADII[norm]})
    ball, epsilon = BALLS[norm], factor * RADII[norm]
    keys = example_keys(0, 0, tf.range(20))

    confined = union.confine(adversarial, union.room(images, factor))
    draws = union.sample(keys, images.shape[1:], factor)

    expected = ball.confine(adversarial, ball.room(images, epsilon))
    np.testing.assert_array_equal(confined, expected)
    np.testing.assert_array_equal(draws, ball.sample(keys, images.shape[1:], epsilon))
    assert union.largest(64) == pytest.approx(ball.largest(64) / RADII[norm])


def test_largest_is_the_norm_of_the_change_from_black_to_white():
    ball = UnionBall(RADII)

    largest = ball.largest(12)

    assert largest == pytest.approx(float(ball.norm(tf.ones([1, 2, 2, 3]))[0]))


def test_samples_come_from_every_member_as_often():
    rows, ball = 3000, UnionBall(RADII)
    keys = example_keys(1, 0, tf.range(rows))

    draws = ball.sample(keys, [1, 1, 3], tf.fill([rows], 0.5))

    assert (ball.norm(draws) <= 0.5 * (1 + 1e-5)).numpy().all()
    same = [
        np.all(draws == member.sample(keys, [1, 1, 3], tf.fill([rows], 0.5 * radius)))
        for member, radius in ball.members
    ]
    assert not any(same)
    # Shares of draws that only one member can have made; wide balls hold narrow ones.
    flat = draws.numpy().reshape(rows, 3)
    outside = np.linalg.norm(flat, axis=1) > 0.5 * RADII["l2"]
    wide = np.abs(flat).max(axis=1) > 0.5 * RADII["linf"]
    # Outside l2 lie draws of l1 alone: of radius 0.3, those longer than 0.125.
    assert 0.05 < (outside & wide).mean() < 1 / 3


def test_direction_is_the_step_that_climbs_most():
    gradient = tf.constant([[1, 1, 1, 1], [3, 0, 0, 0], [2, 1, 0.5, 0]], tf.float32)
    ball = UnionBall({"linf": 0.1, "l2": 0.22, "l1": 0.25})

    direction = ball.ascent_direction(tf.reshape(gradient, [3, 2, 2, 1]))

    # First-order gains, radius times dual norm: (.4, .44, .25), (.3, .66, .75) and
    # (.35, .504, .5).
    longest = 0.22 / np.linalg.norm([2, 1, 0.5])
    expected = [[0.11] * 4, [0.25, 0, 0, 0], [2 * longest, longest, longest / 2, 0]]
    np.testing.assert_allclose(tf.reshape(direction, [3, 4]), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("radii", "message"),
    [
        ({}, "at least one norm.*radii={}"),
        ({"l2": 0.0}, "radius above 0.*'l2': 0.0"),
        ({"l2": 1.0, 2: 2.0}, "each once"),
        ({"linf": 8.0}, "that of linf to at most 1.*8.0"),
        ({"l2": float("inf")}, "`radii` must be at least 0 and finite"),
        ({"l3": 1.0}, "`norm` must be one of: linf, l2, l1. Received: norm=l3"),
    ],
)
def test_radii_that_make_no_union_are_refused(radii, message):
    with pytest.raises(ValueError, match=message):
        UnionBall(radii)
