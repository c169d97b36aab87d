"""Tests of kerobust.models.keras_cv_encoder, against the backbones themselves."""

import json
import socket

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.models import (
    Classifier,
    ClassifierHead,
    KerasCvEncoder,
    load_bundle,
    named_weights,
    save_bundle,
)
from kerobust.models.keras_cv_encoder import BACKBONES
from tests.models.bundle_test import forget_digests
from tests.models.replicas import assert_trained_as_on_one

IMAGES = np.random.default_rng(0).uniform(size=[3, 16, 32, 3]).astype(np.float32)
RESNET = {
    "stackwise_filters": [64, 8, 12],
    "stackwise_blocks": [1, 1, 1],
    "stackwise_strides": [1, 2, 2],
    "block_type": "basic_block",
}
EFFICIENT = {
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
    "stackwise_kernel_sizes": [3, 3],
    "stackwise_num_repeats": [1, 2],
    "stackwise_input_filters": [32, 16],
    "stackwise_output_filters": [16, 24],
    "stackwise_expansion_ratios": [1, 2],
    "stackwise_strides": [1, 2],
}
SQUEEZED = {**EFFICIENT, "stackwise_squeeze_and_excite_ratios": [0.0, 0.25]}
MOBILE = {
    "stackwise_expansion": [1, 4, 4],
    "stackwise_filters": [16, 24, 24],
    "stackwise_kernel_size": [3, 3, 5],
    "stackwise_stride": [2, 2, 1],
    "stackwise_se_ratio": [0.25, None, None],
    "stackwise_activation": ["relu", "relu", "hard_swish"],
}
# Backbone -> (its settings, stride of its output, where it may drop things).
ROWS = {
    "CSPDarkNetBackbone": (
        {"stackwise_channels": [16, 16], "stackwise_depth": [1, 1]},
        8,
        (),
    ),
    "DenseNetBackbone": (
        {"stackwise_num_repeats": [1, 1], "growth_rate": 8},
        8,
        (),
    ),
    "EfficientNetLiteBackbone": (EFFICIENT, 4, ("dropout_rate", "drop_connect_rate")),
    "EfficientNetV1Backbone": (SQUEEZED, 4, ("dropout_rate", "drop_connect_rate")),
    "EfficientNetV2Backbone": (
        {**SQUEEZED, "stackwise_conv_types": ["fused", "unfused"]},
        4,
        ("skip_connection_dropout",),
    ),
    "MobileNetV3Backbone": (MOBILE, 8, ()),
    "ResNetBackbone": (RESNET, 16, ()),
    "ResNetV2Backbone": ({**RESNET, "stackwise_blocks": [2, 2, 2]}, 16, ()),
}
# The others differ from these by little.
QUICK = ("EfficientNetV2Backbone", "ResNetV2Backbone")
every_backbone = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK))
        for name in BACKBONES
    ],
)


def make(name="ResNetBackbone", **options):
    return KerasCvEncoder(name, **{**ROWS[name][0], **options})


def randomise(model):
    """Gives every weight, running statistics included, a value of its own."""
    generator = np.random.default_rng(1)
    for weight in model.weights:
        low, high = (0.5, 1.5) if len(weight.shape) == 1 else (-0.3, 0.3)
        weight.assign(generator.uniform(low, high, weight.shape))


def batch_norms(encoder):
    return [
        layer
        for layer in encoder.submodules
        if isinstance(layer, tf.keras.layers.BatchNormalization)
    ]


@every_backbone
def test_tokens_are_the_pixels_of_the_last_map_of_the_backbone(name):
    import keras_cv

    settings, stride, rates = ROWS[name]
    shape = (*IMAGES.shape[1:3], 3)
    plain = getattr(keras_cv.models, name)(
        **settings,
        **dict.fromkeys(rates, 0.0),
        include_rescaling=False,
        input_shape=shape,
    )
    encoder = KerasCvEncoder(name, mean=(0.5, 0.4, 0.3), std=(0.2,), **settings)
    randomise(encoder)
    plain.set_weights(encoder.get_weights())

    tokens = encoder(IMAGES)

    normalised = (IMAGES - np.array([0.5, 0.4, 0.3], np.float32)) / np.float32(0.2)
    expected = plain(normalised, training=False).numpy()
    assert expected.shape[1:3] == (16 // stride, 32 // stride)
    assert encoder.stride == stride
    assert encoder.width == expected.shape[3]
    scale = np.abs(expected).max()
    rows = expected.reshape([3, -1, encoder.width])  # NumPy's own order: by rows.
    np.testing.assert_allclose(tokens.patches, rows, rtol=1e-4, atol=1e-5 * scale)
    np.testing.assert_allclose(
        tokens.cls, rows.mean(axis=1), rtol=1e-4, atol=1e-5 * scale
    )


@every_backbone
def test_every_weight_has_a_name_and_a_group_and_exists_from_the_start(name):
    encoder = make(name)
    before = [id(weight) for weight in encoder.weights]

    encoder(IMAGES, training=True)

    assert [id(weight) for weight in encoder.weights] == before
    assert sorted(map(id, named_weights(encoder).values())) == sorted(before)
    *_, last = groups = encoder.layer_groups()
    assert len(groups) > 2
    assert last == []
    grouped = [id(variable) for group in groups for variable in group]
    assert sorted(grouped) == sorted(map(id, encoder.trainable_variables))


@pytest.mark.parametrize("name", QUICK)
def test_training_differs_from_inference_in_batch_norm_only(name):
    encoder = make(name)
    for layer in batch_norms(encoder):
        layer.momentum = 0.0  # The running statistics become those of the batch.
    before = encoder.get_weights()

    trained = encoder(IMAGES, training=True)

    found = encoder(IMAGES, training=False)
    np.testing.assert_allclose(found.patches, trained.patches, rtol=1e-3, atol=1e-3)
    changed = {
        weight.name.split("/")[-1].split(":")[0]
        for weight, old in zip(encoder.weights, before, strict=True)
        if np.any(weight.numpy() != old)
    }
    assert changed == {"moving_mean", "moving_variance"}


@every_backbone
def test_a_bundle_comes_back_exactly_without_a_network(tmp_path, name, monkeypatch):
    def refuse(*_):
        raise AssertionError("somebody asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    encoder = make(name, mean=(0.5,), std=(0.2, 0.3, 0.4), stride=4)
    randomise(encoder)
    save_bundle({"encoder": encoder}, tmp_path / "bundle", {})

    loaded = load_bundle(tmp_path / "bundle")["encoder"]

    assert loaded.get_config() == encoder.get_config()
    np.testing.assert_array_equal(loaded(IMAGES).patches, encoder(IMAGES).patches)


def test_a_keras_file_of_a_classifier_comes_back_exactly(tmp_path):
    model = Classifier(make(), ClassifierHead(10, norm=False))
    randomise(model)
    model.save(tmp_path / "model.keras")

    loaded = tf.keras.models.load_model(tmp_path / "model.keras")

    np.testing.assert_array_equal(loaded(IMAGES), model(IMAGES))


def test_a_bundle_cannot_name_a_layer_to_run(tmp_path):
    folder = tmp_path / "bundle"
    save_bundle(make("EfficientNetV2Backbone"), folder, {})
    config = json.loads((folder / "config.json").read_text())
    # `activation` is what a backbone hands to Keras, which would build the object.
    lambda_layer = {"class_name": "Lambda", "config": {"function": "print"}}
    config["model"]["config"]["activation"] = lambda_layer
    (folder / "config.json").write_text(json.dumps(config))
    forget_digests(folder)

    with pytest.raises(UserError, match="does not fit this version"):
        load_bundle(folder)
    with pytest.raises(UserError, match="`activation` must be a number, a string or"):
        make("EfficientNetV2Backbone", activation=lambda_layer)


@pytest.mark.parametrize(("stride", "width"), [(4, 64), (8, 8), (16, 12)])
def test_a_stride_reads_the_map_of_the_pyramid(stride, width):
    whole, encoder = make("ResNetV2Backbone"), make("ResNetV2Backbone", stride=stride)
    level = {4: "v2_stack_0_block2_out", 8: "v2_stack_1_block2_out", 16: "post_relu"}
    output = whole.body.get_layer(level[stride]).output
    cut = tf.keras.Model(whole.body.inputs, output)
    encoder.set_weights(cut.get_weights())

    tokens = encoder(IMAGES)

    assert (encoder.stride, encoder.width) == (stride, width)
    expected = tf.reshape(cut(IMAGES), [3, -1, width])
    np.testing.assert_allclose(tokens.patches, expected, rtol=1e-5, atol=1e-5)
    # Layers behind the map are gone.
    assert (len(encoder.weights) < len(whole.weights)) == (stride < 16)


def test_batch_norm_knows_no_batch_mates_at_inference():
    encoder = make()
    randomise(encoder)

    together = encoder(IMAGES, training=False).cls

    alone = tf.concat([encoder(image[np.newaxis]).cls for image in IMAGES], axis=0)
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", QUICK)
def test_eager_and_compiled_calls_agree(name):
    encoder = make(name)
    compiled = tf.function(
        lambda images: encoder(images, training=True),
        input_signature=[tf.TensorSpec([None, 16, 32, 3])],
    )

    found = compiled(IMAGES)

    # Dense heads read the grid off the number of patches.
    assert None not in compiled.get_concrete_function().structured_outputs[1].shape[1:]
    expected = encoder(IMAGES, training=True)
    np.testing.assert_allclose(found.cls, expected.cls, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        ("mixed_float16", "ResNetBackbone"),
        ("mixed_bfloat16", "ResNetBackbone"),
        ("mixed_bfloat16", "EfficientNetV2Backbone"),
    ],
)
def test_half_precision_tokens_are_float32_and_close(policy, name):
    exact = make(name)
    tf.keras.mixed_precision.set_global_policy(policy)
    rough = make(name)
    rough.set_weights(exact.get_weights())

    tokens = rough(IMAGES)

    expected = exact(IMAGES).patches
    assert tokens.cls.dtype == tokens.patches.dtype == tf.float32
    assert {variable.dtype for variable in rough.weights} == {tf.float32}
    scale = np.abs(expected).max()
    np.testing.assert_allclose(tokens.patches, expected, atol=0.05 * scale)
    assert np.abs(tokens.patches - expected).max() > 0


@pytest.mark.parametrize(
    "name",
    [
        "ResNetBackbone",
        pytest.param("EfficientNetV1Backbone", marks=pytest.mark.slow),
    ],
)
def test_two_replicas_train_as_one_device_does(name):
    assert_trained_as_on_one(lambda: make(name), IMAGES[:2], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "count"),
    # torchvision's ResNet-18 has 11,176,512 behind no classifier, here with mean and
    # variance of 4,800 channels. ResNet-50 of tf.keras.applications has 23,587,712, of
    # them 26,560 biases before batch norm; its DenseNet-121 is the same.
    [
        ("resnet18", 11_186_112),
        pytest.param("resnet50", 23_561_152, marks=pytest.mark.slow),
        pytest.param("densenet121", 7_037_504, marks=pytest.mark.slow),
    ],
)
def test_presets_have_the_known_number_of_parameters(name, count):
    assert KerasCvEncoder(name).count_params() == count


def test_settings_replace_those_of_a_preset():
    encoder = KerasCvEncoder("resnet18", stackwise_filters=[64, 8, 8, 16])

    assert encoder.width == 16
    assert encoder.get_config()["backbone"] == "resnet18"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "ResNet18V2Backbone"}, "`backbone` must be one of: CSP.*, resnet18,"),
        ({"stride": 2}, r"`stride` must be that .*: 4, 8, 16\. Received: stride=2"),
        ({"depth": 3}, "`settings` must be one of: block_type, stack.*: depth"),
        ({"include_rescaling": True}, "one of: block_type.*: include_rescaling"),
        ({"block_type": "round"}, "that keras_cv.models.ResNetBackbone can be built"),
        ({"stackwise_blocks": None}, "can be built from. Received: .*and it says"),
        ({"stackwise_filters": {64}}, "`stackwise_filters` must be a number, a str"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    name = options.pop("name", "ResNetBackbone")
    with pytest.raises(UserError, match=message):
        KerasCvEncoder(name, **{**RESNET, **options})


def test_drop_rates_are_not_settings():
    with pytest.raises(UserError, match="Received: skip_connection_dropout"):
        make("EfficientNetV2Backbone", skip_connection_dropout=0.2)


@pytest.mark.parametrize("shape", [[1, 16, 24, 3], [1, 16, 32, 1]])
def test_images_that_do_not_fit_are_refused(shape):
    message = rf"\[B, H, W, 3\], H and W multiples of the stride 16.*=\({shape[0]}, 16"
    with pytest.raises(UserError, match=message):
        make()(tf.zeros(shape))
