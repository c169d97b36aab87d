"""Tests of kerobust.models.vit on images of other sizes, against DINO's code."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.models import (
    VisionTransformer,
    VitConfig,
    load_bundle,
    load_vit,
    save_bundle,
)
from kerobust.models.positions import INTERPOLATIONS, resize_positions
from tests.goldens.closed_form import checks
from tests.models.filled import fill, formula

GOLDEN = "dino_deacl_encoders.json"
SHA256 = "30fefbc4b8b9f77c89b3d6a0b97e0bc70770cafa0650c25fe4e7e1d3bf8237dd"
CASES = ("32x32", "48x48", "24x24", "40x24")


def dino(**options):
    settings = {"positions": "learned", "interpolation": "dino", **options}
    return VisionTransformer((32, 32), 8, 12, 2, 3, **settings)


@pytest.fixture(scope="module")
def golden():
    return checks(GOLDEN, SHA256)["D4_vit"]


@pytest.fixture(scope="module")
def encoder(golden):
    # Sines of the pixels themselves: nothing is normalised.
    weights = fill(golden["param_order"])
    return load_vit(weights, "dino", heads=3, mean=(0.0,), std=(1.0,))


def images_of(case):
    return formula(case["x"]).transpose(0, 2, 3, 1).astype(np.float32)


@pytest.mark.parametrize("name", CASES)
def test_tokens_equal_those_of_the_original_code(golden, encoder, name):
    case = golden["cases"][name]

    cls = encoder(images_of(case)).cls.numpy()

    np.testing.assert_allclose(cls[0, :6], case["cls_first6"], rtol=1e-5, atol=1e-5)
    # A sum of 12 numbers near 1.
    np.testing.assert_allclose(cls[1].sum(), case["cls_row1_sum"], atol=2e-5)


@pytest.mark.parametrize("name", CASES)
def test_positions_equal_those_of_the_original_code(golden, encoder, name):
    case = golden["cases"][name]
    height, width = case["x"]["shape"][2:]

    table = resize_positions(
        encoder.positions, (4, 4), (height // 8, width // 8), "dino"
    ).numpy()

    first, last = case["pos_first_patch_first4"], case["pos_last_patch_first4"]
    np.testing.assert_allclose(table[1, :4], first, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(table[-1, :4], last, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(table[0], encoder.positions[0])
    np.testing.assert_allclose(table.sum(), case["pos_sum"], atol=1e-4)
    np.testing.assert_allclose((table**2).sum(), case["pos_sumsq"], rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_attention_equals_that_of_the_original_code(golden, encoder, name):
    case = golden["cases"][name]

    attention = encoder.last_attention(images_of(case)).numpy()

    assert attention.dtype == np.float32
    assert list(attention.shape) == case["attn_shape"]
    first = case["attn_b0_h0_cls_first5"]
    np.testing.assert_allclose(attention[0, 0, 0, :5], first, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        (attention**2).sum(), case["attn_sumsq"], rtol=1e-5, atol=1e-4
    )
    np.testing.assert_allclose(attention.sum(axis=-1), 1.0, rtol=1e-5)


def test_intermediate_tokens_equal_those_of_the_original_code(golden, encoder):
    case = golden["cases"]["32x32"]
    images = images_of(case)

    tokens = encoder.intermediate_tokens(images, 2)

    found = [each.cls[0, :4] for each in tokens]
    expected = case["intermediate_n2_cls_first4"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(tokens[-1].patches, encoder(images).patches)


def test_intermediate_tokens_without_final_norm_are_the_maps():
    encoder, images = dino(final_norm=False), np.ones([1, 32, 32, 3], np.float32)

    (tokens,) = encoder.intermediate_tokens(images, 1)

    np.testing.assert_array_equal(tokens.cls, encoder.feature_maps(images)[-1][:, 0])


@pytest.mark.parametrize("count", [0, 3])
def test_more_blocks_than_there_are_are_refused(encoder, count):
    message = rf"`count` must lie in \[1, 2\], .*Received: count={count}\."
    with pytest.raises(UserError, match=message):
        encoder.intermediate_tokens(np.zeros([1, 32, 32, 3], np.float32), count)


def test_a_compiled_call_of_another_size_agrees_and_trains_the_table(encoder):
    images = np.random.default_rng(0).uniform(size=[2, 40, 24, 3]).astype(np.float32)

    @tf.function
    def run(images):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(encoder(images).cls[:, 0])
        return value, tape.gradient(value, encoder.positions)

    value, gradient = run(images)

    np.testing.assert_allclose(
        value, tf.reduce_sum(encoder(images).cls[:, 0]), rtol=1e-5
    )
    assert np.abs(gradient).min(axis=1).max() > 0
    assert (np.abs(gradient).max(axis=1) > 0).all()


def test_visible_patches_of_another_size_stand_at_their_places(encoder):
    images = np.random.default_rng(0).uniform(size=[2, 40, 24, 3]).astype(np.float32)
    order = np.stack([np.random.default_rng(row).permutation(15) for row in range(2)])

    shuffled = encoder(images, visible=order)

    plain = encoder(images)
    expected = tf.gather(plain.patches, order, batch_dims=1)
    np.testing.assert_allclose(shuffled.patches, expected, atol=1e-4)
    np.testing.assert_allclose(shuffled.cls, plain.cls, atol=1e-4)


@pytest.mark.parametrize("rule", INTERPOLATIONS)
def test_the_size_it_was_built_for_needs_no_interpolation(rule):
    plain = VisionTransformer((4, 8), 2, 16, 1, 2)
    other = VisionTransformer((4, 8), 2, 16, 1, 2, interpolation=rule)
    other.set_weights(plain.get_weights())
    images = np.random.default_rng(0).uniform(size=[2, 4, 8, 3]).astype(np.float32)

    np.testing.assert_array_equal(other(images).patches, plain(images).patches)


@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_a_rule_survives_the_bundle(tmp_path, positions):
    config = VitConfig(
        width=8, depth=1, heads=1, positions=positions, interpolation="timm"
    )
    encoder = config.build((8, 8, 1))
    images = np.random.default_rng(0).uniform(size=[2, 4, 10, 1]).astype(np.float32)
    save_bundle(encoder, tmp_path / "encoder", {})

    loaded = load_bundle(tmp_path / "encoder")

    np.testing.assert_array_equal(loaded(images).patches, encoder(images).patches)
    assert loaded(images).patches.shape == [2, 10, 8]


@pytest.mark.parametrize("shape", [(2, 36, 32, 3), (2, 32, 4, 3), (2, 32, 32, 1)])
def test_images_that_no_rule_can_fit_are_refused(encoder, shape):
    message = r"`images` must be \[B, H, W, 3\].* multiples of the patch size 8\. Rec"
    with pytest.raises(UserError, match=message):
        encoder(np.zeros(shape, np.float32))


def test_images_without_a_static_size_are_refused(encoder):
    run = tf.function(encoder.feature_maps, autograph=False)

    with pytest.raises(UserError, match=r"`images` .*shape=\(None, None, 32, 3\)"):
        run.get_concrete_function(tf.TensorSpec([None, None, 32, 3]))


def test_without_a_rule_the_message_names_the_flag():
    message = r"must be \[B, 32, 32, 3\], .*\(--model.interpolation\)"
    with pytest.raises(UserError, match=message):
        dino(interpolation=None)(np.zeros([1, 48, 48, 3], np.float32))


def test_an_unknown_rule_is_refused_with_the_known_ones():
    message = "`--model.interpolation` must be one of: dino, mae, timm"
    with pytest.raises(UserError, match=message):
        dino(interpolation="bilinear")
