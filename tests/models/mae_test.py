"""Tests of kerobust.models.mae."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.models.mae import MaeDecoder, pixel_mask, random_mask
from kerobust.types import Tokens
from tests.goldens.closed_form import checks

SHA256 = "841065bda02673aec62e78177271a9bada832a636becb22b2c3095e0270b9c5e"


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def small_decoder(**options):
    settings = {"width": 16, "depth": 1, "heads": 2, "input_width": 8, **options}
    return MaeDecoder((2, 3), 2, **settings)


def tokens(batch, kept, width=8, seed=0):
    values = np.random.default_rng(seed).normal(size=[batch, 1 + kept, width])
    values = tf.constant(values, tf.float32)
    return Tokens(values[:, 0], values[:, 1:])


def test_masks_equal_those_of_the_original_code():
    expected = checks("mimir_dense_diffattack.json", SHA256)["mae"]["expected"]

    mask = random_mask(tf.constant(expected["noise"], tf.float32), 2)

    visible = np.array(expected["ids_shuffle"])[:, :2]
    np.testing.assert_array_equal(mask.visible, visible)
    np.testing.assert_array_equal(mask.restore, expected["ids_restore"])
    np.testing.assert_array_equal(mask.removed, expected["mask"])
    assert (mask.visible.dtype, mask.removed.dtype) == (tf.int32, tf.float32)


def test_visible_patches_stay_in_shuffled_order():
    mask = random_mask(tf.constant([[0.5, 0.9, 0.1, 0.3]]), 3)

    np.testing.assert_array_equal(mask.visible, [[2, 3, 0]])  # Not sorted: 0, 2, 3.
    np.testing.assert_array_equal(mask.removed, [[0, 1, 0, 0]])


def test_masks_count_and_agree_with_themselves():
    mask = random_mask(noise(20, 12), 5)

    removed = mask.removed.numpy()
    np.testing.assert_array_equal(removed.sum(axis=1), 7)
    seen = tf.gather(mask.removed, mask.visible, batch_dims=1)
    np.testing.assert_array_equal(seen, 0.0)
    places = tf.gather(mask.restore, mask.visible, batch_dims=1)
    np.testing.assert_array_equal(places, np.tile(np.arange(5), [20, 1]))


def test_ties_are_broken_by_the_patch_number():
    mask = random_mask(tf.zeros([1, 4]), 2)

    np.testing.assert_array_equal(mask.visible, [[0, 1]])


def test_pixel_masks_repeat_each_patch_value():
    values = tf.constant([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])

    pixels = pixel_mask(values, (2, 3), 2)

    assert pixels.shape == [1, 4, 6, 1]
    rows = [[1, 1, 2, 2, 3, 3]] * 2 + [[4, 4, 5, 5, 6, 6]] * 2
    np.testing.assert_array_equal(pixels[0, :, :, 0], rows)


def test_the_decoder_has_all_variables_after_construction():
    decoder = small_decoder()
    before = len(decoder.weights)

    predictions = decoder(tokens(4, 2), random_mask(noise(4, 6), 2).restore)

    # Mask token, embedding 2, one block of 12, norm 2, prediction 2.
    assert before == len(decoder.weights) == 19
    assert predictions.shape == [4, 6, 12]


def test_the_decoder_puts_tokens_back_where_they_came_from():
    # Shuffling visible tokens together with `restore` changes nothing.
    decoder, given = small_decoder(), tokens(3, 4)
    mask = random_mask(noise(3, 6), 4)
    swapped = Tokens(given.cls, tf.gather(given.patches, [1, 0, 2, 3], axis=1))
    places = tf.constant([1, 0, 2, 3, 4, 5])

    first = decoder(given, mask.restore)
    second = decoder(swapped, tf.gather(places, mask.restore))

    np.testing.assert_allclose(first, second, atol=1e-5)


def test_hidden_patches_differ_by_position_only():
    # Nothing visible and no mask token: predictions follow from positions alone.
    decoder = small_decoder()
    nothing = tokens(2, 0)
    order = tf.constant([[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]])
    same = Tokens(tf.repeat(nothing.cls[:1], 2, axis=0), nothing.patches)

    predictions = decoder(same, order)

    np.testing.assert_allclose(predictions[0], predictions[1], atol=1e-5)
    assert np.abs(predictions[0, 0] - predictions[0, 1]).max() > 1e-3


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_predictions_are_float32_and_close(policy):
    exact, mask = small_decoder(), random_mask(noise(3, 6), 2)
    tf.keras.mixed_precision.set_global_policy(policy)
    rough = small_decoder()
    rough.set_weights(exact.get_weights())

    predictions = rough(tokens(3, 2), mask.restore)

    assert predictions.dtype == tf.float32
    expected = exact(tokens(3, 2), mask.restore)
    np.testing.assert_allclose(predictions, expected, atol=0.1)
    assert np.abs(predictions - expected).max() > 0  # The policy was in force.


def test_a_saved_decoder_reloads_exactly(tmp_path):
    decoder, mask = small_decoder(), random_mask(noise(3, 6), 2)
    expected = decoder(tokens(3, 2), mask.restore)
    decoder.save(tmp_path / "decoder.keras")

    loaded = tf.keras.models.load_model(tmp_path / "decoder.keras")

    np.testing.assert_array_equal(loaded(tokens(3, 2), mask.restore), expected)
