"""Cross-entropy of segmentations, by hand."""

import numpy as np
import tensorflow as tf

from kerobust.losses.pixels import pixel_cross_entropy

LOGITS = np.log([[[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]]]).astype(np.float32)


def test_the_mean_is_over_the_labelled_pixels():
    every = pixel_cross_entropy(LOGITS, np.array([[[0, 1]]]))
    first = pixel_cross_entropy(LOGITS, np.array([[[0, -1]]]))
    second = pixel_cross_entropy(LOGITS, np.array([[[-1, 1]]]))

    np.testing.assert_allclose(every, [(np.log(2) - np.log(0.8)) / 2], rtol=1e-6)
    np.testing.assert_allclose(first, [np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(second, [-np.log(0.8)], rtol=1e-6)


def test_weights_change_the_sum_and_not_the_count():
    weights = np.array([[[3.0, 0.0]]], np.float32)

    found = pixel_cross_entropy(LOGITS, np.array([[[0, 1]]]), weights)

    np.testing.assert_allclose(found, [1.5 * np.log(2)], rtol=1e-6)


def test_images_without_a_label_cost_nothing():
    logits = tf.concat([LOGITS, LOGITS], axis=0)
    labels = np.array([[[-1, -1]], [[0, -1]]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        found = pixel_cross_entropy(logits, labels)
    gradient = tape.gradient(found, logits)

    np.testing.assert_allclose(found, [0.0, np.log(2)], rtol=1e-6)
    assert not np.any(gradient[0]) and not np.any(gradient[1, 0, 1])
