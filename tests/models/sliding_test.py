"""Sliding windows: where they stand, and what their average is."""

import re

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.models.sliding import SlidingWindow, window_starts
from tests.goldens.closed_form import checks
from tests.losses.depth_test import SHA256

GOLDEN = checks("dense.json", SHA256)["sliding_window"]["expected"]
IMAGES = tf.random.stateless_uniform([2, 7, 10, 3], [1, 2])


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_windows_start_where_the_original_code_starts_them(name):
    length, window, stride = map(
        int, re.fullmatch(r"W(\d+)_crop(\d+)_stride(\d+)", name).groups()
    )

    assert window_starts(length, window, stride) == GOLDEN[name]


@pytest.mark.parametrize("length", range(4, 14))
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_windows_cover_everything_and_stay_inside(length, stride):
    starts = window_starts(length, 4, stride)

    covered = {start + i for start in starts for i in range(4)}
    assert covered == set(range(length))


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_what_looks_at_single_pixels_is_not_changed_by_windows(average):
    whole = tf.math.log(tf.nn.softmax(3.0 * IMAGES))

    found = SlidingWindow(
        lambda seen: tf.math.log(tf.nn.softmax(3.0 * seen)), 4, 3, average=average
    )(IMAGES)

    np.testing.assert_allclose(found, whole, atol=1e-6)


@pytest.mark.parametrize("at_once", [1, 2, 5, 16])
def test_the_size_of_batches_changes_nothing(at_once):
    kernel = tf.random.stateless_normal([3, 3, 3, 5], [0, 1])

    def model(seen):
        return tf.nn.conv2d(seen, kernel, 1, "SAME")

    expected = SlidingWindow(model, 4, 2, at_once=100)(IMAGES)
    found = SlidingWindow(model, 4, 2, at_once=at_once)(IMAGES)

    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_overlaps_are_averaged_by_the_number_of_windows():
    # Every window answers with the mean of its pixels.
    def model(seen):
        mean = tf.reduce_mean(seen, axis=[1, 2, 3], keepdims=True)
        return mean * tf.ones_like(seen[..., :1])

    images = np.zeros([1, 4, 6, 1], np.float32)
    images[0, :, 4:] = 1.0

    found = SlidingWindow(model, 4, 2)(tf.constant(images))

    # Windows at 0 and 2 hold none and half of the white columns.
    np.testing.assert_allclose(found[0, 0, :, 0], [0, 0, 0.25, 0.25, 0.5, 0.5])


def test_gradients_pass_through_all_windows():
    with tf.GradientTape() as tape:
        tape.watch(IMAGES)
        total = tf.reduce_sum(SlidingWindow(lambda seen: seen, 4, 3)(IMAGES))

    np.testing.assert_allclose(tape.gradient(total, IMAGES), 1.0, atol=1e-6)


@pytest.mark.parametrize(("window", "stride"), [(8, 4), (4, 5), (4, 0)])
def test_windows_that_do_not_fit_are_refused(window, stride):
    with pytest.raises(UserError, match="must not be larger than the image") as caught:
        SlidingWindow(lambda seen: seen, window, stride)(IMAGES)

    assert f"stride={stride}, window={window}, size=7" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"average": "votes"}, "`average` must be logits or probabilities"),
        ({"at_once": 0}, "`at_once` must be at least 1"),
    ],
)
def test_other_settings_are_refused(settings, text):
    with pytest.raises(ValueError, match=text):
        SlidingWindow(lambda seen: seen, 4, 2, **settings)


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_gradients_are_the_same_in_parts_and_at_once(average):
    kernel = tf.constant(np.random.default_rng(1).normal(size=(3, 4)), tf.float32)
    images = tf.constant(IMAGES)

    def model(shown):
        mixed = tf.einsum("bhwc,ck->bhwk", shown, kernel)
        return mixed * tf.reduce_mean(mixed, axis=[1, 2], keepdims=True)

    found = []
    for at_once in (100, 2, 1):
        slide = SlidingWindow(model, 4, 2, at_once=at_once, average=average)

        @tf.function
        def gradient(images, slide=slide):
            with tf.GradientTape() as tape:
                tape.watch(images)
                value = tf.reduce_sum(tf.square(slide(images)))
            return tape.gradient(value, images)

        found += [gradient(images).numpy(), gradient.python_function(images).numpy()]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=2e-4, atol=1e-4)
    assert np.abs(found[0]).max() > 0


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("at_once", [1, 4, 100])
def test_every_window_is_read_in_batches_that_are_not_larger(at_once, graph):
    slide, sizes = SlidingWindow(tf.identity, 4, 3, at_once=at_once), []
    every = tf.stack(slide.windows(IMAGES), axis=1)

    def read(seen):
        sizes.append(seen.shape[0])
        return tf.square(seen) * tf.reshape(tf.range(1.0, 17.0), [4, 4, 1])

    def both(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            found = slide.each(read, images)
            total = tf.reduce_sum(found * tf.sin(every))
        return found, tape.gradient(total, images)

    found, gradient = (tf.function(both) if graph else both)(IMAGES)

    np.testing.assert_allclose(found, tf.map_fn(read, every), rtol=1e-6)
    with tf.GradientTape() as tape:
        tape.watch(IMAGES)
        windows = tf.stack(slide.windows(IMAGES), axis=1)
        total = tf.reduce_sum(tf.map_fn(read, windows) * tf.sin(every))
    np.testing.assert_allclose(gradient, tape.gradient(total, IMAGES), rtol=1e-4)
    assert max(size for size in sizes if size) <= max(2 * min(at_once, 6), 6)
