"""Tests of kerobust.models.resnet."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.distribute import strategy
from kerobust.models import Classifier, ClassifierHead, load_bundle, save_bundle
from kerobust.models.resnet import ResidualBlock, ResNet
from tests.models.replicas import assert_trained_as_on_one

IMAGES = np.random.default_rng(0).uniform(size=[4, 8, 8, 3]).astype(np.float32)


def randomise(model):
    """Gives every weight, running statistics included, a value of its own."""
    generator = np.random.default_rng(1)
    for weight in model.weights:
        low, high = (0.5, 1.5) if len(weight.shape) == 1 else (-0.5, 0.5)
        weight.assign(generator.uniform(low, high, weight.shape))


def batch_norms(encoder):
    return [
        layer
        for layer in encoder.submodules
        if isinstance(layer, tf.keras.layers.BatchNormalization)
    ]


def convolve(image, kernel, stride):
    """A loop over output pixels; zeros outside [H, W, C], kernel [3, 3, C, D]."""
    padded = np.pad(image, [[1, 1], [1, 1], [0, 0]])
    rows = range(0, image.shape[0], stride)
    columns = range(0, image.shape[1], stride)
    return np.array(
        [
            [
                np.einsum("ijc,ijcd->d", padded[r : r + 3, c : c + 3], kernel)
                for c in columns
            ]
            for r in rows
        ]
    )


def normalised(image, layer):
    gamma, beta, mean, variance = [each.numpy() for each in layer.weights]
    return gamma * (image - mean) / np.sqrt(variance + 1e-5) + beta


@pytest.mark.parametrize(("height", "width"), [(6, 4), (5, 7)])
def test_a_block_at_stride_2_equals_a_loop_over_pixels(height, width):
    images = np.random.default_rng(2).normal(size=[2, height, width, 4])
    images = images.astype(np.float32)
    block = ResidualBlock(10, stride=2)
    block(images)
    randomise(block)
    expected = []
    for image in images:
        branch = convolve(image, block.conv1.kernel.numpy(), 2)
        branch = np.maximum(normalised(branch, block.norm1), 0.0)
        branch = normalised(
            convolve(branch, block.conv2.kernel.numpy(), 1), block.norm2
        )
        # Pixels 0, 2, 4...; 10 - 4 channels of zeros, three on either side.
        branch[:, :, 3:7] += image[::2, ::2]
        expected.append(np.maximum(branch, 0.0))

    np.testing.assert_allclose(block(images), expected, rtol=1e-4, atol=1e-5)


def test_a_block_that_changes_no_shape_adds_its_input():
    maps = tf.constant(IMAGES)
    block = ResidualBlock(3)
    block(maps)
    block.norm2.gamma.assign(tf.zeros([3]))

    # The branch is 0 times anything + 0, and the pixels are not negative.
    np.testing.assert_array_equal(block(maps), IMAGES)


@pytest.mark.parametrize(
    ("depth", "count"),
    # Convolutions 9 C D: 432, then per stage 6 of 2,304; 4,608 and 5 of 9,216; 18,432
    # and 5 of 36,864; batch norm 2 (7 * 16 + 6 * 32 + 6 * 64); dense 65 * 10: 267,696 +
    # 1,376 + 650. Each further block per stage adds 18 (16^2 + 32^2 + 64^2) + 4 * 112 =
    # 97,216. The paper says 0.27, 0.46, 0.66 and 0.85 million.
    [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018)],
)
def test_depths_have_the_known_number_of_parameters(depth, count):
    model = Classifier(ResNet(depth), ClassifierHead(10, norm=False))

    found = sum(int(np.prod(each.shape)) for each in model.trainable_variables)

    assert found == count


def test_feature_maps_halve_and_widen_and_end_in_the_tokens():
    encoder = ResNet(8)
    images = tf.concat([IMAGES, IMAGES], axis=2)[:, :7]
    maps = encoder.feature_maps(images)

    tokens = encoder(images)

    # 7 rows become 4 and 2: the stride keeps rows 0, 2, 4, 6.
    shapes = [[4, 7, 16, 16], [4, 4, 8, 32], [4, 2, 4, 64]]
    assert [each.shape.as_list() for each in maps] == shapes
    np.testing.assert_array_equal(tokens.patches, tf.reshape(maps[-1], [4, 8, 64]))
    mean = tf.reduce_mean(maps[-1], axis=[1, 2])
    np.testing.assert_allclose(tokens.cls, mean, atol=1e-6)


def test_channels_are_normalised_inside():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    plain, normalising = ResNet(8), ResNet(8, mean=mean, std=std)
    normalising.set_weights(plain.get_weights())
    images = (IMAGES - np.array(mean)) / np.array(std)

    np.testing.assert_allclose(
        normalising(IMAGES).cls, plain(images.astype(np.float32)).cls, atol=1e-5
    )


def test_training_differs_from_inference_in_batch_norm_only():
    encoder = ResNet(8)
    randomise(encoder)
    before = encoder.get_weights()
    for layer in batch_norms(encoder):
        layer.momentum = 0.0  # The running statistics become those of the batch.

    trained = encoder.feature_maps(IMAGES, training=True)

    # With the statistics of the batch, inference computes what training did.
    for quiet, expected in zip(encoder.feature_maps(IMAGES), trained, strict=True):
        np.testing.assert_allclose(quiet, expected, rtol=1e-4, atol=1e-4)
    changed = [
        weight.name.split("/")[-1].split(":")[0]
        for weight, old in zip(encoder.weights, before, strict=True)
        if np.any(weight.numpy() != old)
    ]
    assert set(changed) == {"moving_mean", "moving_variance"}
    assert len(changed) == 2 * len(batch_norms(encoder)) == 2 * 7


def test_inference_changes_no_weight_and_knows_no_batch_mates():
    encoder = ResNet(8)
    randomise(encoder)
    before = encoder.get_weights()

    together = encoder(IMAGES, training=False).cls

    alone = tf.concat([encoder(image[np.newaxis]).cls for image in IMAGES], axis=0)
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)
    for old, new in zip(before, encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_eager_and_compiled_calls_agree():
    encoder = ResNet(8)
    compiled = tf.function(lambda images: encoder(images, training=True))

    np.testing.assert_allclose(
        compiled(IMAGES).cls, encoder(IMAGES, training=True).cls, rtol=1e-4, atol=1e-5
    )


def test_all_variables_exist_after_construction():
    encoder = ResNet(8)
    before = [variable.name for variable in encoder.weights]

    encoder(IMAGES, training=True)

    # 7 convolutions and 7 batch norms of four weights, two of them trained.
    assert [variable.name for variable in encoder.weights] == before
    assert (len(before), len(encoder.trainable_variables)) == (35, 21)


def test_kernels_start_normal_with_twice_the_variance_over_the_inputs():
    kernel = ResNet(8).stages[2][0].conv2.kernel.numpy()

    # 36,864 draws: the deviation is known to 0.4 %.
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 64)), rtol=0.02)
    assert np.abs(kernel).max() > 3 * kernel.std()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_tokens_are_float32_and_close(policy):
    exact = ResNet(8)
    tf.keras.mixed_precision.set_global_policy(policy)
    rough = ResNet(8)
    rough.set_weights(exact.get_weights())

    tokens, maps = rough(IMAGES), rough.feature_maps(IMAGES, training=True)

    expected = exact(IMAGES).patches
    assert tokens.cls.dtype == tokens.patches.dtype == maps[0].dtype == tf.float32
    assert {variable.dtype for variable in rough.weights} == {tf.float32}
    scale = np.abs(expected).max()
    np.testing.assert_allclose(tokens.patches, expected, atol=0.05 * scale)
    assert np.abs(tokens.patches - expected).max() > 0


def test_two_replicas_train_as_one_device_does():
    assert_trained_as_on_one(lambda: ResNet(8), IMAGES, rtol=1e-4, atol=1e-5)


def test_layer_groups_go_from_input_to_output():
    encoder = ResNet(14)

    groups = encoder.layer_groups()

    # A block: two kernels, two times gamma and beta.
    assert [len(group) for group in groups] == [3, 6, 6, 6, 6, 6, 6, 0]
    grouped = [id(variable) for group in groups for variable in group]
    assert sorted(grouped) == sorted(id(each) for each in encoder.trainable_variables)
    assert groups[3][0] is encoder.stages[1][0].conv1.kernel


@pytest.mark.parametrize("name", ["bundle", "model.keras"])
def test_a_saved_classifier_reloads_exactly(tmp_path, name):
    encoder = ResNet(8, mean=(0.5,), std=(0.2, 0.3, 0.4))
    model = Classifier(encoder, ClassifierHead(10, norm=False))
    randomise(model)
    if name == "bundle":
        save_bundle(model, tmp_path / name, {})
        loaded = load_bundle(tmp_path / name)
    else:
        model.save(tmp_path / name)
        loaded = tf.keras.models.load_model(tmp_path / name)

    assert loaded.encoder.get_config() == encoder.get_config()
    np.testing.assert_array_equal(loaded(IMAGES), model(IMAGES))


def test_a_bundle_written_under_two_replicas_holds_their_statistics(tmp_path):
    devices = strategy(2)
    with devices.scope():
        encoder = ResNet(8)
    randomise(encoder)
    save_bundle(encoder, tmp_path / "encoder", {})

    with devices.scope():
        loaded = load_bundle(tmp_path / "encoder")

    for ours, theirs in zip(encoder.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(theirs.numpy(), ours.numpy())


@pytest.mark.parametrize("depth", [2, 18, 21])
def test_depths_between_the_blocks_are_refused(depth):
    message = rf"`depth` must be 6 n \+ 2, such as 8, 20, .*Received: depth={depth}\."
    with pytest.raises(UserError, match=message):
        ResNet(depth)


def test_images_with_other_channels_are_refused():
    with pytest.raises(UserError, match=r"must be \[B, H, W, 1\].*=\(4, 8, 8, 3\)"):
        ResNet(8, channels=1)(IMAGES)
