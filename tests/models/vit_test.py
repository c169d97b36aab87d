"""Tests of kerobust.models.vit."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.distribute import strategy
from kerobust.models.positions import sincos_2d
from kerobust.models.vit import VisionTransformer, VitConfig
from kerobust.patches import patchify
from kerobust.randomness import example_keys
from tests.goldens.closed_form import checks

SHA256 = "841065bda02673aec62e78177271a9bada832a636becb22b2c3095e0270b9c5e"
IMAGES = np.random.default_rng(0).uniform(size=[3, 4, 8, 3]).astype(np.float32)
PATCHES = 8  # 2 rows of 4.


def small(**options):
    settings = {"patch_size": 2, "width": 16, "depth": 2, "heads": 2, **options}
    return VisionTransformer((4, 8), **settings)


def orders(kept=PATCHES, seed=0):
    generator = np.random.default_rng(seed)
    return np.stack([generator.permutation(PATCHES)[:kept] for _ in IMAGES])


@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_tokens_are_float32_and_named(positions):
    tokens = small(positions=positions)(IMAGES)

    assert tokens.cls.shape == [3, 16]
    assert tokens.patches.shape == [3, PATCHES, 16]
    assert tokens.cls.dtype == tokens.patches.dtype == tf.float32


def test_the_first_block_reads_embedded_patches_at_their_positions():
    encoder = small(depth=1)
    kernel, bias = encoder.patch_embedding.get_weights()
    table = sincos_2d(2, 4, 16)
    patches = patchify(IMAGES, 2) @ kernel + bias + table[1:]
    cls = np.broadcast_to(encoder.cls_token.numpy(), [3, 1, 16])
    expected = encoder.blocks[0](np.concatenate([cls, patches], axis=1))

    np.testing.assert_allclose(encoder.feature_maps(IMAGES)[0], expected, atol=1e-5)


def test_patch_embedding_is_the_strided_convolution():
    encoder = small()
    kernel, bias = encoder.patch_embedding.get_weights()
    convolution = tf.nn.conv2d(IMAGES, kernel.reshape(2, 2, 3, 16), 2, "VALID") + bias

    embedded = encoder.patch_embedding(patchify(IMAGES, 2))

    np.testing.assert_allclose(
        embedded, tf.reshape(convolution, [3, PATCHES, 16]), atol=1e-5
    )


def test_seeing_all_patches_in_another_order_permutes_the_patch_tokens():
    encoder, order = small(), orders()
    plain = encoder(IMAGES)

    shuffled = encoder(IMAGES, visible=order)

    np.testing.assert_allclose(shuffled.cls, plain.cls, atol=1e-5)
    expected = tf.gather(plain.patches, order, batch_dims=1)
    np.testing.assert_allclose(shuffled.patches, expected, atol=1e-5)


def test_hidden_patches_change_nothing_and_get_a_gradient_of_exactly_zero():
    encoder, order = small(), orders(kept=3)
    visible = np.zeros([3, PATCHES])
    np.put_along_axis(visible, order, 1.0, axis=1)
    seen = np.repeat(np.repeat(visible.reshape(3, 2, 4, 1), 2, axis=1), 2, axis=2)
    images = tf.constant(IMAGES)
    other = np.where(seen, IMAGES, 1.0 - IMAGES)

    with tf.GradientTape() as tape:
        tape.watch(images)
        tokens = encoder(images, visible=order)
        value = tf.reduce_sum(tokens.cls[:, 0]) + tf.reduce_sum(tokens.patches[..., 1])
    gradient = tape.gradient(value, images).numpy()

    np.testing.assert_array_equal(encoder(other, visible=order).patches, tokens.patches)
    np.testing.assert_array_equal(gradient[np.repeat(seen, 3, axis=3) == 0], 0.0)
    assert np.abs(gradient[np.repeat(seen, 3, axis=3) == 1]).min() > 0


def test_eager_and_compiled_calls_agree():
    encoder, order = small(), orders(kept=3)
    compiled = tf.function(lambda images: encoder(images, visible=order))

    np.testing.assert_allclose(
        compiled(IMAGES).patches, encoder(IMAGES, visible=order).patches, atol=1e-5
    )


def test_channels_are_normalised_inside():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    plain, normalising = small(), small(mean=mean, std=std)
    normalising.set_weights(plain.get_weights())
    images = (IMAGES - np.array(mean)) / np.array(std)

    np.testing.assert_allclose(
        normalising(IMAGES).cls, plain(images.astype(np.float32)).cls, atol=1e-5
    )


def test_feature_maps_are_the_blocks_and_end_in_the_tokens():
    encoder = small()
    maps = encoder.feature_maps(IMAGES)

    tokens = encoder(IMAGES)

    assert [each.shape for each in maps] == [[3, 1 + PATCHES, 16]] * 2
    final = encoder.norm(maps[-1])
    np.testing.assert_allclose(final[:, 0], tokens.cls, atol=1e-6)
    np.testing.assert_allclose(final[:, 1:], tokens.patches, atol=1e-6)


def test_without_final_norm_the_tokens_are_the_last_block():
    encoder = small(final_norm=False)

    tokens = encoder(IMAGES)

    last = encoder.feature_maps(IMAGES)[-1]
    np.testing.assert_allclose(tokens.patches, last[:, 1:], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "count"),
    # Class token 1, embedding 2, two blocks of 12, norm 2, positions 1 if a weight.
    [
        ({}, 29),
        ({"final_norm": False}, 27),
        ({"train_positions": True}, 30),
        ({"positions": "learned"}, 30),
    ],
)
def test_all_variables_exist_after_construction(options, count):
    encoder = small(**options)
    before = [variable.name for variable in encoder.weights]

    encoder(IMAGES)

    assert [variable.name for variable in encoder.weights] == before
    assert len(before) == len(encoder.trainable_variables) == count


def test_trained_positions_start_at_the_sine_cosine_table():
    encoder = small(train_positions=True)

    np.testing.assert_array_equal(encoder.positions, sincos_2d(2, 4, 16))


def test_tokens_start_with_small_normal_values():
    encoder = VisionTransformer((32, 32), 2, 32, 1, 2, positions="learned")

    # 257 * 32 draws: the deviation is known to 1%, the mean to 2e-4.
    positions = encoder.positions.numpy()
    np.testing.assert_allclose(positions.std(), 0.02, rtol=0.05)
    np.testing.assert_allclose(positions.mean(), 0.0, atol=0.001)
    assert 0 < np.abs(encoder.cls_token.numpy()).max() < 0.1


@pytest.mark.parametrize(
    ("size", "patch_size", "count"),
    [("tiny", 4, 5_362_762), ("small", 4, 21_342_346), ("base", 2, 85_271_818)],
)
def test_sizes_have_the_known_number_of_parameters(size, patch_size, count):
    # Twelve blocks of 12 D^2 + 13 D; patch embedding (3 p^2 + 1) D; class token D;
    # positions (1 + N) D; a head of norm 2 D and dense 10 (D + 1). For base that is
    # 85,054,464 + 9,984 + 768 + 197,376 + 1,536 + 7,690. Xu et al. print 85.27 M for
    # base at p = 2 and 21.34 M for small at p = 4.
    config = VitConfig(size=size, patch_size=patch_size)

    encoder = config.build((32, 32, 3), final_norm=False, train_positions=True)

    head = 2 * encoder.width + 10 * (encoder.width + 1)
    assert encoder.count_params() + head == count


def test_settings_override_the_size():
    encoder = VitConfig(size="tiny", depth=1, width=12, heads=3).build((8, 8, 1), 0.2)

    assert (encoder.width, encoder.depth, encoder.heads) == (12, 1, 3)
    assert (encoder.channels, encoder.grid, encoder.drop_path) == (1, (4, 4), 0.2)


def test_drop_path_rises_linearly_over_the_blocks():
    golden = checks("mimir_dense_diffattack.json", SHA256)["schedules"]["expected"]
    encoder = small(depth=12, drop_path=0.1, width=4, heads=1)

    rates = [block.mlp_drop.rate for block in encoder.blocks]

    np.testing.assert_allclose(rates, golden["droppath_0.1_depth12"])
    streams = {
        drop.stream
        for block in encoder.blocks
        for drop in (block.attention_drop, block.mlp_drop)
    }
    assert len(streams) == 24  # Every branch decides for itself.


def test_drop_path_acts_in_training_only_and_follows_the_keys():
    encoder, keys = small(drop_path=0.9), example_keys(0, 0, [7, 8, 9])
    quiet = encoder(IMAGES).cls

    trained = encoder(IMAGES, training=True, keys=keys).cls
    reversed_batch = encoder(IMAGES[::-1], training=True, keys=keys[::-1]).cls

    np.testing.assert_allclose(reversed_batch[::-1], trained, atol=1e-5)
    np.testing.assert_array_equal(encoder(IMAGES, training=False).cls, quiet)
    assert np.abs(trained - quiet).max() > 1e-3


def test_training_with_drop_path_asks_for_keys():
    with pytest.raises(ValueError, match="`keys` .* must be given"):
        small(drop_path=0.1)(IMAGES, training=True)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_tokens_are_float32_and_close(policy):
    exact = small(train_positions=True)
    tf.keras.mixed_precision.set_global_policy(policy)
    rough = small(train_positions=True)
    rough.set_weights(exact.get_weights())

    tokens, maps = rough(IMAGES, visible=orders(3)), rough.feature_maps(IMAGES)

    expected = exact(IMAGES, visible=orders(3))
    assert tokens.cls.dtype == maps[0].dtype == tf.float32
    assert {variable.dtype for variable in rough.weights} == {tf.float32}
    np.testing.assert_allclose(tokens.patches, expected.patches, atol=0.1)
    assert np.abs(tokens.patches - expected.patches).max() > 0


def test_two_replicas_compute_what_one_device_does():
    devices = strategy(2)
    with devices.scope():
        encoder = small(train_positions=True)
    single = small(train_positions=True)
    single.set_weights(encoder.get_weights())

    @tf.function
    def run(images):
        return devices.run(lambda images: encoder(images).cls, (images,))

    for result in devices.experimental_local_results(run(IMAGES)):
        np.testing.assert_allclose(result, single(IMAGES).cls, atol=1e-5)
    assert len(encoder.weights) == len(single.weights)


def test_layer_groups_go_from_input_to_output():
    encoder = small(train_positions=True)

    groups = encoder.layer_groups()

    assert [len(group) for group in groups] == [4, 12, 12, 2]
    first = {variable.name.split(":")[0] for variable in groups[0]}
    embedding = {"patch_embedding/kernel", "patch_embedding/bias"}
    assert first == {"cls_token", "positions"} | embedding
    assert all("block_1/" in variable.name for variable in groups[2])


def test_layer_groups_without_final_norm_end_empty():
    assert [len(group) for group in small(final_norm=False).layer_groups()] == [
        3,
        12,
        12,
        0,
    ]


def test_a_saved_encoder_reloads_exactly(tmp_path):
    encoder = small(train_positions=True, mean=(0.5,), std=(0.25,), drop_path=0.1)
    encoder.save(tmp_path / "encoder.keras")

    loaded = tf.keras.models.load_model(tmp_path / "encoder.keras")

    assert loaded.get_config() == encoder.get_config()
    np.testing.assert_array_equal(loaded(IMAGES).patches, encoder(IMAGES).patches)


def test_checkpoints_restore_exactly(tmp_path):
    first, second = small(), small()
    path = tf.train.Checkpoint(encoder=first).save(tmp_path / "checkpoint")

    status = tf.train.Checkpoint(encoder=second).restore(path)

    status.assert_consumed()
    np.testing.assert_array_equal(second(IMAGES).cls, first(IMAGES).cls)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"patch_size": 3},
            r"`--model.patch_size` must divide .*=3 for 4 x 8 .*1, 2, 4",
        ),
        ({"heads": 3}, "`heads` .*--model.heads"),
        ({"width": 18}, "`width` .*multiple of 4"),
        (
            {"positions": "rotary"},
            "`--model.positions` must be one of: sincos, learned",
        ),
        (
            {"mean": (0.5, 0.5)},
            r"`--model.mean` must .* per channel \(3\).*\(0.5, 0.5\)",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        small(**options)


def test_images_of_another_size_are_refused_also_when_masked():
    # Without the check, masked calls would look up the wrong positions in silence.
    images = np.zeros([3, 8, 8, 3], np.float32)

    with pytest.raises(UserError, match=r"must be \[B, 4, 8, 3\].*=\(3, 8, 8, 3\)"):
        small()(images, visible=orders(3))


def test_an_unknown_size_is_refused_with_a_suggestion():
    with pytest.raises(UserError, match='`--model.size` .*mean "small"'):
        VitConfig(size="smal")
