"""Tests of kerobust.models.resnet18, against the network of DeACL's code."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.models import (
    Classifier,
    ClassifierHead,
    ResNet18,
    ignored_names,
    load_bundle,
    load_resnet18,
    save_bundle,
)
from tests.goldens.closed_form import checks
from tests.models.filled import fill, formula

SHA256 = "30fefbc4b8b9f77c89b3d6a0b97e0bc70770cafa0650c25fe4e7e1d3bf8237dd"
WIDTHS = (64, 128, 256, 512)
IMAGES = np.random.default_rng(0).uniform(size=[3, 8, 8, 3]).astype(np.float32)


def small(**options):
    return ResNet18(widths=(4, 8, 16, 32), **options)


def order(widths=WIDTHS):
    """(name, shape) of every parameter, in the order in which PyTorch keeps them."""
    found = [["conv1.weight", [widths[0], 3, 3, 3]], *norm("bn1", widths[0])]
    before = widths[0]
    for stage, width in enumerate(widths):
        for block in range(2):
            owner = f"layer{stage + 1}.{block}"
            found.append([f"{owner}.conv1.weight", [width, before, 3, 3]])
            found += norm(f"{owner}.bn1", width)
            found.append([f"{owner}.conv2.weight", [width, width, 3, 3]])
            found += norm(f"{owner}.bn2", width)
            if block == 0 and stage > 0:
                found.append([f"{owner}.downsample.0.weight", [width, before, 1, 1]])
                found += norm(f"{owner}.downsample.1", width)
            before = width
    return found


def norm(owner, width):
    return [[f"{owner}.weight", [width]], [f"{owner}.bias", [width]]]


def with_statistics(parameters):
    """Adds the running statistics of fresh batch norms: mean 0, variance 1."""
    state = dict(parameters)
    for name, values in parameters.items():
        if values.ndim == 1 and name.endswith(".weight"):
            owner = name.removesuffix(".weight")
            state[f"{owner}.running_mean"] = np.zeros_like(values)
            state[f"{owner}.running_var"] = np.ones_like(values)
            state[f"{owner}.num_batches_tracked"] = np.array(7)
    return state


@pytest.fixture(scope="module")
def state():
    """A small network, values all unlike."""
    generator = np.random.default_rng(1)
    values = with_statistics(fill(order((4, 8, 16, 32))))
    return {
        name: generator.uniform(0.5, 1.5, each.shape).astype(np.float32)
        for name, each in values.items()
    }


def test_features_equal_those_of_the_original_code():
    golden = checks("dino_deacl_encoders.json", SHA256)["A5_resnet18_cifar"]
    expected = golden["expected"]
    assert order()[:8] == golden["param_order_first8"]
    images = formula(golden["inputs"]["x"]).transpose(0, 2, 3, 1).astype(np.float32)

    encoder = load_resnet18(with_statistics(fill(order())))

    cls = encoder(images).cls[0].numpy()
    np.testing.assert_allclose(cls[:6], expected["feat_first6"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(cls.sum(), expected["feat_sum"], rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(cls), expected["feat_l2"], rtol=1e-4)
    shapes = [
        [1, side, side, width]
        for width, side in zip(WIDTHS, (34, 17, 9, 5), strict=True)
    ]
    found = [each.shape.as_list() for each in encoder.feature_maps(images)]
    assert found == shapes
    torch_shapes = [[n, c, h, w] for n, h, w, c in found]
    assert torch_shapes == [shape for _, shape in expected["shapes"][1:]]
    parameters = sum(int(np.prod(each.shape)) for each in encoder.trainable_variables)
    assert parameters == golden["n_params"] == 11_168_832


def test_features_end_in_the_tokens():
    encoder = small()

    tokens = encoder(IMAGES)

    # 8 + 2 pixels, halved three times: 10, 5, 3, 2.
    last = encoder.feature_maps(IMAGES)[-1]
    assert encoder.width == 32
    np.testing.assert_array_equal(tokens.patches, tf.reshape(last, [3, 4, 32]))
    mean = tf.reduce_mean(last, axis=[1, 2])
    np.testing.assert_allclose(tokens.cls, mean, atol=1e-6)


def test_a_shortcut_at_stride_2_weighs_every_second_pixel():
    encoder = small()
    block = encoder.stages[1][0]
    maps = tf.constant(np.random.default_rng(2).normal(size=[2, 5, 6, 4]), tf.float32)
    block.norm2.gamma.assign(tf.zeros([8]))

    found = block(maps)

    # The branch is 0: what is left is a dense layer on every second pixel and the
    # fresh batch norm, which divides by sqrt(1 + 1e-5).
    kernel = block.shortcut.kernel[0, 0]
    expected = tf.nn.relu(maps[:, ::2, ::2] @ kernel / np.sqrt(1 + 1e-5))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_padding_is_of_zeros_around_the_normalised_images():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    encoder, plain = small(mean=mean, std=std), small(stem_padding=1)
    plain.set_weights(encoder.get_weights())
    images = (IMAGES - np.array(mean)) / np.array(std)
    padded = np.pad(images.astype(np.float32), [[0, 0], [1, 1], [1, 1], [0, 0]])

    expected = plain.feature_maps(padded)[0]

    np.testing.assert_allclose(encoder.feature_maps(IMAGES)[0], expected, atol=1e-5)


def test_padding_1_keeps_the_size_of_the_images():
    maps = small(stem_padding=1).feature_maps(IMAGES)

    assert [each.shape[1] for each in maps] == [8, 4, 2, 1]


@pytest.mark.parametrize(
    "prefix", ["", "backbone.", "encoder.", "module.backbone.", "module.encoder."]
)
def test_every_array_becomes_the_weight_of_its_layer(state, prefix):
    longer = {prefix + name: each for name, each in state.items()}

    encoder = load_resnet18(longer)

    kernel = state["layer3.0.downsample.0.weight"]  # [16, 8, 1, 1]
    block = encoder.stages[2][0]
    np.testing.assert_array_equal(block.shortcut.kernel[0, 0], kernel[:, :, 0, 0].T)
    names = ("weight", "bias", "running_mean", "running_var")
    expected = [state[f"layer3.0.downsample.1.{name}"] for name in names]
    np.testing.assert_array_equal(block.shortcut_norm.get_weights(), expected)
    found = sorted(float(each.sum(dtype=np.float64)) for each in encoder.get_weights())
    kept = [each for name, each in state.items() if "tracked" not in name]
    sums = sorted(float(each.sum(dtype=np.float64)) for each in kept)
    np.testing.assert_allclose(found, sums, rtol=1e-12)


def test_names_of_public_cifar_code_are_the_same_network(state):
    other = {name.replace("downsample", "shortcut"): x for name, x in state.items()}

    expected = load_resnet18(state)(IMAGES).cls

    np.testing.assert_array_equal(load_resnet18(other)(IMAGES).cls, expected)


def test_normalisation_is_that_of_cifar_10_unless_told(state):
    config = load_resnet18(state).get_config()

    assert config["mean"] == [0.4914, 0.4822, 0.4465]
    assert config["std"] == [0.247, 0.243, 0.261]
    assert load_resnet18(state, std=(1.0,)).get_config()["std"] == [1.0, 1.0, 1.0]


def test_heads_and_projectors_are_left_out_by_name(state):
    backbone = {f"backbone.{name}": each for name, each in state.items()}
    heads = {"projector.0.weight": np.ones(3), "classifier.bias": np.ones(3)}

    ignored = ignored_names({**backbone, **heads}, "deacl")

    counters = [name for name in backbone if "num_batches_tracked" in name]
    assert sorted(ignored) == sorted([*heads, *counters])
    expected = load_resnet18(state)(IMAGES).cls
    found = load_resnet18({**backbone, **heads})(IMAGES).cls
    np.testing.assert_array_equal(found, expected)


def test_a_classifier_without_a_prefix_is_left_out_too(state):
    assert "fc.weight" in ignored_names({**state, "fc.weight": 1}, "deacl")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer2.0.downsample.1.bias": None}, "missing layer2.0.downsample.1.bias"),
        ({"layer1.2.conv1.weight": np.ones(1)}, "unexpected layer1.2.conv1.weight"),
        (
            {"conv1.weight": np.ones(4)},
            r"conv1.weight has shape \(4,\) instead of",
        ),
        (
            {"conv1.weight": np.ones([4, 3, 7, 7])},
            r"conv1.weight has shape \(7, 7, 3, 4\) instead of \(3, 3, 3, 4\)",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(state, change, message):
    changed = {**state, **change}
    kept = {name: each for name, each in changed.items() if each is not None}

    with pytest.raises(UserError, match=message):
        load_resnet18(kept)


def test_another_network_names_what_is_missing():
    with pytest.raises(
        UserError, match="missing layer4.1.conv2.weight.*unexpected cls"
    ):
        load_resnet18({"cls_token": np.ones([1, 1, 4])})


def test_inference_knows_no_batch_mates_and_training_does():
    encoder = small()

    together = encoder(IMAGES, training=False).cls

    alone = tf.concat([encoder(image[np.newaxis]).cls for image in IMAGES], axis=0)
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)
    assert np.abs(encoder(IMAGES, training=True).cls - together).max() > 1e-3


def test_training_records_the_statistics_of_every_batch_norm():
    encoder = small()
    before = encoder.get_weights()

    encoder(IMAGES, training=True)

    changed = [
        weight.name.split("/")[-1].split(":")[0]
        for weight, old in zip(encoder.weights, before, strict=True)
        if np.any(weight.numpy() != old)
    ]
    # 17 after convolutions of 3 x 3, 3 after projections.
    assert sorted(changed) == ["moving_mean"] * 20 + ["moving_variance"] * 20


def test_all_variables_exist_and_are_grouped_from_input_to_output():
    encoder = small()
    before = [variable.name for variable in encoder.weights]

    encoder(IMAGES, training=True)

    # 17 convolutions of 3 x 3, 3 projections; as many batch norms of 4 weights.
    assert [variable.name for variable in encoder.weights] == before
    assert (len(before), len(encoder.trainable_variables)) == (100, 60)
    groups = encoder.layer_groups()
    assert [len(group) for group in groups] == [3, 6, 6, 9, 6, 9, 6, 9, 6, 0]
    grouped = {id(each) for group in groups for each in group}
    assert grouped == {id(each) for each in encoder.trainable_variables}


@pytest.mark.parametrize("name", ["bundle", "model.keras"])
def test_a_saved_classifier_reloads_exactly(tmp_path, state, name):
    encoder = load_resnet18(state, stem_padding=1)
    model = Classifier(encoder, ClassifierHead(10, norm=False))
    if name == "bundle":
        save_bundle(model, tmp_path / name, {})
        loaded = load_bundle(tmp_path / name)
    else:
        model.save(tmp_path / name)
        loaded = tf.keras.models.load_model(tmp_path / name)

    assert loaded.encoder.get_config() == encoder.get_config()
    np.testing.assert_array_equal(loaded(IMAGES), model(IMAGES))


def test_half_precision_tokens_are_float32_and_close():
    exact = small()
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    rough = small()
    rough.set_weights(exact.get_weights())

    tokens = rough(IMAGES)

    expected = exact(IMAGES).patches
    assert tokens.cls.dtype == tokens.patches.dtype == tf.float32
    scale = np.abs(expected).max()
    np.testing.assert_allclose(tokens.patches, expected, atol=0.05 * scale)


def test_impossible_settings_and_images_are_refused():
    with pytest.raises(UserError, match="`stem_padding` must be at least 1.*padding=0"):
        small(stem_padding=0)
    with pytest.raises(UserError, match=r"must be \[B, H, W, 1\].*=\(3, 8, 8, 3\)"):
        small(channels=1)(IMAGES)
