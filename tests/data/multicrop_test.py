"""Colours and crops: closed forms of the single changes, laws of the views."""

import colorsys

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.data import colours
from kerobust.data.augmentations import random_resized_crop
from kerobust.data.multicrop import MultiCrop, ViewsConfig
from kerobust.randomness import example_keys

SETTINGS = {"local_count": 3, "local_size": 8, "blur": 1.0}


def images(count=16, size=12):
    draws = np.random.default_rng(0).uniform(size=[count, size, size, 3])
    return tf.constant(draws, tf.float32)


def keys(count=16):
    return example_keys(5, 0, tf.range(count))


def test_views_have_the_sizes_that_were_asked_for_and_stay_in_range():
    views = MultiCrop(ViewsConfig(**SETTINGS))(images(), keys())

    assert views["global_views"].shape == (16, 2, 12, 12, 3)
    assert views["local_views"].shape == (16, 3, 8, 8, 3)
    for view in views.values():
        assert view.numpy().min() >= 0 and view.numpy().max() <= 1


def test_global_crops_may_have_another_size_and_local_ones_may_be_missing():
    maker = MultiCrop(ViewsConfig(global_size=6, local_count=0))

    views = maker(images(), keys())

    assert set(views) == {"global_views"}
    assert views["global_views"].shape == (16, 2, 6, 6, 3)


def test_views_depend_on_neither_batch_mates_nor_compilation():
    maker, order = MultiCrop(ViewsConfig(**SETTINGS)), [9, 0, 5]

    together = tf.function(maker)(images(), keys())
    apart = maker(tf.gather(images(), order), tf.gather(keys(), order))

    for name, view in together.items():
        np.testing.assert_allclose(tf.gather(view, order), apart[name], atol=1e-5)


def test_no_two_views_of_an_image_are_the_same():
    views = MultiCrop(ViewsConfig(**SETTINGS))(images(), keys())

    for view in views.values():
        for first in range(view.shape[1]):
            for second in range(first):
                apart = np.abs(view[:, first] - view[:, second]).max(axis=(1, 2, 3))
                assert np.all(apart > 1e-3)


def test_without_changes_of_colour_views_are_mirrored_crops_alone():
    plain = ViewsConfig(
        global_scale=(1.0, 1.0),
        local_count=0,
        jitter=0.0,
        grey=0.0,
        blur=0.0,
        solarize=0.0,
    )
    views = MultiCrop(plain)(images(), keys())["global_views"].numpy()

    # A crop of the whole area is the image: square, so no other aspect fits.
    ours, mirrored = images().numpy(), images().numpy()[:, :, ::-1]
    for index in range(2):
        same = np.abs(views[:, index] - ours).max(axis=(1, 2, 3)) < 1e-5
        turned = np.abs(views[:, index] - mirrored).max(axis=(1, 2, 3)) < 1e-5
        assert np.all(same | turned)
        assert 0 < same.sum() < 16


def test_blur_and_solarization_come_as_often_as_they_should():
    count = 512
    flat = tf.fill([count, 2, 2, 3], 0.75)
    maker = MultiCrop(
        ViewsConfig(local_count=0, jitter=0.0, grey=0.0, blur=0.0, solarize=0.2)
    )

    views = maker(flat, keys(count))["global_views"].numpy()

    # Bright pixels are inverted in a fifth of the second views and in no first one.
    inverted = np.isclose(views[:, :, 0, 0, 0], 0.25, atol=1e-5).mean(axis=0)
    assert inverted[0] == 0
    assert abs(inverted[1] - 0.2) < 0.06  # Three deviations: sqrt(.16 / 512) = 0.018.


def test_a_crop_is_shrunk_with_a_kernel_as_wide_as_the_step():
    whole = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    ours = images(4, 12)

    crop = random_resized_crop(ours, keys(4), size=(4, 4), **whole)

    expected = tf.image.resize(ours, [4, 4], "bicubic", antialias=True)
    np.testing.assert_allclose(crop, tf.clip_by_value(expected, 0, 1), atol=2e-3)


def test_colour_jitter_without_spread_changes_nothing():
    changed = colours.jitter(images(), keys(), 0.0, 0.0, 0.0, 0.0)

    np.testing.assert_allclose(changed, images(), atol=1e-5)


def test_each_change_of_colour_is_that_of_its_formula():
    pixel = np.array([0.2, 0.5, 0.7], np.float32)
    image = tf.constant(np.tile(pixel, [1, 2, 2, 1]))
    luma = 0.299 * 0.2 + 0.587 * 0.5 + 0.114 * 0.7
    hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
    factor = tf.fill([1, 1, 1, 1], 0.25)

    found = {
        name: getattr(colours, name)(image, factor)[0, 0, 0].numpy()
        for name in ("_brighten", "_contrast", "_saturate", "_turn")
    }

    np.testing.assert_allclose(found["_brighten"], pixel / 4, atol=1e-6)
    blended = luma + 0.25 * (pixel - luma)  # One colour: its mean is its own luma.
    np.testing.assert_allclose(found["_contrast"], blended, atol=1e-6)
    np.testing.assert_allclose(found["_saturate"], blended, atol=1e-6)
    turned = colorsys.hsv_to_rgb((hue + 0.25) % 1, saturation, value)
    np.testing.assert_allclose(found["_turn"], turned, atol=1e-5)


def test_blur_keeps_the_mean_of_a_point_and_spreads_it_as_a_gaussian():
    point = np.zeros([1, 33, 33, 1], np.float32)
    point[0, 16, 16] = 1.0

    spread = colours.blur(tf.constant(point), keys(1), 1.5, 1.5)[0, :, :, 0].numpy()

    np.testing.assert_allclose(spread.sum(), 1.0, atol=1e-4)
    # The variance of a Gaussian of deviation 1.5 along an axis.
    variance = (spread.sum(axis=0) * (np.arange(33) - 16.0) ** 2).sum()
    np.testing.assert_allclose(variance, 2.25, rtol=1e-3)


def test_solarization_inverts_what_is_at_least_half_bright():
    values = tf.constant([0.0, 127 / 255, 128 / 255, 1.0])

    changed = colours.solarize(values)

    np.testing.assert_allclose(changed, [0.0, 127 / 255, 127 / 255, 0.0], atol=1e-6)


def test_ranges_that_are_upside_down_are_refused():
    with pytest.raises(UserError, match="`--views.local_scale` must be two numbers"):
        ViewsConfig(local_scale=(0.4, 0.1))
