"""Tests of kerobust.models.transformer: registers, layer scale, SwiGLU, no qkv bias."""

import json

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.models import VisionTransformer, VitConfig, load_bundle, save_bundle
from kerobust.models.blocks import LayerScale, SwiGlu
from kerobust.models.weights import copy_encoder_weights, named_weights

IMAGES = np.random.default_rng(0).uniform(size=[2, 4, 8, 3]).astype(np.float32)
PATCHES = 8  # 2 rows of 4.
OPTIONS = {"registers": 3, "layer_scale": 0.5, "mlp": "swiglu", "qkv_bias": False}


def small(**options):
    settings = {"patch_size": 2, "width": 16, "depth": 2, "heads": 2, **options}
    return VisionTransformer((4, 8), **settings)


def randomised(**options):
    encoder = small(**options)
    generator = np.random.default_rng(1)
    for weight in encoder.weights:
        weight.assign(generator.normal(size=weight.shape) * 0.3)
    return encoder


def test_registers_stand_without_positions_between_class_token_and_patches():
    encoder = randomised(registers=3, depth=1, positions="learned")
    plain = small(depth=1, positions="learned")
    values = {name: each.numpy() for name, each in named_weights(encoder).items()}
    registers = values.pop("register_tokens")
    for name, weight in named_weights(plain).items():
        weight.assign(values[name])
    # What the first block reads: class token and patches as ever, registers as stored.
    embedded = plain._embed(IMAGES, None)
    tokens = tf.concat(
        [embedded[:, :1], np.repeat(registers, 2, axis=0), embedded[:, 1:]], axis=1
    )
    expected = encoder.norm(encoder.blocks[0](tokens))

    found = encoder(IMAGES)

    np.testing.assert_allclose(found.cls, expected[:, 0], atol=1e-5)
    np.testing.assert_allclose(found.patches, expected[:, 4:], atol=1e-5)
    assert np.abs(found.cls - plain(IMAGES).cls).max() > 1e-2


def test_no_result_holds_a_register():
    encoder = randomised(registers=3)

    tokens, attention = encoder(IMAGES), encoder.last_attention(IMAGES)

    (intermediate,) = encoder.intermediate_tokens(IMAGES, 1)
    maps = encoder.feature_maps(IMAGES)
    assert tokens.patches.shape == [2, PATCHES, 16]
    assert [each.shape for each in maps] == [[2, 1 + PATCHES, 16]] * 2
    np.testing.assert_allclose(intermediate.patches, tokens.patches, atol=1e-6)
    np.testing.assert_allclose(intermediate.cls, tokens.cls, atol=1e-6)
    assert attention.shape == [2, 2, 1 + PATCHES, 1 + PATCHES]
    sums = attention.numpy().sum(axis=-1)
    assert (sums < 1).all()  # The rest went to the registers.


def test_attention_with_registers_is_that_of_the_named_tokens():
    encoder = randomised(registers=3, depth=1)
    kept = [0, *range(4, 4 + PATCHES)]
    whole = encoder.blocks[0].attention_weights(encoder._embed(IMAGES, None)).numpy()

    attention = encoder.last_attention(IMAGES)

    np.testing.assert_allclose(attention, whole[:, :, kept][:, :, :, kept], rtol=1e-6)


def test_visible_patches_and_registers_go_together():
    encoder, order = randomised(registers=3), [[5, 0, 7], [1, 2, 3]]
    everything = np.stack([np.random.default_rng(2).permutation(8) for _ in IMAGES])

    some, all_patches = encoder(IMAGES, visible=order), encoder(IMAGES, everything)

    assert some.patches.shape == [2, 3, 16]
    expected = tf.gather(encoder(IMAGES).patches, everything, batch_dims=1)
    np.testing.assert_allclose(all_patches.patches, expected, atol=1e-4)


def test_layer_scale_weighs_both_branches_before_they_are_dropped_or_added():
    block = randomised(layer_scale=0.5).blocks[0]
    tokens = np.random.default_rng(3).normal(size=[2, 5, 16]).astype(np.float32)
    attention, mlp = block.attention_scale.gamma, block.mlp_scale.gamma
    half = tokens + attention * block.attention(block.attention_norm(tokens))
    expected = half + mlp * block.mlp(block.mlp_norm(half))

    np.testing.assert_allclose(block(tokens), expected, rtol=1e-5, atol=1e-6)


def test_layer_scale_starts_at_its_initial_value():
    layer = LayerScale(1e-5)

    np.testing.assert_allclose(layer(tf.ones([1, 2, 4])), np.full([1, 2, 4], 1e-5))


@pytest.mark.parametrize(
    ("width", "hidden", "gated"),
    # (int(2 hidden / 3) + 7) // 8 * 8; the second is the ViT-g of DINOv2.
    [(16, 64, 48), (1536, 6144, 4096), (384, 1536, 1024)],
)
def test_swiglu_is_as_wide_as_that_of_the_original_code(width, hidden, gated):
    layer = SwiGlu(width, hidden)

    assert layer.expand.units == 2 * gated
    assert layer.reduce.units == width


def test_swiglu_gates_the_second_half_with_the_first():
    layer = SwiGlu(1, 12)  # 8 gates, 8 values.
    layer(tf.zeros([1, 1, 1]))
    expand = np.concatenate([np.full([1, 8], 2.0), np.full([1, 8], 3.0)], axis=1)
    layer.set_weights([expand, np.zeros(16), np.ones([8, 1]), np.zeros(1)])
    # At x = 1 every gate is silu(2) = 2 / (1 + exp(-2)) and every value 3.
    expected = 8 * 3 * 2 / (1 + np.exp(-2.0))

    np.testing.assert_allclose(layer(tf.ones([1, 1, 1])), [[[expected]]], rtol=1e-6)


@pytest.mark.parametrize(
    ("option", "more"),
    # Two blocks: two scales each; two qkv biases fewer; one weight of registers.
    [
        ({"registers": 4}, ["register_tokens"]),
        (
            {"layer_scale": 1.0},
            [
                "blocks/0/attention_scale/gamma",
                "blocks/0/mlp_scale/gamma",
                "blocks/1/attention_scale/gamma",
                "blocks/1/mlp_scale/gamma",
            ],
        ),
        ({"mlp": "swiglu"}, []),
    ],
)
def test_options_add_weights_and_rename_none(option, more):
    before, after = named_weights(small()), named_weights(small(**option))

    assert sorted(after) == sorted([*before, *more])


def test_without_a_bias_queries_keys_and_values_have_only_a_kernel():
    gone = set(named_weights(small())) - set(named_weights(small(qkv_bias=False)))

    assert gone == {f"blocks/{index}/attention/qkv/bias" for index in range(2)}


def test_all_variables_exist_after_construction():
    encoder = small(**OPTIONS)
    before = [variable.name for variable in encoder.weights]

    encoder(IMAGES)

    # 29 of the plain one, 1 of registers, 4 scales, 2 biases fewer.
    assert [variable.name for variable in encoder.weights] == before
    assert len(before) == len(encoder.trainable_variables) == 32
    groups = encoder.layer_groups()
    assert [len(group) for group in groups] == [4, 13, 13, 2]


def test_half_precision_tokens_are_float32_and_close():
    exact = randomised(**OPTIONS)
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    rough = small(**OPTIONS)
    rough.set_weights(exact.get_weights())

    tokens, attention = rough(IMAGES), rough.last_attention(IMAGES)

    assert tokens.cls.dtype == tokens.patches.dtype == attention.dtype == tf.float32
    np.testing.assert_allclose(tokens.cls, exact(IMAGES).cls, atol=0.1)


def test_a_saved_encoder_reloads_exactly(tmp_path):
    encoder = randomised(**OPTIONS)
    save_bundle(encoder, tmp_path / "encoder", {})
    encoder.save(tmp_path / "encoder.keras")

    for loaded in (
        load_bundle(tmp_path / "encoder"),
        tf.keras.models.load_model(tmp_path / "encoder.keras"),
    ):
        assert loaded.get_config() == encoder.get_config()
        np.testing.assert_array_equal(loaded(IMAGES).patches, encoder(IMAGES).patches)


def test_bundles_of_earlier_versions_load(tmp_path, monkeypatch):
    encoder = randomised()
    new = {*OPTIONS, "interpolation"}
    old = {key: each for key, each in encoder.get_config().items() if key not in new}
    monkeypatch.setattr(VisionTransformer, "get_config", lambda self: old)
    save_bundle(encoder, tmp_path / "encoder", {})
    monkeypatch.undo()

    loaded = load_bundle(tmp_path / "encoder")

    written = json.loads((tmp_path / "encoder" / "config.json").read_text())
    assert not new & set(written["model"]["config"])
    np.testing.assert_array_equal(loaded(IMAGES).patches, encoder(IMAGES).patches)


def test_flags_build_the_same_encoder():
    config = VitConfig(
        width=16, depth=1, heads=2, mlp_ratio=2.0, **OPTIONS, positions="learned"
    ).replace(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3))

    encoder = config.build((8, 8, 3))

    found = encoder.get_config()
    assert {name: found[name] for name in OPTIONS} == OPTIONS
    assert found["mlp_ratio"] == 2.0
    assert VitConfig().shaped_like(encoder) == config


def test_a_fine_tuning_encoder_takes_registers_and_scales():
    source = randomised(**OPTIONS)
    target = small(**OPTIONS, final_norm=False, train_positions=True)

    copy_encoder_weights(source, target)

    expected = source.feature_maps(IMAGES)[-1][:, 1:]
    np.testing.assert_allclose(target(IMAGES).patches, expected, atol=1e-5)


def test_an_unknown_mlp_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="`--model.mlp` must be one of: gelu, swiglu"):
        small(mlp="relu")
