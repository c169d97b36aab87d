"""Tests of kerobust.models.convnet, and of layers as the networks of DVERGE have them.

Goldens: DVERGE's ResNet-20 and the small network of the report on it (V1, V6).
"""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.models import (
    Classifier,
    ClassifierHead,
    ConvConfig,
    ConvNet,
    ResNet18,
    VisionTransformer,
    load_bundle,
    save_bundle,
)
from tests.goldens.closed_form import checks
from tests.models.dverge import SHA256, resnet20
from tests.models.filled import formula

GOLDEN = checks("dverge.json", SHA256)
IMAGES = np.random.default_rng(0).uniform(size=[2, 32, 32, 3]).astype(np.float32)


def conv_classifier():
    return Classifier(ConvNet((32, 32)), ClassifierHead(10, pooling="cls", norm=False))


def channels_last(values):
    return np.transpose(values, [0, 2, 3, 1]).astype(np.float32)


def test_resnet20_says_what_the_original_says():
    golden = GOLDEN["V1_resnet20"]
    model = resnet20()
    images = channels_last(formula(golden["inputs"]["x"]))

    logits = model(images)

    count = sum(np.size(each) for each in model.trainable_weights)
    assert count == golden["n_params"]
    expected = np.reshape(golden["expected"]["logits"], [2, 10])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_every_layer_of_resnet20_is_that_of_the_original():
    golden = GOLDEN["V1_resnet20"]
    model = resnet20()
    images = channels_last(formula(golden["inputs"]["x"]))
    assert model.layer_count == len(golden["expected"]["features"]) == 20

    for number, shape, before, after in golden["expected"]["features"]:
        found = model.layer(images, number)
        assert tuple(found.shape[1:]) == (*shape[1:], shape[0])
        np.testing.assert_allclose(np.mean(found), before, rtol=1e-4, atol=1e-6)
        if number not in (1, 20):  # Of these the original never takes the ReLU.
            mean = np.mean(tf.nn.relu(found))
            np.testing.assert_allclose(mean, after, rtol=1e-4, atol=1e-6)


def test_the_network_of_the_report_has_its_shapes():
    expected = GOLDEN["V6_student_conv_hypothesis"]["expected"]
    model = conv_classifier()

    count = sum(np.size(each) for each in model.trainable_weights)
    assert count == expected["n_params"]
    shapes = [tuple(model.layer(IMAGES, number).shape[1:]) for number in range(1, 6)]
    golden = [(*shape[1:], shape[0]) for shape in expected["feature_shapes_CHW"]]
    # The golden lists the maps after pooling too.
    assert shapes == [golden[0], golden[2], *golden[4:]]


def test_a_small_network_equals_its_definition():
    model = ConvNet((4, 4), widths=(2,), hidden=(3,), kernel_size=1, mean=(0.5,))
    images = IMAGES[:, :4, :4]
    (conv, dense) = model.convolutions[0], model.dense[0]
    conv.bias.assign([0.1, -0.2])
    dense.bias.assign([0.3, 0.0, -0.1])

    maps = (images - 0.5) @ conv.kernel.numpy()[0, 0] + [0.1, -0.2]
    pooled = np.maximum(maps, 0).reshape(2, 2, 2, 2, 2, 2).max(axis=(2, 4))
    hidden = pooled.reshape(2, -1) @ dense.kernel.numpy() + [0.3, 0.0, -0.1]

    np.testing.assert_allclose(next(model.layer_outputs(images)), maps, atol=1e-6)
    np.testing.assert_allclose(model(images).cls, np.maximum(hidden, 0), atol=1e-6)
    np.testing.assert_array_equal(model(images).patches[:, 0], model(images).cls)


@pytest.mark.parametrize(
    "encoder",
    [
        lambda: ConvNet((32, 32)),
        lambda: ResNet18(widths=(4, 4, 8, 8)),
        lambda: VisionTransformer((32, 32), 8, 16, 3, 2),
    ],
)
def test_the_last_layer_gives_the_logits_and_the_first_are_counted(encoder):
    model = Classifier(encoder(), ClassifierHead(10, pooling="cls", norm=False))
    count = len(list(model.encoder.layer_outputs(IMAGES)))

    assert model.layer_count == count + 1
    np.testing.assert_array_equal(model.layer(IMAGES, count + 1), model(IMAGES))
    for number in (0, count + 2):
        with pytest.raises(UserError, match="`number` must lie in"):
            model.layer(IMAGES, number)


def test_later_layers_do_not_run():
    model = resnet20()
    before = [each.numpy() for each in model.encoder.stages[0][0].norm2.weights]
    first = model.encoder.norm1.moving_mean.numpy()

    model.layer(IMAGES, 2, training=True)

    after = [each.numpy() for each in model.encoder.stages[0][0].norm2.weights]
    np.testing.assert_array_equal(before, after)
    assert np.any(first != model.encoder.norm1.moving_mean.numpy())


def test_a_bundle_brings_it_back(tmp_path):
    config = ConvConfig(widths=(3, 4), hidden=(5,), kernel_size=3, padding="same")
    encoder = config.build((32, 32, 3), (0.4,), (0.2, 0.3, 0.4))

    save_bundle(encoder, tmp_path / "conv", {})

    again = load_bundle(tmp_path / "conv")
    np.testing.assert_array_equal(again(IMAGES).cls, encoder(IMAGES).cls)


def test_images_that_are_too_small_are_refused():
    with pytest.raises(UserError, match=r"`--conv.kernel_size` must leave.*padding"):
        ConvNet((8, 8))
    with pytest.raises(UserError, match="`images` must be"):
        ConvNet((32, 32))(IMAGES[:, :16])
