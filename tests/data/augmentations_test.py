"""Augmentations: laws of the single operations and of their randomness."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.data import AUGMENTATIONS, DataConfig, load
from kerobust.data.augmentations import (
    random_crop,
    random_flip,
    random_resized_crop,
    resize,
    square,
)
from kerobust.randomness import example_keys


def digits(count: int) -> tf.Tensor:
    return load(DataConfig()).splits["train"].fetch(tf.range(count))


def keys(count: int) -> tf.Tensor:
    return example_keys(5, 0, tf.range(count))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_results_stay_in_range_and_keep_their_shape(name):
    images = digits(32)

    changed = AUGMENTATIONS[name](images, keys(32))

    assert changed.shape == images.shape and changed.dtype == tf.float32
    assert changed.numpy().min() >= 0 and changed.numpy().max() <= 1


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_graph_and_eager_agree_bit_for_bit(name):
    images = digits(16)

    eager = AUGMENTATIONS[name](images, keys(16))
    graph = tf.function(AUGMENTATIONS[name])(images, keys(16))

    np.testing.assert_array_equal(eager, graph)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_batch_mates_do_not_matter(name):
    images, names = digits(16), keys(16)
    order = [7, 2, 11]

    together = AUGMENTATIONS[name](images, names)
    apart = AUGMENTATIONS[name](tf.gather(images, order), tf.gather(names, order))

    # Matrix products of other batch sizes may add in another order.
    np.testing.assert_allclose(tf.gather(together, order), apart, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if name != "none"])
def test_each_example_has_its_own_draw(name):
    images = tf.repeat(digits(1), 64, axis=0)

    changed = AUGMENTATIONS[name](images, keys(64)).numpy()

    assert len(np.unique(changed.reshape(64, -1), axis=0)) > 4


def test_a_flip_mirrors_about_half_of_the_images():
    images = digits(400)

    flipped = random_flip(images, keys(400)).numpy()

    mirrored = (flipped == images.numpy()[:, :, ::-1]).all(axis=(1, 2, 3))
    kept = (flipped == images.numpy()).all(axis=(1, 2, 3))
    assert (mirrored | kept).all()
    # Binomial(400, 1/2): standard deviation 10.
    assert abs((mirrored & ~kept).sum() - 200) < 50


def test_a_crop_shifts_over_black_by_every_permitted_offset():
    images = digits(200).numpy()
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)])

    cropped = random_crop(images, keys(200), padding=1).numpy()

    seen = set()
    for image, result in zip(padded, cropped, strict=True):
        places = [
            (row, column)
            for row in range(3)
            for column in range(3)
            if (image[row : row + 8, column : column + 8] == result).all()
        ]
        assert places
        seen.update(places if len(places) == 1 else [])
    assert len(seen) == 9


def test_a_resized_crop_of_everything_is_the_image():
    images = digits(8)

    cropped = random_resized_crop(images, keys(8), scale=(1.0, 1.0), ratio=(1.0, 1.0))

    np.testing.assert_allclose(cropped, images, atol=1e-6)


def test_crops_cover_the_permitted_shares_of_the_area():
    # A plane x + 32 y shows where each crop lies: its corner values are known up to
    # the half target pixel of interpolation, its slopes are its height and width.
    plane = np.arange(32)[:, None] * 32 + np.arange(32)[None] + 0.0
    images = np.tile((plane / 1023)[None, :, :, None], [300, 1, 1, 3])
    images = tf.constant(images, tf.float32)

    cropped = random_resized_crop(images, keys(300)).numpy()[..., 0] * 1023

    middle = cropped[:, 8:24, 8:24]
    width = (middle[:, 0, -1] - middle[:, 0, 0]) / 15 * 32
    height = (middle[:, -1, 0] - middle[:, 0, 0]) / 15
    share, ratio = width * height / 1024, width / height
    # Rounding a side to whole pixels moves share and ratio by a few hundredths.
    assert 0.15 < share.min() < 0.3 and 0.9 < share.max() < 1.05
    assert 0.7 < ratio.min() < 0.85 and 1.2 < ratio.max() < 1.42


def test_resizing_keeps_a_constant_and_the_type():
    grey = np.full([1, 6, 9, 3], 77, np.uint8)

    enlarged = resize(grey, (13, 5))

    assert enlarged.dtype == tf.uint8
    np.testing.assert_array_equal(enlarged, np.full([1, 13, 5, 3], 77))


def test_bicubic_overshoot_is_clipped():
    edge = np.zeros([1, 8, 8, 1], np.float32)
    edge[:, :, 4:] = 1

    enlarged = resize(edge, (32, 32)).numpy()

    assert enlarged.min() == 0 and enlarged.max() == 1


@pytest.mark.parametrize(("shape", "start"), [((8, 13), 2), ((8, 11), 2), ((8, 9), 0)])
def test_a_square_is_the_centre(shape, start):
    # Half of 5, 3 and 1 pixels, rounded half to even as torchvision's CenterCrop: 2,
    # 2 and 0.
    image = np.tile(np.arange(shape[1], dtype=np.uint8)[None, :, None], [8, 1, 3])

    centre = square(image, 8).numpy()

    assert centre.shape == (8, 8, 3)
    np.testing.assert_array_equal(centre[0, :, 0], np.arange(start, start + 8))


def test_a_square_resizes_the_shorter_side():
    assert square(np.zeros([2, 30, 20, 3], np.uint8), 10).shape == (2, 10, 10, 3)
