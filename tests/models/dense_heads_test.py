"""Dense heads: the original numbers, hand-made cases, and the whole model."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import DepthPGD, SegPGD
from kerobust.config import UserError
from kerobust.models import VisionTransformer
from kerobust.models.bundle import load_bundle, save_bundle
from kerobust.models.dense_heads import (
    DensePredictor,
    DepthHead,
    SegmentationHead,
    depth_of_bins,
    grid_of,
)
from kerobust.models.resnet import ResNet
from kerobust.models.sliding import SlidingWindow
from kerobust.types import Tokens
from tests.goldens.closed_form import checks, grid
from tests.losses.depth_test import SHA256

GOLDEN = checks("dense.json", SHA256)["depth_bins"]["expected"]["depth"]
IMAGES = tf.random.stateless_uniform([2, 8, 12, 3], [1, 1])


def tokens(rows=2, columns=3, width=4) -> Tokens:
    shape = [2, rows * columns, width]
    return Tokens(
        tf.random.stateless_normal([2, width], [0, 1]),
        tf.random.stateless_normal(shape, [0, 2]),
    )


def predictor(head, size=(8, 12)) -> DensePredictor:
    tf.keras.utils.set_random_seed(0)
    encoder = VisionTransformer(size, patch_size=4, width=16, depth=1, heads=2)
    return DensePredictor(encoder, head)


def test_depths_of_bins_are_those_of_the_original_code():
    logits = grid((1, 6, 2, 3), 0.9, 0.1, "sin", 2.0, 0.2).astype(np.float32)

    found = depth_of_bins(tf.constant(logits.transpose(0, 2, 3, 1)), 0.001, 10.0)

    np.testing.assert_allclose(found[0], GOLDEN, rtol=1e-6)


def test_hopeless_bins_give_the_middle():
    found = depth_of_bins(tf.fill([1, 5], -3.0), 1.0, 3.0)

    np.testing.assert_allclose(found, [2.0])


def test_segmentation_is_one_linear_map_per_patch_in_row_order():
    head, given = SegmentationHead(5), tokens()
    logits = head(given, (2, 3), training=False)

    expected = head.dense(given.patches / np.sqrt(1 + 1e-5))[1, 4]
    np.testing.assert_allclose(logits[1, 1, 1], expected, rtol=1e-5)
    assert logits.shape == [2, 2, 3, 5]


def test_batch_norm_learns_the_patches_of_the_batch():
    head, given = SegmentationHead(5), tokens()
    head(given, (2, 3), training=True)

    mean = tf.reduce_mean(given.patches, [0, 1])
    np.testing.assert_allclose(head.norm.moving_mean, 0.1 * mean, rtol=1e-5)


def test_depths_see_patch_and_class_token_and_enlarge_between_them():
    head, given = DepthHead(1, upsampling=2), tokens(1, 2)
    found = head(given, (1, 2))

    joined = tf.concat([given.patches, tf.stack([given.cls] * 2, axis=1)], axis=2)
    left, right = tf.unstack(head.dense(joined)[:, :, 0], axis=1)
    between = tf.nn.softplus(0.75 * left + 0.25 * right)  # A quarter of the way.
    assert found.shape == [2, 2, 4, 1]
    np.testing.assert_allclose(found[:, 0, 0, 0], tf.nn.softplus(left), rtol=1e-5)
    np.testing.assert_allclose(found[:, 0, 1, 0], between, rtol=1e-5)


@pytest.mark.parametrize("head", [SegmentationHead(5), DepthHead(16), DepthHead(1)])
def test_models_are_saved_and_attacked(tmp_path, head):
    model = predictor(type(head).from_config(head.get_config()))
    model.head.dense.kernel.assign_add(
        tf.random.stateless_normal(model.head.dense.kernel.shape, [2, 2])
    )
    whole = model(IMAGES)
    depth = isinstance(head, DepthHead)

    save_bundle(model, tmp_path / "bundle", {})
    np.testing.assert_array_equal(load_bundle(tmp_path / "bundle")(IMAGES), whole)

    assert whole.shape == ([2, 8, 12] if depth else [2, 8, 12, 5])
    attack = DepthPGD(0.1, steps=3) if depth else SegPGD(0.1, steps=3)
    targets = whole if depth else tf.argmax(whole, -1)
    found = attack(IMAGES, targets, model)
    objective = attack.default_objective(model)
    assert (objective(found, targets) > objective(IMAGES, targets)).numpy().all()


def test_a_window_slides_over_larger_images():
    model = predictor(SegmentationHead(5), (8, 8))

    slid = SlidingWindow(model, 8, 4)(IMAGES)

    left, right = model(IMAGES[:, :, :8]), model(IMAGES[:, :, 4:])
    np.testing.assert_allclose(slid[:, :, :4], left[:, :, :4], atol=1e-5)
    np.testing.assert_allclose(slid[:, :, 8:], right[:, :, 4:], atol=1e-5)
    both = (left[:, :, 4:] + right[:, :, :4]) / 2
    np.testing.assert_allclose(slid[:, :, 4:8], both, atol=1e-5)


def test_any_encoder_with_patches_will_do():
    encoder = ResNet(8)
    model = DensePredictor(encoder, SegmentationHead(3))

    assert model(tf.zeros([2, 16, 32, 3])).shape == [2, 16, 32, 3]


def test_a_frozen_encoder_stays_in_inference_mode():
    model = predictor(SegmentationHead(3))
    calls = []
    call = model.encoder.call
    model.encoder.call = lambda *a, **k: calls.append(k["training"]) or call(*a, **k)
    for trainable in (True, False):
        model.encoder.trainable = trainable
        model(IMAGES, training=True)

    assert calls == [True, False]


@pytest.mark.parametrize(
    ("count", "height", "width", "expected"),
    [(6, 8, 12, (2, 3)), (16, 32, 32, (4, 4)), (1, 5, 5, (1, 1)), (2, 4, 8, (1, 2))],
)
def test_grids_have_the_shape_of_the_image(count, height, width, expected):
    assert grid_of(count, height, width) == expected


@pytest.mark.parametrize(("count", "height", "width"), [(5, 8, 12), (6, 8, 8)])
def test_patches_that_do_not_tile_are_refused(count, height, width):
    with pytest.raises(UserError, match="must give patches that tile the image"):
        grid_of(count, height, width)


@pytest.mark.parametrize(
    "bad", [{"bins": 0}, {"least": 0.0}, {"most": 1e-4}, {"upsampling": 0}]
)
def test_impossible_depth_heads_are_refused(bad):
    with pytest.raises(ValueError, match="0 < least < most. Received: bins="):
        DepthHead(**bad)
