"""Windows of Square: sizes, places, patterns, and what a start and a query do there."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import BALLS
from kerobust.attacks.square import Square
from kerobust.attacks.windows import (
    BLOCK,
    Query,
    Windows,
    pyramids,
    tiles,
    window_shares,
    window_sides,
)
from kerobust.randomness import example_keys
from tests.attacks.victims import golden

NORMS = ["l1", "l2", "linf"]


def keys_of(count):
    return example_keys(0, 0, tf.range(count))


@pytest.mark.parametrize("rescale", [0, 1])
def test_the_schedule_is_the_originals(rescale):
    reference = golden("attacks_suite")
    # Without rescaling the goldens go on to query 9999; with it, they are for 5000.
    queries = 5000 if rescale else 10_000
    known = reference["square_it"] < queries

    shares = window_shares(queries, 0.8, bool(rescale))

    expected = reference[f"square_p_resc{rescale}"][known]
    np.testing.assert_allclose(
        shares[reference["square_it"][known]], expected, atol=1e-5
    )


@pytest.mark.parametrize("norm", ["L2", "L1"])
@pytest.mark.parametrize("side", [1, 2, 3, 5, 7, 8, 9])
def test_the_patterns_are_the_originals(norm, side):
    expected = golden("attacks_suite")[f"square_eta_{norm}_s{side}_untransposed"]

    pattern = pyramids(side, norm.lower())

    np.testing.assert_allclose(pattern, expected, atol=1e-5)


def test_sides_of_windows_on_cifar_images():
    shares = np.array([0.8, 0.4, 0.00625])

    found = {norm: window_sides(shares, 32, 32, norm).tolist() for norm in NORMS}

    # sqrt(1024 p) = 28.6, 20.2, 2.53; in l2 and l1 at least 3 and odd.
    assert found == {"linf": [29, 20, 3], "l2": [29, 21, 3], "l1": [29, 21, 3]}


def test_no_window_is_larger_than_the_image_or_empty():
    shares = window_shares(10_000, 1.0, False)

    for norm in NORMS:
        for height, width in ((1, 1), (1, 9), (2, 3), (4, 20)):
            sides = window_sides(shares, height, width, norm)

            # sqrt(20 / 4) > 1: a window as large as the image in pixels is too high.
            assert sides[0] == min(height, width) and sides.min() >= 1


@pytest.mark.parametrize("norm", NORMS)
def test_corners_are_uniform_over_all_positions(norm):
    # 7 x 9 pixels, windows of side 3 (sqrt(0.15 * 63) = 3.07): 5 x 7 positions.
    windows = Windows((7, 9, 1), norm, np.full([BLOCK], 0.15))

    corners = windows.block(tf.constant(0), keys_of(400)).corners.numpy()

    corners = corners.reshape(-1, 2)
    for axis, positions in ((0, 5), (1, 7)):
        share = np.bincount(corners[:, axis]) / len(corners)
        # 25,600 draws or more: the deviation of a share is below 0.0025.
        np.testing.assert_allclose(share, np.full(positions, 1 / positions), atol=0.01)


@pytest.mark.parametrize("norm", NORMS)
def test_windows_fit_and_reach_the_border_while_their_side_shrinks(norm):
    shares = window_shares(BLOCK, 0.3, False)
    windows = Windows((20, 25, 1), norm, shares)

    corners = windows.block(tf.constant(0), keys_of(300)).corners.numpy()

    # 0.3 * 500 pixels and halves of them after queries 10 and 50: sides 12, 9, 6 in
    # linf. No window leaves the image; of 300 some touch its end.
    sides = window_sides(shares, 20, 25, norm)
    assert len(set(sides)) == 3
    ends = (corners + sides[:, None, None]).max(axis=(0, 2))
    np.testing.assert_array_equal(ends, np.tile([20, 25], [BLOCK, 1]))
    np.testing.assert_array_equal(corners.min(axis=(0, 2)), np.zeros([BLOCK, 2]))


def test_compat_never_draws_the_last_position():
    windows = Windows((7, 9, 1), "l2", np.full([BLOCK], 0.15), whole=False)

    corners = windows.block(tf.constant(0), keys_of(400)).corners.numpy()

    np.testing.assert_array_equal(corners.max(axis=(0, 1, 2)), [3, 5])


def test_queries_and_examples_and_blocks_draw_apart():
    windows = Windows((40, 40, 3), "l1", window_shares(200, 0.1, False))
    keys = keys_of(3)

    blocks = [windows.block(tf.constant(BLOCK * n), keys) for n in (0, 1)]

    assert blocks[0].corners.shape == [3, BLOCK, 2, 2]
    draws = np.concatenate([block.corners.numpy().reshape(-1, 4) for block in blocks])
    # 6 * 64 quadruples out of 28^4 or more: hardly any two are equal.
    assert len(np.unique(draws, axis=0)) > 0.99 * len(draws)
    coins = [block.up.numpy().mean() for block in blocks]
    np.testing.assert_allclose(coins, [0.5, 0.5], atol=0.1)
    assert 0.3 < blocks[0].turned.numpy().mean() < 0.7


@pytest.mark.parametrize("index", [0, 10, 11, 300])
def test_masks_and_patterns_are_the_slices_of_numpy(index):
    windows = Windows((9, 12, 2), "l2", window_shares(400, 0.8, False))
    side = window_sides(window_shares(400, 0.8, False), 9, 12, "l2")[index]
    corner, turned = [[0, 9 - side], [9 - side, 12 - side]], [False, True]

    inside = windows.inside(tf.constant(index), tf.constant(corner)).numpy()
    corners = tf.constant(corner), tf.constant(turned)
    pattern = windows.pattern(tf.constant(index), *corners).numpy()

    for row, (top, left) in enumerate(corner):
        where = slice(top, top + side), slice(left, left + side)
        mask, expected = np.zeros([9, 12], bool), np.zeros([9, 12])
        mask[where] = True
        expected[where] = (
            pyramids(side, "l2").T if turned[row] else pyramids(side, "l2")
        )
        np.testing.assert_array_equal(inside[row, ..., 0], mask)
        np.testing.assert_allclose(pattern[row, ..., 0], expected, atol=1e-7)


def test_tiles_are_unit_pyramids_with_signs_and_directions_of_their_own():
    pattern = tiles(keys_of(20), (30, 30, 2), "l2").numpy()

    tile = pattern.reshape(20, 5, 6, 5, 6, 2).transpose(0, 1, 3, 5, 2, 4)
    tile = tile.reshape(-1, 6, 6)
    known = pyramids(6, "l2")
    kinds = np.stack([known, -known, known.T, -known.T])
    near = np.abs(tile[:, None] - kinds).max(axis=(2, 3)) < 1e-6
    # 1000 tiles of four equally likely kinds: the deviation of a share is 0.014.
    np.testing.assert_allclose(near.mean(axis=0), np.full(4, 0.25), atol=0.06)
    assert (near.sum(axis=1) == 1).all()


@pytest.mark.parametrize(
    ("side", "covered"), [(8, slice(1, 8)), (28, slice(1, 26)), (32, slice(1, 31))]
)
def test_compat_leaves_the_border_that_the_original_leaves(side, covered):
    pattern = tiles(keys_of(2), (side, side, 1), "l2", whole=False).numpy()

    # H // (H // 5) tiles of side H // 5 from (H - 5 (H // 5)) // 2 on.
    expected = np.zeros([2, side, side, 1], bool)
    expected[:, covered, covered] = True
    np.testing.assert_array_equal(pattern != 0, expected)


# One query against its description in words.


def slices(change, epsilon, side, query, norm):
    """Returns the change [H, W, C] after a query, before box and l1 ball."""
    power = 2 if norm == "l2" else 1
    channels = change.shape[2]

    def size(values):
        return (np.abs(values) ** power).sum() ** (1 / power)

    (top, left), (top2, left2) = query.corners.numpy()[0]
    first = slice(top, top + side), slice(left, left + side)
    second = slice(top2, top2 + side), slice(left2, left2 + side)
    unused = max(epsilon**power - size(change) ** power, 0) / channels
    result = change.copy()
    result[second] = 0
    for channel in range(channels):
        old = change[first][..., channel]
        either = change[..., channel].copy()
        outside = np.ones(either.shape, bool)
        outside[first] = outside[second] = False
        either[outside] = 0
        pattern = pyramids(side, norm)
        pattern = pattern.T if query.turned.numpy()[0, 0] else pattern
        pattern = pattern * (1 if query.up.numpy()[0, channel] else -1)
        pattern = pattern + old / max(size(old), 1e-12)
        budget = (unused + size(either) ** power) ** (1 / power)
        budget *= channels if norm == "l1" else 1
        result[first][..., channel] = pattern / size(pattern) * budget
    return result * epsilon / size(result) if norm == "l2" else result


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("second", [(0, 4), (3, 2)], ids=["apart", "overlapping"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_query_moves_the_change_as_the_papers_say(norm, second, turned):
    generator = np.random.default_rng(0)
    images = np.full([1, 7, 9, 3], 0.5, np.float32)
    change = generator.normal(size=[7, 9, 3])
    change *= 0.3 / {"l2": np.linalg.norm(change), "l1": np.abs(change).sum()}[norm]
    epsilon = tf.constant([0.4])
    query = Query(
        tf.constant([[[2, 1], second]]),
        tf.constant([[True, False, True]]),
        tf.constant([[turned]]),
    )
    attack = Square(norm=norm)
    windows = Windows((7, 9, 3), norm, np.array([0.15]))  # Side 3.

    moved = attack._move(
        windows,
        tf.constant(0),
        query,
        tf.constant(images + change, tf.float32),
        attack.ball.room(tf.constant(images), epsilon),
    )

    expected = slices(change, 0.4, 3, query, norm)
    if norm == "l1":  # Into the ball; the box is far away.
        box = tf.fill([1, 7, 9, 3], 0.5)
        inside = tf.constant(expected[None], tf.float32)
        expected = BALLS["l1"].project(inside, epsilon, -box, box)[0]
    np.testing.assert_allclose(moved[0] - images[0], expected, atol=2e-6)


def test_a_query_of_linf_sets_a_window_to_the_ends_of_the_ball():
    images = tf.fill([1, 4, 5, 2], 0.95)
    attack = Square()
    windows = Windows((4, 5, 2), "linf", np.array([0.2]))  # Side 2.
    query = Query(
        tf.constant([[[1, 3]]]), tf.constant([[True, False]]), tf.zeros([1, 0], bool)
    )
    room = attack.ball.room(images, tf.constant([0.1]))

    found = attack._set(windows, tf.constant(0), query, images, room).numpy()

    expected = np.full([4, 5, 2], 0.95, np.float32)
    expected[1:3, 3:5] = 1.0, 0.85  # Up to the box, down by epsilon.
    np.testing.assert_allclose(found[0], expected, atol=1e-6)


# Starts.


@pytest.mark.parametrize("compat", [False, True])
def test_linf_starts_from_full_stripes_of_each_channel(compat):
    images = tf.fill([2, 6, 40, 3], 0.5)
    attack = Square(0.1, compat=compat)

    start = attack._start(images, tf.fill([2], 0.1), keys_of(2), 0).numpy()

    np.testing.assert_allclose(np.abs(start - 0.5), np.full(images.shape, 0.1), 1e-5)
    assert (start == start[:, :1]).all()
    rising = (start > 0.5)[:, 0].reshape(-1)
    assert 0.35 < rising.mean() < 0.65
    assert (start[0] != start[1]).any() and (start[..., 0] != start[..., 1]).any()


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (3, 2), (8, 8), (13, 32), (32, 32)])
def test_tiles_cover_the_image_and_start_on_the_sphere(norm, shape):
    images = tf.fill([3, *shape, 2], 0.5)
    epsilon = tf.constant([0.3, 0.4, 0.5])
    attack = Square(norm=norm)

    pattern = tiles(keys_of(3), (*shape, 2), norm).numpy()
    start = attack._start(images, epsilon, keys_of(3), 0)

    assert (pattern != 0).all()
    np.testing.assert_allclose(attack.ball.norm(start - 0.5), epsilon, rtol=1e-4)


def test_l1_tiles_smaller_than_the_ball_are_scaled_up():
    images = tf.fill([2, 32, 32, 1], 0.5)
    attack = Square(40, norm="l1")

    start = attack._start(images, tf.fill([2], 40.0), keys_of(2), 0)

    # At most 36 tiles of norm 1, tips of 0.3 * 40 / 28: short of the box.
    np.testing.assert_allclose(attack.ball.norm(start - 0.5), [40, 40], rtol=1e-4)
