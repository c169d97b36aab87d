"""Tests of kerobust.attacks.balls."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks.balls import BALLS, canonical_norm
from kerobust.randomness import example_keys
from tests.attacks.victims import golden

NORMS = sorted(BALLS)
ORDERS = {"linf": np.inf, "l2": 2, "l1": 1}


def problems(rows=300, size=12, seed=0):
    """Returns perturbations, radii and room to the box, many of them degenerate."""
    generator = np.random.default_rng(seed)
    images = generator.uniform(0, 1, [rows, size])
    images[::3] = np.round(images[::3])  # On the border of the box.
    images[1::5] = np.round(images[1::5] * 4) / 4  # Ties.
    scale = generator.choice([0.01, 0.3, 3.0], [rows, 1])
    change = generator.normal(size=[rows, size]) * scale
    change[1::5] = np.round(change[1::5] * 4) / 4
    change[2::7] = 0
    epsilon = generator.choice([0.0, 1e-3, 0.1, 0.5, 2.0, 50.0], rows)
    shape = [rows, 2, 2, size // 4]
    given = (change.reshape(shape), epsilon, -images.reshape(shape))
    return [tf.constant(a, tf.float32) for a in (*given, 1 - images.reshape(shape))]


def slow_l1_box(change, epsilon, lower, upper):
    """Returns the Euclidean projection by bisection on its threshold, one example."""
    size, room = np.abs(change), np.where(change < 0, -lower, upper)
    low, high = 0.0, size.max() + 1.0
    if np.minimum(size, room).sum() > epsilon:
        for _ in range(100):
            middle = (low + high) / 2
            total = np.clip(size - middle, 0, room).sum()
            low, high = (middle, high) if total > epsilon else (low, middle)
    return np.sign(change) * np.clip(size - low, 0, room)


@pytest.mark.parametrize("norm", NORMS)
def test_norm_is_that_of_numpy_per_example(norm):
    change = problems()[0]

    result = BALLS[norm].norm(change)

    expected = np.linalg.norm(change.numpy().reshape(300, -1), ORDERS[norm], axis=1)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("norm", NORMS)
def test_projection_lies_in_ball_and_box(norm):
    change, epsilon, lower, upper = problems()

    result = BALLS[norm].project(change, epsilon, lower, upper)

    assert np.isfinite(result).all()
    size = BALLS[norm].norm(result).numpy()
    assert (size <= epsilon.numpy() * (1 + 1e-5) + 1e-7).all()
    assert (result >= lower).numpy().all() and (result <= upper).numpy().all()


@pytest.mark.parametrize("norm", NORMS)
def test_projection_leaves_what_is_inside_and_is_idempotent(norm):
    change, epsilon, lower, upper = problems()
    ball = BALLS[norm]

    once = ball.project(change, epsilon, lower, upper)
    twice = ball.project(once, epsilon, lower, upper)
    inside = ball.project(once, ball.norm(once) + 1e-3, lower, upper)

    np.testing.assert_allclose(twice, once, atol=1e-6)
    np.testing.assert_array_equal(inside, once)


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_projection_is_no_farther_than_any_other_point_of_the_intersection(norm):
    change, epsilon, lower, upper = problems(rows=100)
    ball = BALLS[norm]
    projected = ball.project(change, epsilon, lower, upper).numpy()
    distance = np.square(projected - change).sum(axis=(1, 2, 3))

    # Rivals: samples of the ball cut to the box, and points pulled towards them.
    for seed in range(20):
        rival = ball.sample(example_keys(seed, 0, tf.range(100)), [2, 2, 3], epsilon)
        rival = np.clip(rival, lower, upper)
        for weight in (1.0, 0.1, 0.01):
            mixed = projected + weight * (rival - projected)
            other = np.square(mixed - change).sum(axis=(1, 2, 3))
            assert (distance <= other + 1e-5).all()


def test_l1_projection_equals_a_slow_bisection():
    change, epsilon, lower, upper = problems()

    result = BALLS["l1"].project(change, epsilon, lower, upper)

    rows = zip(
        change.numpy(), epsilon.numpy(), lower.numpy(), upper.numpy(), strict=True
    )
    expected = np.stack([slow_l1_box(*row) for row in rows])
    np.testing.assert_allclose(result, expected, atol=2e-6)


def test_l1_projection_onto_a_flat_piece_of_the_sum():
    # Two pixels have no room: any threshold in [0.2, 1] gives the sum 0.5 exactly.
    change = tf.constant([1.5, 1.5, 0.2, 0.2], shape=[1, 2, 2, 1])
    upper = tf.constant([0.25, 0.25, 1.0, 1.0], shape=[1, 2, 2, 1])

    result = BALLS["l1"].project(change, tf.constant([0.5]), -upper, upper)

    np.testing.assert_allclose(tf.reshape(result, [-1]), [0.25, 0.25, 0, 0], atol=1e-7)


def test_l1_projection_in_high_dimension_uses_the_whole_radius():
    generator = np.random.default_rng(0)
    change = generator.normal(size=[2, 100, 100, 3]).astype(np.float32)
    epsilon = tf.constant([12.0, 300.0])

    result = BALLS["l1"].project(
        tf.constant(change), epsilon, -tf.ones(change.shape), 1.0
    )

    np.testing.assert_allclose(BALLS["l1"].norm(result), epsilon, rtol=1e-5)


@pytest.mark.parametrize("epsilon", ["0.5", "2.0", "6.0"])
def test_l1_projection_agrees_with_the_original_of_autoattack(epsilon):
    reference = golden("attacks_reference")
    center, change = (reference[f"l1ball_{name}"] for name in ("center", "pert"))
    shape = [64, 2, 3, 4]
    given = [tf.constant(a.reshape(shape)) for a in (change, -center, 1 - center)]

    result = BALLS["l1"].project(given[0], tf.fill([64], float(epsilon)), *given[1:])

    # The original returns what must be added to the perturbation.
    expected = change + reference[f"l1ball_delta_eps{epsilon}"]
    np.testing.assert_allclose(tf.reshape(result, [64, 24]), expected, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_samples_fill_the_ball_uniformly(norm):
    rows, epsilon = 4000, 0.5
    keys = example_keys(3, 0, tf.range(rows))

    draws = BALLS[norm].sample(keys, [1, 1, 3], tf.fill([rows], epsilon))

    # The norm of a uniform point of a 3-dimensional ball of radius r has law (t/r)^3.
    sizes = np.sort(BALLS[norm].norm(draws).numpy() / epsilon)
    assert sizes[-1] <= 1 + 1e-6
    law = np.arange(1, rows + 1) / rows
    assert np.abs(sizes**3 - law).max() < 0.03  # Kolmogorov-Smirnov, p < 0.001.
    np.testing.assert_allclose(draws.numpy().mean(axis=0), 0, atol=0.02)
    positive = (draws.numpy() > 0).mean(axis=0)
    np.testing.assert_allclose(positive, 0.5, atol=0.04)


@pytest.mark.parametrize("norm", NORMS)
def test_ascent_direction_has_unit_norm_and_climbs(norm):
    gradient = tf.constant(
        np.random.default_rng(0).normal(size=[5, 4, 4, 3]), tf.float32
    )

    direction = BALLS[norm].ascent_direction(gradient)

    np.testing.assert_allclose(BALLS[norm].norm(direction), 1.0, rtol=1e-5)
    assert (tf.reduce_sum(gradient * direction, axis=[1, 2, 3]) > 0).numpy().all()


@pytest.mark.parametrize("norm", NORMS)
def test_zero_gradient_gives_zero_direction(norm):
    direction = BALLS[norm].ascent_direction(tf.zeros([2, 2, 2, 1]))

    np.testing.assert_array_equal(direction, 0)


@pytest.mark.parametrize("scale", [1e-37, 1e-25, 1e-8, 1.0, 1e30])
def test_l2_direction_does_not_depend_on_the_scale_of_the_gradient(scale):
    gradient = tf.constant([3.0, 4.0], shape=[1, 1, 2, 1]) * scale

    direction = BALLS["l2"].ascent_direction(gradient)

    # (3, 4) / 5; squaring 1e-25 in float32 would give 0.
    np.testing.assert_allclose(tf.reshape(direction, [-1]), [0.6, 0.8], rtol=1e-5)


def test_l1_direction_spends_the_step_on_the_largest_percent():
    gradient = np.arange(1.0, 301.0, dtype=np.float32).reshape(1, 10, 10, 3)

    direction = BALLS["l1"].ascent_direction(tf.constant(-gradient)).numpy().ravel()

    # 1 % of 300 coordinates: the last three, a third of the step each.
    np.testing.assert_allclose(direction[-3:], -1 / 3)
    assert (direction[:-3] == 0).all()


def test_l1_direction_skips_coordinates_that_the_box_holds():
    gradient = tf.constant([5.0, -4.0, 3.0, -2.0], shape=[1, 2, 2, 1])
    image = tf.constant([1.0, 0.0, 0.4, 0.4], shape=[1, 2, 2, 1])

    direction = BALLS["l1"].ascent_direction(gradient, -image, 1 - image)

    np.testing.assert_array_equal(tf.reshape(direction, [-1]), [0, 0, 1, 0])


@pytest.mark.parametrize(
    ("given", "name"),
    [
        *((word, "linf") for word in ("linf", "Linf", "inf", "l_inf", np.inf)),
        *((word, "l2") for word in ("l2", "L2", "2", 2, 2.0)),
        *((word, "l1") for word in ("l1", "L1", 1, np.int64(1))),
    ],
)
def test_norms_have_the_names_that_people_use(given, name):
    assert canonical_norm(given) == name


def test_an_unknown_norm_lists_the_known_ones():
    message = (
        r'`norm` must be one of: linf, l2, l1. Received: norm=lnf. Did you mean "li'
    )
    with pytest.raises(ValueError, match=message):
        canonical_norm("lnf")
