"""Similarities and spreads against their definitions."""

import numpy as np
import tensorflow as tf

from kerobust.losses.dino import entropy, moved_centre
from kerobust.losses.similarity import (
    cosine_similarity,
    effective_rank,
    spread,
    squared_distance,
)


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_cosine_is_one_for_equal_minus_one_for_opposite_and_zero_for_no_direction():
    first = tf.constant([[3.0, 4.0], [3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    second = tf.constant([[6.0, 8.0], [-3.0, -4.0], [1.0, 0.0], [1.0, 1.0]])

    found = cosine_similarity(first, second)

    np.testing.assert_allclose(found, [1.0, -1.0, 0.0, 0.5**0.5], atol=1e-6)


def test_the_distance_is_a_sum_over_coordinates():
    found = squared_distance(tf.constant([[1.0, 2.0]]), tf.constant([[4.0, 6.0]]))

    np.testing.assert_allclose(found, [25.0])


def test_the_spread_is_zero_for_one_direction_and_one_for_random_ones():
    lengths = tf.range(1.0, 9.0)[:, tf.newaxis]

    assert float(spread(lengths * tf.ones([8, 4]))) < 1e-6
    np.testing.assert_allclose(spread(draw(4000, 16)), 1.0, atol=0.02)


def test_the_rank_counts_directions_of_equal_variance():
    features = np.zeros([4000, 8], np.float32)
    features[:, :3] = draw(4000, 3)

    np.testing.assert_allclose(effective_rank(features), 3.0, atol=0.05)
    np.testing.assert_allclose(effective_rank(features[:, :1]), 1.0, rtol=1e-5)


def test_the_entropy_is_the_log_of_the_number_of_equal_answers():
    shares = tf.constant([[0.25] * 4, [1.0, 0.0, 0.0, 0.0]])

    np.testing.assert_allclose(entropy(shares), [np.log(4), 0.0], atol=1e-6)


def test_the_centre_moves_by_the_share_that_is_not_momentum():
    logits = tf.reshape(tf.range(8.0), [2, 2, 2])  # Mean over examples and views: 3, 4.

    moved = moved_centre(tf.constant([1.0, 1.0]), logits, 0.9)

    np.testing.assert_allclose(moved, [0.9 + 0.3, 0.9 + 0.4], atol=1e-6)
