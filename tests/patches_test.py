"""Tests of kerobust.patches."""

import numpy as np
import pytest

from kerobust.patches import patchify, unpatchify
from tests.goldens.closed_form import checks, grid

SHA256 = "841065bda02673aec62e78177271a9bada832a636becb22b2c3095e0270b9c5e"


def test_patches_are_row_major_and_ordered_row_column_channel():
    # Pixel value = 100 row + 10 column + channel, 4 x 6 pixels in 2 x 2 patches.
    row, column, channel = np.ogrid[:4, :6, :2]
    images = (100 * row + 10 * column + channel)[np.newaxis].astype(np.float32)

    patches = patchify(images, 2)

    assert patches.shape == [1, 6, 8]
    np.testing.assert_array_equal(patches[0, 0], [0, 1, 10, 11, 100, 101, 110, 111])
    np.testing.assert_array_equal(patches[0, 1, :2], [20, 21])  # One to the right.
    np.testing.assert_array_equal(patches[0, 3, :2], [200, 201])  # One below.


def test_patches_equal_those_of_the_original_code():
    expected = checks("mimir_dense_diffattack.json", SHA256)["mae"]["expected"]
    images = grid((2, 8, 8, 3), 0.113, 0.2, "sin", 0.5, 0.5)

    patches = patchify(images, 4).numpy()

    np.testing.assert_allclose(patches[0, 1, :6], expected["patch_0_1_first6"])
    np.testing.assert_allclose(patches[1, 2, -3:], expected["patch_1_2_last3"])


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_unpatchify_inverts_patchify(patch_size):
    images = np.random.default_rng(0).normal(size=[3, 8, 12, 2])

    patches = patchify(images, patch_size)

    np.testing.assert_array_equal(unpatchify(patches, 8, 12, patch_size), images)
