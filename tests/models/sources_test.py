"""Tests of kerobust.models.sources: published vision transformers, as timm has them."""

import numpy as np
import pytest

from kerobust.config import UserError
from kerobust.models import ignored_names, load_vit
from kerobust.models.positions import resize_positions
from tests.goldens.closed_form import arrays
from tests.models.filled import dinov2_shapes, drawn, vit_shapes

SHA256 = "3529be6a8cab9ecd45745fb1c9f5b652fcdc8e1477ad9c002d3ee07e324685d8"
# Width 64, two blocks, patches of 4 pixels, positions of 3 x 3 patches.
SHAPE = (64, 2, 4, 10)


@pytest.fixture(scope="module")
def golden():
    return arrays("torch_encoders.npz", SHA256)


def pictures(height, width):
    stream = np.random.RandomState(0)
    return stream.uniform(size=[2, height, width, 3]).astype(np.float32)


def check(golden, name, tokens):
    """Compares the class token and three patches of two images."""
    patches = tokens.patches.numpy()
    places = [0, patches.shape[1] // 2 + 3, patches.shape[1] - 1]
    np.testing.assert_allclose(tokens.cls, golden[f"{name}_cls"], atol=1e-4)
    found = patches[:, places]
    np.testing.assert_allclose(found, golden[f"{name}_patches"], atol=1e-4)


@pytest.fixture(scope="module")
def dino():
    """The ViT-S/16 of DINO, at full size, with weights of our own."""
    return load_vit(drawn(vit_shapes(384, 12, 16, 197)), "dino")


def test_dino_small_equals_timm_and_the_original_code(golden, dino):
    assert (dino.heads, dino.grid, dino.final_norm) == (6, (14, 14), True)
    check(golden, "dino", dino(pictures(224, 224)))


def test_dino_attention_equals_that_of_the_original_code(golden, dino):
    attention = dino.last_attention(pictures(224, 224)).numpy()

    found = attention[:, :, 0, [0, 1, 99, 196]]
    np.testing.assert_allclose(found, golden["dino_attention"], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("name", "size"), [("96", (96, 96)), ("96_64", (96, 64))])
def test_dino_local_crops_equal_those_of_the_original_code(golden, dino, name, size):
    check(golden, f"dino_{name}", dino(pictures(*size)))


def test_dinov2_with_registers_equals_timm_and_the_original_code(golden):
    shapes = dinov2_shapes(384, 12, 14, 1 + 37**2, registers=4)

    encoder = load_vit(drawn(shapes), "dinov2")

    assert (encoder.registers, encoder.interpolation) == (4, "timm")
    assert encoder.image_size == (518, 518)
    check(golden, "dinov2_registers", encoder(pictures(224, 224)))


@pytest.mark.parametrize("side", [56, 84])
def test_dinov2_with_swiglu_equals_timm_and_the_original_code(golden, side):
    # 4 * 128 = 512, two thirds of it rounded up to eights: 344.
    shapes = dinov2_shapes(128, 2, 14, 17, gated=344)

    encoder = load_vit(drawn(shapes), "dinov2")

    assert (encoder.mlp, encoder.mlp_ratio) == ("swiglu", 4.0)
    assert encoder.interpolation == "dino"
    check(golden, f"dinov2_swiglu_{side}", encoder(pictures(side, side)))


def test_a_mae_encoder_of_base_width_equals_timm(golden):
    # Two blocks of the twelve: the others are no different.
    encoder = load_vit(drawn(vit_shapes(768, 2, 16, 197)), "mae")

    assert (encoder.heads, encoder.interpolation) == (12, "mae")
    check(golden, "mae", encoder(pictures(224, 224)))


def test_stored_positions_stay_as_they_are():
    state = drawn(vit_shapes(*SHAPE))

    encoder = load_vit(state, "mae")

    np.testing.assert_array_equal(encoder.positions, state["pos_embed"][0])


def test_heads_beside_a_backbone_are_left_out():
    state = drawn(vit_shapes(*SHAPE))
    checkpoint = {f"module.backbone.{name}": each for name, each in state.items()}
    checkpoint["module.head.mlp.0.weight"] = np.ones(3)

    assert ignored_names(checkpoint, "dino") == ["module.head.mlp.0.weight"]
    assert load_vit(checkpoint, "dino").depth == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"blocks.1.norm2.bias": None, "blocks.0.attn.q_norm.weight": [1]},
            "with 2 differences: missing blocks.1.norm2.bias; "
            r"unexpected blocks.0.attn.q_norm.weight\. Choose the source",
        ),
        ({"cls_token": None}, "missing cls_token"),
        ({"norm.bias": None}, "missing norm.bias"),
        ({"blocks.0.attn.qkv.bias": None}, "missing blocks.0.attn.qkv.bias"),
        ({"blocks.1.ls1.gamma": [1]}, "missing blocks.0.ls1.gamma"),
        ({"dist_token": [1]}, "unexpected dist_token"),
        (
            {"blocks.1.mlp.fc2.bias": np.ones(63)},
            r"blocks.1.mlp.fc2.bias has shape \(63,\) instead of \(64,\)",
        ),
        (
            {"patch_embed.proj.weight": np.ones([64, 48])},
            r"`state` must have 4 axes in patch_embed.proj.weight.* shape \(64, 48\)",
        ),
        (
            {"patch_embed.proj.weight": np.ones([64, 3, 4, 2])},
            r"`state` must hold a convolution .* shape \(64, 3, 4, 2\)",
        ),
        (
            {"blocks.1.mlp.fc2.weight": np.ones(64)},
            r"`state` must have 2 axes in blocks.1.mlp.fc2.weight.* shape \(64,\)",
        ),
    ],
)
def test_names_and_shapes_that_do_not_fit_are_refused(change, message):
    state = {**drawn(vit_shapes(*SHAPE)), **change}
    kept = {name: each for name, each in state.items() if each is not None}

    with pytest.raises(UserError, match=message):
        load_vit(kept, "dino")


def test_weights_of_another_network_name_everything():
    # Missing are 4 of tokens and embedding, 2 of the norm and the first block's 11
    # (no block has a qkv bias).
    with pytest.raises(UserError, match="18 differences: missing blocks.0.*conv1.w"):
        load_vit({"conv1.weight": np.ones([16, 3, 3, 3])}, "timm")


def test_an_unknown_source_is_refused_with_the_known_ones():
    message = "`source` must be one of: dino, dinov2, mae, timm"
    with pytest.raises(UserError, match=message):
        load_vit({}, "clip")
    with pytest.raises(UserError, match=f"{message}, deacl"):
        ignored_names({}, "clip")


def test_heads_are_asked_for_where_the_width_does_not_tell():
    state = drawn(vit_shapes(12, 1, 4, 10))

    with pytest.raises(UserError, match="`heads` must be given .*width=12"):
        load_vit(state, "dino")
    assert load_vit(state, "dino", heads=3).heads == 3


@pytest.mark.parametrize("source", ["dino", "mae", "timm"])
def test_an_image_size_fits_the_positions_once(source):
    state = drawn(vit_shapes(*SHAPE))
    expected = resize_positions(state["pos_embed"][0], (3, 3), (4, 2), source)

    encoder = load_vit(state, source, (16, 8))

    assert (encoder.image_size, encoder.grid) == ((16, 8), (4, 2))
    np.testing.assert_array_equal(encoder.positions, expected)
    images = pictures(16, 8)
    later = load_vit(state, source)
    np.testing.assert_allclose(encoder(images).cls, later(images).cls, atol=1e-5)


def test_positions_that_are_no_square_need_the_image_size():
    state = drawn(vit_shapes(64, 1, 4, 7))

    with pytest.raises(UserError, match="`image_size` must be given .* with 7 rows"):
        load_vit(state, "dino")
    with pytest.raises(UserError, match=r"`image_size` .*grid of \(4, 4\), .* 7 rows"):
        load_vit(state, "dino", (16, 16))
    encoder = load_vit(state, "dino", (8, 12))
    np.testing.assert_array_equal(encoder.positions, state["pos_embed"][0])


def test_timm_positions_may_lack_the_class_token():
    state = drawn(vit_shapes(64, 1, 4, 9))

    encoder = load_vit(state, "timm")

    np.testing.assert_array_equal(encoder.positions[0], np.zeros(64))
    np.testing.assert_array_equal(encoder.positions[1:], state["pos_embed"][0])


def test_timm_positions_of_registers_become_part_of_them():
    state = drawn(vit_shapes(64, 1, 4, 1 + 4 + 9))
    state["reg_token"] = np.ones([1, 4, 64], np.float32)

    encoder = load_vit(state, "timm")

    rows = state["pos_embed"][0]
    np.testing.assert_array_equal(encoder.register_tokens[0], 1 + rows[1:5])
    np.testing.assert_array_equal(encoder.positions[0], rows[0])
    np.testing.assert_array_equal(encoder.positions[1:], rows[5:])


def test_without_final_norm_the_encoder_has_none():
    state = drawn(vit_shapes(*SHAPE))
    for name in ("norm.weight", "norm.bias"):
        state[f"fc_{name}"] = state.pop(name)

    encoder = load_vit(state, "timm")

    assert encoder.norm is None
    assert sorted(ignored_names(state, "timm")) == ["fc_norm.bias", "fc_norm.weight"]


def test_normalisation_is_that_of_imagenet_unless_told():
    state = drawn(vit_shapes(*SHAPE))

    usual, augreg = load_vit(state, "timm"), load_vit(state, "timm", mean=(0.5,))

    assert usual.get_config()["mean"] == [0.485, 0.456, 0.406]
    assert usual.get_config()["std"] == [0.229, 0.224, 0.225]
    assert augreg.get_config()["mean"] == [0.5, 0.5, 0.5]


def test_chunked_blocks_of_dinov2_training_are_counted_through():
    state = drawn(dinov2_shapes(64, 2, 4, 10))
    chunked = {
        name.replace("blocks.0.", "blocks.0.0.").replace("blocks.1.", "blocks.1.1."): x
        for name, x in state.items()
    }
    images = pictures(12, 12)

    encoder = load_vit(chunked, "dinov2")

    expected = load_vit(state, "dinov2")(images).cls
    np.testing.assert_array_equal(encoder(images).cls, expected)


@pytest.mark.parametrize("hidden", [49, 100, 257])
def test_any_hidden_width_is_found(hidden):
    encoder = load_vit(drawn(vit_shapes(192, 1, 4, 10, hidden=hidden)), "timm")

    assert encoder.blocks[0].mlp.expand.units == hidden


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_arrays_of_another_precision_become_float32(dtype):
    state = {
        name: each.astype(dtype) for name, each in drawn(vit_shapes(*SHAPE)).items()
    }

    encoder = load_vit(state, "dino")

    assert {each.dtype.name for each in encoder.weights} == {"float32"}
    expected = state["cls_token"].astype(np.float32)
    np.testing.assert_array_equal(encoder.cls_token, expected)
