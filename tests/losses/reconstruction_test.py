"""Tests of kerobust.losses.reconstruction."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.losses.reconstruction import normalise_patches, reconstruction_error
from kerobust.patches import patchify
from tests.goldens.closed_form import checks, grid

SHA256 = "841065bda02673aec62e78177271a9bada832a636becb22b2c3095e0270b9c5e"


def test_normalising_uses_the_unbiased_variance():
    # Mean 2; deviations -2, 0, 2; unbiased variance 8 / 2 = 4 (biased: 8 / 3).
    patches = tf.constant([[[0.0, 2.0, 4.0]]])

    normalised = normalise_patches(patches)

    np.testing.assert_allclose(normalised, [[[-1.0, 0.0, 1.0]]], atol=1e-6)


def test_a_constant_patch_becomes_zero():
    np.testing.assert_array_equal(normalise_patches(tf.fill([1, 2, 5], 0.5)), 0.0)


def test_the_error_averages_pixels_of_hidden_patches_per_example():
    predictions = tf.constant([[[1.0, 3.0], [9.0, 9.0]], [[1.0, 1.0], [2.0, 0.0]]])
    removed = tf.constant([[1.0, 0.0], [1.0, 1.0]])

    error = reconstruction_error(predictions, tf.zeros([2, 2, 2]), removed)

    # (1 + 9) / 2 = 5 for the first; (1 + 1 + 4 + 0) / 4 = 1.5 for the second.
    np.testing.assert_allclose(error, [5.0, 1.5])


def test_half_precision_predictions_give_a_float32_error():
    error = reconstruction_error(
        tf.zeros([1, 1, 2], tf.float16), tf.ones([1, 1, 2]), tf.ones([1, 1])
    )

    assert error.dtype == tf.float32


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize(
    ("normalised", "name"), [(False, "loss_plain"), (True, "loss_norm_pix(ddof=1)")]
)
def test_the_mean_error_is_the_loss_of_the_original_code(dtype, normalised, name):
    check = checks("mimir_dense_diffattack.json", SHA256)["mae"]
    images = tf.constant(grid((2, 8, 8, 3), 0.113, 0.2, "sin", 0.5, 0.5), dtype)
    predictions = tf.constant(grid((2, 4, 48), 0.057, 0.4, "cos", 0.7, 0.1), dtype)
    targets = patchify(images, 4)
    targets = normalise_patches(targets) if normalised else targets

    error = reconstruction_error(predictions, targets, check["expected"]["mask"])

    np.testing.assert_allclose(
        tf.reduce_mean(error), check["expected"][name], rtol=check["rtol_f32"]
    )
