"""Distances of tokens against NumPy; which attack is drawn, and which one wins."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import PGD, TokenDistance
from kerobust.methods.adversaries import (
    Adversaries,
    Adversary,
    TokenShift,
    joined,
    token_distances,
)
from kerobust.types import Tokens

IMAGES = tf.fill([4, 2, 2, 1], 0.5)
KEYS = tf.reshape(tf.range(8), [4, 2])
TARGETS = Tokens(tf.fill([4, 1], 0.5), tf.fill([4, 4, 1], 0.5))


def normal(shape, seed):
    return tf.random.stateless_normal(shape, [seed, 0])


def some_tokens(seed):
    return Tokens(normal([3, 5], seed), normal([3, 7, 5], seed + 1))


def pixels(images):
    """An encoder: the first pixel is the class token, all are patches."""
    flat = tf.reshape(images, [-1, 4, 1])
    return Tokens(flat[:, 0], flat)


def test_distances_are_squares_over_the_width():
    first, second = some_tokens(1), some_tokens(5)
    cls, patches = (
        np.array(a) - np.array(b) for a, b in zip(first, second, strict=True)
    )

    found = token_distances(first, second)

    np.testing.assert_allclose(found["cls"], (cls**2).sum(-1) / 5, rtol=1e-5)
    each = (patches**2).sum(-1) / 5  # [B, N]
    np.testing.assert_allclose(found["patches"], each.mean(1), rtol=1e-5)
    both = 0.5 * found["cls"] + 0.5 * found["patches"]
    np.testing.assert_allclose(joined(found, "both"), both, rtol=1e-6)


def test_without_a_second_it_is_the_mean_square_of_the_tokens():
    found = token_distances(some_tokens(1))

    np.testing.assert_allclose(
        found["patches"], np.mean(np.square(some_tokens(1).patches), (1, 2)), rtol=1e-5
    )


@pytest.mark.parametrize("part", ["cls", "patches"])
def test_of_one_type_the_objective_is_that_of_embed_attack(part):
    moved = tf.random.stateless_uniform(IMAGES.shape, [1, 2])
    theirs = TokenDistance(pixels, part=part)

    values = TokenShift(pixels, part)(moved, pixels(IMAGES))

    expected = theirs(moved, theirs.outputs(IMAGES))
    np.testing.assert_allclose(values, expected, rtol=1e-6)


def adversaries(combine, chances=(1.0, 2.0, 1.0), seed=0):
    """Three adversaries who are told apart by their radii: 0.1, 0.2, 0.3."""
    members = [
        Adversary(PGD(0.1 * (index + 1), steps=8), TokenShift(pixels, "both"), chance)
        for index, chance in enumerate(chances)
    ]
    return Adversaries(members, combine, TokenShift(pixels, "both"), seed)


def radii(found):
    """Returns the largest change of each image, [B, A]."""
    return np.abs(found - IMAGES[:, None]).max(axis=(2, 3, 4))


def test_draws_follow_the_chances_and_depend_on_seed_and_step_only():
    first, again, other = (adversaries("random", seed=seed) for seed in (0, 0, 1))

    def four_hundred(attack):
        run = tf.function(lambda steps: tf.map_fn(attack.drawn, steps), autograph=False)
        return run(tf.range(400)).numpy()

    draws, same, others = map(four_hundred, (first, again, other))

    # Standard error 0.025 at most.
    shares = np.bincount(draws, minlength=3) / 400
    np.testing.assert_allclose(shares, [0.25, 0.5, 0.25], atol=0.08)
    np.testing.assert_array_equal(draws, same)
    assert np.mean(draws == others) < 0.6


def test_a_chance_of_zero_is_never_drawn():
    attack = adversaries("random", chances=(0.0, 1.0, 0.0))

    assert {int(attack.drawn(step)) for step in range(50)} == {1}


def test_random_runs_the_adversary_that_is_drawn():
    attack = adversaries("random")
    run = tf.function(
        lambda step: attack(IMAGES, TARGETS, KEYS, step, tf.constant(1.0)),
        autograph=False,
    )

    for step in range(4):
        found = run(tf.constant(step))

        expected = 0.1 * (1 + int(attack.drawn(step)))
        np.testing.assert_allclose(radii(found), np.full([4, 1], expected), atol=1e-6)


def test_average_runs_all_of_them():
    found = adversaries("average")(IMAGES, TARGETS, KEYS, 0, 1.0)

    np.testing.assert_allclose(radii(found), np.tile([0.1, 0.2, 0.3], [4, 1]), 1e-5)


class Scripted:
    """An attack whose results are known."""

    epsilon, step_size = 1.0, None

    def __init__(self, changes):
        self.found = IMAGES + tf.reshape(tf.constant(changes), [-1, 2, 2, 1])

    def __call__(self, images, *_, **__):
        return self.found


def winners(judge, *changes):
    """Returns the change of each image, [B, 4], that "maximum" takes."""
    objective = TokenShift(pixels, "both")
    members = [Adversary(Scripted(each), objective, 1.0) for each in changes]
    attack = Adversaries(members, "maximum", TokenShift(pixels, judge), 0)
    found = attack(IMAGES, TARGETS, KEYS, 0, 1.0)
    return np.reshape(found - IMAGES[:, None], [4, 4])


def test_maximum_takes_of_each_image_what_moves_it_farthest():
    sizes = np.float32([0.3, 0.1, 0.2, -0.4])
    first = np.tile(sizes[:, None], [1, 4])
    second = np.tile(-sizes[::-1, None], [1, 4])

    found = winners("both", first, second)

    # Changes of 0.3, 0.2, 0.2, 0.4 against 0.4, 0.2, 0.1, 0.3, up to signs.
    expected = [0.4, -0.2, 0.2, -0.4]
    np.testing.assert_allclose(found, np.tile(np.c_[expected], [1, 4]), atol=1e-6)


def test_the_judge_says_what_far_means():
    first = np.tile(np.float32([0.2, 0, 0, 0]), [4, 1])  # The class token, a patch.
    second = np.tile(np.float32([0, 0.2, 0.2, 0.2]), [4, 1])

    np.testing.assert_allclose(winners("cls", second, first), first, atol=1e-6)
    np.testing.assert_allclose(winners("patches", first, second), second, atol=1e-6)


def test_the_share_scales_radii_and_steps():
    members = [
        Adversary(PGD(0.2, steps=1, step_size=0.1), TokenShift(pixels, "cls"), 1.0)
    ]
    attack = Adversaries(members, "random", TokenShift(pixels, "cls"), 0)
    full, half = (
        radii(attack(IMAGES, TARGETS, KEYS, 0, share)) for share in (1.0, 0.5)
    )

    # Both start at the same point of the ball, up to its size.
    np.testing.assert_allclose(half, full / 2, rtol=1e-4)
