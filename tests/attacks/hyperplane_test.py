"""Tests of kerobust.attacks.hyperplane."""

import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf

from kerobust.attacks.balls import BALLS
from kerobust.attacks.hyperplane import dual_norm, to_hyperplane
from tests.attacks.victims import golden

NORMS = sorted(BALLS)
ORDERS = {"linf": np.inf, "l2": 2, "l1": 1}
DUAL_ORDERS = {"linf": 1, "l2": 2, "l1": np.inf}


def problems(rows=80, size=12, seed=0):
    """Returns points, normals and offsets, many degenerate; a plane in 8 misses."""
    generator = np.random.default_rng(seed)
    points = generator.uniform(0, 1, [rows, size])
    points[::3] = np.round(points[::3])  # On the border of the box.
    normals = generator.normal(size=[rows, size])
    normals[1::4] = np.round(normals[1::4])  # Ties and zeros.
    normals[:, 0] += 0.5  # None is zero everywhere.
    inside = generator.uniform(0, 1, [rows, size])
    inside[::8] = np.where(normals[::8] > 0, 1.5, -0.5)
    points, normals, inside = (np.float32(a) for a in (points, normals, inside))
    return points, normals, np.float32((normals * inside).sum(axis=1))


def total_gain(points, normals, offsets):
    """Returns what is missing, and at most to gain per pixel, float64."""
    points, normals = np.float64(points), np.float64(normals)
    excess = (normals * points).sum(axis=1) - offsets
    towards = -np.sign(excess)[:, np.newaxis] * np.sign(normals)
    room = np.where(towards > 0, 1 - points, np.where(towards < 0, points, 0))
    return excess, towards, room


def slow_linear_program(norm, point, normal, offset):
    """Returns the smallest l1 or linf norm of a change that leads to the plane."""
    size = len(point)
    # Unknowns: rises, falls and, for linf, the bound on both.
    bounds = [(0, 1 - p) for p in point] + [(0, p) for p in point]
    costs, rows = np.ones(2 * size), {}
    plane = [*normal, *-normal]
    if norm == "linf":
        bounds, plane = [*bounds, (0, None)], [*plane, 0]
        costs = np.eye(2 * size + 1)[-1]
        below = np.concatenate([np.eye(2 * size), -np.ones([2 * size, 1])], axis=1)
        rows = {"A_ub": below, "b_ub": np.zeros(2 * size)}
    equals = [offset - normal @ point]
    found = scipy.optimize.linprog(
        costs, A_eq=[plane], b_eq=equals, bounds=bounds, **rows
    )
    return found.fun if found.success else None


def slow_bisection(norm, points, normals, offsets):
    """Returns changes min(level weight, room) with the level found by halving."""
    excess, towards, room = total_gain(points, normals, offsets)
    slope = np.abs(np.float64(normals))
    weight = slope if norm == "l2" else np.ones_like(slope)
    low, high = np.zeros([len(points), 1]), np.full([len(points), 1], 1e4)
    for _ in range(200):
        middle = (low + high) / 2
        gain = (slope * np.minimum(middle * weight, room)).sum(axis=1, keepdims=True)
        enough = gain >= np.abs(excess)[:, np.newaxis]
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return towards * np.minimum(high * weight, room)


@pytest.mark.parametrize("norm", NORMS)
def test_agrees_with_the_original_of_autoattack(norm):
    suite = golden("attacks_suite")
    given = [tf.constant(suite[f"fabproj_{name}"]) for name in ("points", "w", "b")]

    result = to_hyperplane(norm, *given)

    # Planes of rows 0 to 3 miss the box.
    np.testing.assert_allclose(result, suite[f"fabproj_delta_{norm}"], atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_result_lies_in_the_box_and_on_the_plane_that_meets_it(norm):
    points, normals, offsets = problems()

    result = points + to_hyperplane(norm, points, normals, offsets).numpy()

    assert result.min() >= -1e-6 and result.max() <= 1 + 1e-6
    meets = np.arange(80) % 8 != 0
    off = np.abs((normals * result).sum(axis=1) - offsets)
    np.testing.assert_allclose(off[meets], 0, atol=2e-6)
    assert (off[~meets] > 0.1).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_plane_that_misses_the_box_leads_to_the_closest_corner(norm):
    points, normals, offsets = (each[::8] for each in problems())

    result = points + to_hyperplane(norm, points, normals, offsets).numpy()

    # Beyond (1.5, -0.5, ...) the closest value has the corner where normal . z is most.
    corner = np.where(normals > 0, 1, np.where(normals < 0, 0, points))
    np.testing.assert_allclose(result, corner, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_norm_is_the_optimum_of_the_linear_program(norm):
    points, normals, offsets = problems()

    result = to_hyperplane(norm, points, normals, offsets)

    sizes = BALLS[norm].norm(result).numpy()
    solved = 0
    for size, *row in zip(sizes, points, normals, offsets, strict=True):
        expected = slow_linear_program(norm, *(np.float64(each) for each in row))
        if expected is not None:
            np.testing.assert_allclose(size, expected, rtol=1e-4, atol=1e-6)
            solved += 1
    assert solved == 70


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("size", [12, 3072])
def test_change_equals_a_slow_bisection_even_in_high_dimension(norm, size):
    points, normals, offsets = problems(rows=80 if size == 12 else 8, size=size, seed=1)

    result = to_hyperplane(norm, points, normals, offsets)

    # The optimum has sizes min(level weight, room) by its optimality conditions.
    expected = slow_bisection(norm, points, normals, offsets)
    np.testing.assert_allclose(result, expected, atol=2e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_the_plane_is_met_in_high_dimension_when_it_is_close(norm):
    generator = np.random.default_rng(0)
    points = np.float32(generator.uniform(size=[4, 3072]))
    normals = np.float32(generator.normal(size=[4, 3072]) + 1)
    missing = np.array([1e-4, -1e-4, 1e-2, 1.0])
    heights = (np.float64(normals) * points).sum(axis=1)  # About 1500.

    change = to_hyperplane(norm, points, normals, heights + missing).numpy()

    # In float32 the sums of 3072 numbers would be off by more than 1e-4.
    found = (np.float64(normals) * change).sum(axis=1)
    np.testing.assert_allclose(found, missing, rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_far_from_the_border_the_distance_is_excess_over_dual_norm(norm):
    points = tf.fill([2, 4], 0.5)
    normals = np.float32([[1, -2, 0, 3], [1, -2, 0, 3]])
    excess = np.float32([0.3, -0.6])

    change = to_hyperplane(norm, points, normals, 1.0 - excess).numpy()

    # normal . point = 1. Steepest descent: sign, normal or the steepest pixel alone.
    way = {"linf": [1, -1, 0, 1], "l2": [1, -2, 0, 3], "l1": [0, 0, 0, 1]}[norm]
    way = np.array(way) / np.linalg.norm(way, ORDERS[norm])
    length = excess / np.linalg.norm([1, -2, 0, 3], DUAL_ORDERS[norm])
    np.testing.assert_allclose(change, -np.outer(length, way), atol=1e-6)


def test_pixels_that_run_out_of_room_leave_the_rest_to_the_others():
    points = np.float32([[0.9, 0.5, 0.5]])
    normals, offset = np.float32([[2, 1, 1]]), [2.8 + 0.5]

    changes = {norm: to_hyperplane(norm, points, normals, offset) for norm in NORMS}

    # normal . point = 2.8: 0.5 is missing. The first pixel gives 2 * 0.1 = 0.2 of it in
    # every norm, the other two 0.3: equal parts, or for l1 shared by equal room.
    for change in changes.values():
        np.testing.assert_allclose(change, [[0.1, 0.15, 0.15]], atol=1e-6)


def test_equal_slopes_share_an_l1_change_in_proportion_to_their_room():
    points, normals = np.float32([[0.9, 0.7, 0.0]]), np.float32([[1, 1, 0.5]])

    change = to_hyperplane("l1", points, normals, [1.6 + 0.2])

    # 0.2 of a room of 0.1 + 0.3: half of each.
    np.testing.assert_allclose(change, [[0.05, 0.15, 0]], atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e20])
@pytest.mark.parametrize("norm", NORMS)
def test_scale_of_the_normals_does_not_matter(norm, scale):
    points, normals, offsets = problems()
    scaled, bounds = normals * np.float32(scale), np.float64(offsets) * scale

    result = to_hyperplane(norm, points, scaled, bounds)

    # Rounding may break ties of l1 otherwise: compare sizes.
    expected = BALLS[norm].norm(to_hyperplane(norm, points, normals, offsets))
    np.testing.assert_allclose(BALLS[norm].norm(result), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_nothing_moves_without_slope_or_on_the_plane(norm):
    points = np.float32([[0.25, 0.5], [0.25, 0.5]])
    normals = np.float32([[0, 0], [2, 1]])

    result = to_hyperplane(norm, points, normals, [3.0, 1.0])

    np.testing.assert_array_equal(result, 0)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("norm", NORMS)
def test_dual_norm_is_that_of_numpy_at_any_scale(norm, scale):
    normals = np.random.default_rng(0).normal(size=[5, 2, 2, 3]) * scale

    result = dual_norm(norm, tf.constant(normals, tf.float32))

    expected = np.linalg.norm(normals.reshape(5, -1), DUAL_ORDERS[norm], axis=1)
    np.testing.assert_allclose(result, expected, rtol=1e-5)
    np.testing.assert_array_equal(dual_norm(norm, tf.zeros([2, 3])), 0)
