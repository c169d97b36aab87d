"""Attention maps and their panel."""

import numpy as np
import pytest

from kerobust.evaluation import attention_maps, attention_panel
from kerobust.models import VisionTransformer

IMAGES = np.random.default_rng(0).random((2, 8, 6, 3), np.float32)


class Fixed:
    """Attends to patch i of a grid of 4 x 3 with weight i, by head and by image."""

    patch_size = 2

    def last_attention(self, images):
        weights = np.zeros([len(images), 2, 13, 13], np.float32)
        weights[:, :, 0, 1:] = np.arange(12) / 100
        weights[:, 1] *= 2 * np.mean(images, axis=(1, 2, 3)).reshape([-1, 1, 1])
        return weights


def test_every_pixel_has_the_weight_of_its_patch():
    maps = attention_maps(Fixed(), IMAGES)

    assert maps.shape == (2, 2, 8, 6)
    # Rows of three patches, each two pixels high and wide.
    for row, column in ((0, 0), (1, 5), (4, 2), (7, 5)):
        expected = (3 * (row // 2) + column // 2) / 100
        assert maps[0, 0, row, column] == pytest.approx(expected)


def test_maps_are_the_class_row_of_the_last_attention():
    encoder = VisionTransformer((8, 6), 2, 16, 2, 2)

    maps = attention_maps(encoder, IMAGES)

    own = np.asarray(encoder.last_attention(IMAGES))[:, :, 0, 0]
    # One pixel per patch: with what the class token takes from itself it is all.
    np.testing.assert_allclose(maps[:, :, ::2, ::2].sum((2, 3)) + own, 1, rtol=1e-5)


def test_rows_of_an_image_share_the_brightest_pixel_of_each_head():
    found = attention_panel(Fixed(), IMAGES[:1], 0.5 * IMAGES[:1])

    # Enlarged 8-fold with gaps of 2: two rows of 68 by three columns of 52.
    assert found.shape == (2 * 68, 3 * 52, 3) and found.dtype == np.uint8
    rows = found.reshape(2, 68, 3, 52, 3)[:, 2:66, :, 2:50]
    # Head 0 looks alike; head 1 is half as strong where the image is half as bright.
    assert [rows[kind, ..., 1, :, :].max() for kind in (0, 1)] == [255, 255]
    assert [rows[kind, ..., 2, :, :].max() for kind in (0, 1)] == [255, 128]
    np.testing.assert_array_equal(
        rows[0, ::8, 0, ::8], np.round(255 * IMAGES[0]).astype(np.uint8)
    )
