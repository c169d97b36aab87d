"""Tests of kerobust.models.weights."""

import numpy as np
import pytest

from kerobust.config import UserError
from kerobust.distribute import strategy
from kerobust.models.heads import Classifier, ClassifierHead
from kerobust.models.vit import VisionTransformer
from kerobust.models.weights import assign_weights, copy_encoder_weights, named_weights

IMAGES = np.random.default_rng(0).uniform(size=[3, 4, 4, 3]).astype(np.float32)


def encoder(**options):
    settings = {"patch_size": 2, "width": 16, "depth": 1, "heads": 2, **options}
    return VisionTransformer((4, 4), **settings)


def for_finetuning(**options):
    return encoder(final_norm=False, train_positions=True, drop_path=0.1, **options)


def test_names_are_attribute_paths_and_cover_every_weight():
    model = Classifier(for_finetuning(), ClassifierHead(10))

    names = named_weights(model)

    assert {id(each) for each in names.values()} == {id(each) for each in model.weights}
    assert names["encoder/positions"] is model.encoder.positions
    kernel = model.encoder.blocks[0].attention.qkv.kernel
    assert names["encoder/blocks/0/attention/qkv/kernel"] is kernel
    assert names["head/dense/bias"] is model.head.dense.bias


def test_names_do_not_depend_on_earlier_models():
    assert list(named_weights(encoder())) == list(named_weights(encoder()))


@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_a_pretrained_encoder_goes_into_one_for_finetuning(positions):
    source = encoder(positions=positions)
    target = for_finetuning(positions=positions)

    copy_encoder_weights(source, target)

    expected = source.feature_maps(IMAGES)[-1][:, 1:]
    np.testing.assert_allclose(target(IMAGES).patches, expected, atol=1e-6)


@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_a_source_with_a_rule_goes_into_an_encoder_for_other_images(positions):
    source = encoder(positions=positions, interpolation="dino")
    options = {"width": 16, "depth": 1, "heads": 2, "train_positions": True}
    target = VisionTransformer((6, 8), 2, positions=positions, **options)
    images = np.random.default_rng(0).uniform(size=[3, 6, 8, 3]).astype(np.float32)

    copy_encoder_weights(source, target)

    expected = source(images).patches
    np.testing.assert_allclose(target(images).patches, expected, atol=1e-5)


def test_fixed_positions_become_the_start_of_learned_ones():
    source, target = encoder(), for_finetuning(positions="learned")

    copy_encoder_weights(source, target)

    np.testing.assert_array_equal(target.positions, source.positions)


def test_weights_are_copied_into_mirrored_variables():
    devices = strategy(2)
    source = encoder()
    with devices.scope():
        target = encoder()

    copy_encoder_weights(source, target)

    for device in devices.experimental_local_results(target.cls_token):
        np.testing.assert_array_equal(device, source.cls_token)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ({"depth": 2}, {}, "unexpected blocks/1/attention/projection/bias"),
        ({}, {"depth": 2}, "missing blocks/1/attention/projection/bias"),
        ({"final_norm": False}, {}, "missing norm/beta; missing norm/gamma"),
        ({"train_positions": True}, {}, "unexpected positions"),
        (
            {"width": 32},
            {},
            r"cls_token has shape \(1, 1, 32\) instead of \(1, 1, 16\)",
        ),
        ({}, {"patch_size": 1}, r"source.grid=\(2, 2\), target.grid=\(4, 4\)"),
        ({"interpolation": "mae"}, {"patch_size": 1}, r"target.grid=\(4, 4\)"),
    ],
)
def test_encoders_that_do_not_fit_are_refused_and_left_alone(source, target, message):
    source, target = encoder(**source), encoder(**target)
    before = target.get_weights()

    with pytest.raises(UserError, match=message):
        copy_encoder_weights(source, target)

    for old, new in zip(before, target.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_the_message_names_source_and_number_of_differences():
    with pytest.raises(UserError, match="source=somewhere, with 17 differences"):
        assign_weights(encoder(), {}, "somewhere")
