"""Objectives of the suites on pixels, against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import AutoPGD
from kerobust.attacks.dense_losses import (
    DEPTH_MEASURES,
    DepthMeasure,
    JensenShannon,
    MaskedCrossEntropy,
    class_weights,
)

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(2, 3, 4, 5)).astype(np.float32)
LABELS = RANDOM.integers(0, 5, size=(2, 3, 4)).astype(np.int32)
LABELS[0, 0, :2] = -1
LABELS[1, 1:] = LOGITS[1, 1:].argmax(axis=-1)  # Some are right for sure.
KNOWN = LABELS >= 0
SHARES = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=-1, keepdims=True)
OF_LABEL = np.take_along_axis(SHARES, np.maximum(LABELS, 0)[..., None], -1)[..., 0]
RIGHT = KNOWN & (LOGITS.argmax(axis=-1) == LABELS)


def nothing(images):
    return images


def mean(values: np.ndarray) -> np.ndarray:
    return (values * KNOWN).sum(axis=(1, 2)) / KNOWN.sum(axis=(1, 2))


def slopes(objective, weights: np.ndarray) -> None:
    """Value and gradient: all pixels, and the cross-entropy of those with a weight."""
    logits = tf.constant(LOGITS)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        values = objective.values(logits, LABELS)
    np.testing.assert_allclose(values, mean(-np.log(OF_LABEL)), rtol=1e-5)
    truth = np.eye(5)[np.maximum(LABELS, 0)]
    share = weights / KNOWN.sum(axis=(1, 2), keepdims=True)
    expected = (SHARES - truth) * share[..., None]
    np.testing.assert_allclose(tape.gradient(values, logits), expected, atol=1e-6)


def test_masked_cross_entropy_follows_pixels_that_are_right():
    slopes(MaskedCrossEntropy(nothing), RIGHT.astype(float))


def test_balanced_classes_count_the_same():
    labels = tf.constant([[[0, 0, 0, 1], [-1, -1, 2, 2]]])
    weights = class_weights(labels, 4).numpy()

    expected = [[[2 / 3, 2 / 3, 2 / 3, 2], [0, 0, 1, 1]]]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    factor = class_weights(tf.constant(LABELS), 5).numpy()
    slopes(MaskedCrossEntropy(nothing, balanced=True), RIGHT * factor)
    assert np.all(class_weights(tf.fill([1, 2, 2], -1), 3).numpy() == 0)


def test_jensen_shannon_is_the_mean_of_two_divergences_from_the_middle():
    truth = np.eye(5)[np.maximum(LABELS, 0)]
    middle = (SHARES + truth) / 2
    first = (SHARES * np.log(SHARES / middle)).sum(axis=-1)
    second = np.where(truth > 0, np.log(1 / middle), 0).sum(axis=-1)
    found = JensenShannon(nothing).values(tf.constant(LOGITS), LABELS)

    np.testing.assert_allclose(found, mean((first + second) / 2), rtol=1e-5)
    far = JensenShannon(nothing).values(tf.constant([[[[90.0, -90.0]]]]), [[[1]]])
    np.testing.assert_allclose(far, np.log(2), rtol=1e-5)
    near = JensenShannon(nothing).values(tf.constant([[[[90.0, -90.0]]]]), [[[0]]])
    np.testing.assert_allclose(near, 0, atol=1e-6)


def test_depth_measures_are_means_over_known_pixels():
    depths = RANDOM.uniform(1, 5, size=(2, 3, 4)).astype(np.float32)
    depths[0, 1] = 0
    outputs = RANDOM.uniform(1, 5, size=(2, 3, 4)).astype(np.float32)
    known = depths > 0

    def expected(values):
        return np.where(known, values, 0).sum(axis=(1, 2)) / known.sum(axis=(1, 2))

    with np.errstate(divide="ignore", invalid="ignore"):
        gap = np.abs(np.log(outputs) - np.log(depths))
        wanted = {
            "squared": (outputs - depths) ** 2,
            "log_l1": gap,
            "cosine": gap * 2 * outputs * depths / (outputs**2 + depths**2),
            "near": -np.abs(np.log(outputs) - np.log(depths / 2)),
            "far": -np.abs(np.log(outputs) - np.log(depths * 2)),
        }
    assert set(wanted) == set(DEPTH_MEASURES)
    for measure, values in wanted.items():
        found = DepthMeasure(nothing, measure).values(tf.constant(outputs), depths)
        np.testing.assert_allclose(found, expected(values), rtol=1e-5)


@pytest.mark.parametrize(
    ("measure", "direction"), [("near", -1), ("far", 1)], ids=["near", "far"]
)
def test_near_and_far_move_a_right_depth_map_towards_their_aim(measure, direction):
    depths = tf.fill([1, 2, 2], 3.0)
    outputs = tf.identity(depths)
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        value = DepthMeasure(nothing, measure).values(outputs, depths)
    gradient = tape.gradient(value, outputs).numpy()

    assert np.all(direction * gradient > 0) and value.numpy()[0] < 0


def test_nothing_known_is_zero_and_moves_nothing():
    logits = tf.constant(LOGITS)
    nobody = tf.fill([2, 3, 4], -1)
    for kind in (MaskedCrossEntropy, JensenShannon):
        assert np.all(kind(nothing).values(logits, nobody).numpy() == 0)
    unknown = tf.zeros([2, 3, 4])
    for measure in DEPTH_MEASURES:
        values = DepthMeasure(nothing, measure).values(tf.ones([2, 3, 4]), unknown)
        assert np.all(values.numpy() == 0)


def test_auto_pgd_climbs_inside_the_ball():
    images = tf.constant(RANDOM.uniform(0.2, 0.8, size=(2, 4, 4, 3)), tf.float32)
    kernel = tf.constant(RANDOM.normal(size=(3, 3)), tf.float32)
    objective = JensenShannon(lambda x: tf.einsum("bhwc,ck->bhwk", x, kernel))
    labels = objective.predictions(objective.outputs(images))
    attack = AutoPGD(0.1, steps=10, radii=(2.0, 1.5, 1.0), seed=0)
    moved = attack(images, labels, objective)

    assert np.abs(moved - images).max() <= 0.1 + 1e-6
    before, after = (objective(x, labels).numpy() for x in (images, moved))
    assert np.all(after > before)
