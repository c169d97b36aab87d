"""Panels and perturbation pictures."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.evaluation import amplify, panel
from kerobust.evaluation.plots import encode, heat_map


def test_amplified_perturbation_is_grey_where_unchanged_and_extreme_at_the_largest():
    clean = np.full([1, 1, 4, 1], 0.5)
    adversarial = clean + np.array([0.0, 0.02, -0.04, 0.01]).reshape([1, 1, 4, 1])

    # .5 + change / (2 * .04)
    expected = [0.5, 0.75, 0.0, 0.625]
    np.testing.assert_allclose(amplify(clean, adversarial).ravel(), expected, atol=1e-6)


def test_amplified_absence_of_a_perturbation_is_grey():
    images = np.random.default_rng(0).random((2, 3, 3, 3))

    np.testing.assert_array_equal(amplify(images, images), 0.5)


def test_panel_puts_rows_below_each_other_and_examples_side_by_side():
    first = np.zeros([2, 64, 64, 3], np.float32)
    first[1] = 1.0
    second = np.full([2, 64, 64, 1], 128, np.uint8)

    picture = panel({"clean": first, "mask": second})

    # 64 pixels and a white gap of 2 around each image: 2 * 68 each way.
    assert picture.shape == (136, 136, 3)
    assert picture.dtype == np.uint8
    assert (picture[:2] == 255).all()
    assert (picture[2:66, 2:66] == 0).all()
    assert (picture[2:66, 70:134] == 255).all()
    assert (picture[70:134, 2:66] == 128).all()


def test_small_images_are_enlarged_by_whole_pixels():
    images = np.random.default_rng(0).random((1, 8, 8, 1)).astype(np.float32)

    picture = panel({"clean": images})

    assert picture.shape == (68, 68, 3)
    expected = np.round(images[0, ..., 0] * 255)
    np.testing.assert_array_equal(picture[2:66:8, 2:66:8, 1], expected)


def test_values_outside_the_range_are_clipped_and_nan_is_black():
    images = np.array([-1.0, 2.0, np.nan]).reshape([3, 1, 1, 1])

    picture = panel({"reconstruction": images})

    assert [picture[30, column, 0] for column in (30, 98, 166)] == [0, 255, 0]


@pytest.mark.parametrize(
    "rows",
    [
        {},
        {"clean": np.zeros([2, 4, 4, 2])},
        {"clean": np.zeros([2, 4, 4, 3]), "masked": np.zeros([1, 4, 4, 3])},
        {"clean": np.zeros([4, 4, 3])},
    ],
)
def test_rows_that_do_not_fit_are_refused(rows):
    with pytest.raises(ValueError, match="`rows` must hold images .* Received: rows="):
        panel(rows)


def test_encoded_image_is_a_png():
    assert encode(np.zeros([4, 4, 3], np.uint8)).startswith(b"\x89PNG\r\n")


def test_a_heat_map_shows_rates_and_where_there_is_none():
    rates = {"a": {"a": 1.0, "b": 0.25}, "b": {"a": 0.0, "b": None}}
    pictures = [
        tf.io.decode_png(heat_map(each)).numpy()
        for each in (rates, rates | {"b": {"a": 0.0, "b": 0.0}})
    ]

    assert pictures[0].shape == pictures[1].shape
    differs = (pictures[0] != pictures[1]).any(axis=2)
    assert 0 < differs.mean() < 0.5
    height, width = differs.shape
    assert not differs[: height // 3, : width // 3].any()
