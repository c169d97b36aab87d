"""Tests of kerobust.models.torch_names."""

import numpy as np
import pytest

from kerobust.models import VisionTransformer, ignored_names, load_vit, to_torch_names
from kerobust.models.torch_names import encoder_part
from tests.models.filled import dinov2_shapes, drawn, vit_shapes

# Width 64, two blocks, patches of 4 pixels, positions of 3 x 3 patches.
SHAPE = (64, 2, 4, 10)


def pictures(height, width):
    stream = np.random.RandomState(0)
    return stream.uniform(size=[2, height, width, 3]).astype(np.float32)


@pytest.mark.parametrize(
    "prefix",
    ["module.backbone.", "backbone.", "_orig_mod.module.", "model.module.encoder."],
)
def test_prefixes_do_not_matter(prefix):
    state = drawn(vit_shapes(*SHAPE))

    found, rest = encoder_part({prefix + x: each for x, each in state.items()}, "timm")

    assert rest == []
    assert found.keys() == state.keys()
    assert all(found[name] is each for name, each in state.items())


@pytest.mark.parametrize(
    ("source", "beside"),
    [
        ("dino", ["head.mlp.0.weight", "head.last_layer.weight_g"]),
        ("dinov2", ["mask_token", "dino_head.mlp.0.bias", "ibot_head.last_layer.w"]),
        ("mae", ["mask_token", "decoder_pos_embed", "decoder_blocks.0.norm1.bias"]),
        ("timm", ["head.weight", "fc_norm.bias", "norm.num_batches_tracked"]),
    ],
)
def test_what_no_encoder_needs_is_left_out_by_name(source, beside):
    state = dict.fromkeys(vit_shapes(*SHAPE), 1)

    more = {**state, **dict.fromkeys(beside, 2)}

    assert ignored_names(more, source) == beside
    assert encoder_part(more, source)[0] == state


def test_heads_beside_a_backbone_are_left_out_under_their_whole_name():
    state = {"module.backbone.cls_token": 1, "module.head.mlp.0.weight": 2}

    assert encoder_part(state, "timm") == ({"cls_token": 1}, [*state][1:])


def test_timm_names_come_back_exactly():
    state = drawn(vit_shapes(*SHAPE))

    found = to_torch_names(load_vit(state, "timm"))

    assert found.keys() == state.keys()
    for name, each in state.items():
        np.testing.assert_array_equal(found[name], each)
        assert found[name].flags.c_contiguous


def test_fixed_positions_come_out_as_an_array():
    encoder = VisionTransformer((8, 8), 4, 64, 1, 1, mean=(0.5,), std=(0.25,))
    images = pictures(8, 8)

    names = to_torch_names(encoder)

    np.testing.assert_array_equal(names["pos_embed"][0], encoder.positions)
    again = load_vit(names, "timm", mean=(0.5,), std=(0.25,))
    np.testing.assert_array_equal(again(images).cls, encoder(images).cls)


@pytest.mark.parametrize("gated", [None, 344])
def test_timm_names_of_dinov2_compute_the_same(gated):
    shapes = dinov2_shapes(128, 2, 4, 10, gated=gated, registers=4)
    encoder, images = load_vit(drawn(shapes), "dinov2"), pictures(12, 12)

    names = to_torch_names(encoder)

    # As timm's `no_embed_class`: the class token holds its position.
    assert names["pos_embed"].shape == (1, 9, 128)
    assert names["reg_token"].shape == (1, 4, 128)
    again = load_vit(names, "timm")
    np.testing.assert_array_equal(again(images).patches, encoder(images).patches)
    twice = to_torch_names(again)
    for name, each in names.items():
        np.testing.assert_array_equal(twice[name], each)
