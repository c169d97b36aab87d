"""Vision transformers from the weights that others have published."""

import math
import re
from collections.abc import Mapping

import numpy as np

from kerobust.config import UserError, check_name
from kerobust.models.grids import check_patches
from kerobust.models.positions import resize_positions
from kerobust.models.torch_names import encoder_part, keras_layout, vit_name
from kerobust.models.transformer import VisionTransformer
from kerobust.models.weights import assign_named, named_weights

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

SOURCES = ("dino", "dinov2", "mae", "timm")
# Token width -> heads, where it is not one for 64 channels.
_HEADS = {1280: 16, 1408: 16, 1664: 16}

_WEIGHTS = (
    "cls_token",
    "pos_embed",
    "patch_embed.proj.weight",
    "patch_embed.proj.bias",
)
_NORM = ("norm.weight", "norm.bias")
_BLOCK = (
    *("norm1.weight", "norm1.bias", "attn.qkv.weight"),
    *("attn.proj.weight", "attn.proj.bias", "norm2.weight", "norm2.bias"),
    *("mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias"),
)
_AXES = {"cls_token": 3, "pos_embed": 3, "reg_token": 3, "patch_embed.proj.weight": 4}
_AXES |= {"mlp.fc1.weight": 2, "mlp.fc2.weight": 2}
_OPTIONAL = ("attn.qkv.bias", "ls1.gamma", "ls2.gamma")  # All blocks have it or none.


def load_vit(
    state: Mapping[str, np.ndarray],
    source: str,
    image_size: tuple[int, int] | None = None,
    *,
    heads: int | None = None,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> VisionTransformer:
    """Returns the encoder whose weights a PyTorch `state_dict` holds.

    Width, depth, patch size, registers, layer scale and the kind of the MLP are those
    of the shapes. Positions become a learned table that fits itself to images of other
    sizes as the code of the source does (`interpolation`).

    Args:
        state: Arrays under the names of the source's own code; `module.`, `backbone.`
            and the like before the names do not matter.
        source: "dino", "dinov2", "mae" or "timm" (classic vision transformers).
        image_size: (height, width) to build for; None = what the positions were made
            for, a square. Positions of another size are interpolated once, here.
        heads: Attention heads; None = those of the published model of that width, 64
            channels each.
        mean, std: Channel normalisation inside the encoder. Those of ImageNet; timm's
            "augreg" models want 0.5 and 0.5.

    Raises:
        UserError: If names are missing or unexpected (all are listed), or if shapes do
            not fit each other.

    References:
        Caron et al., 2021, arXiv:2104.14294 (DINO); Oquab et al., 2024,
        arXiv:2304.07193, and Darcet et al., 2024, arXiv:2309.16588 (DINOv2); He et
        al., 2022, arXiv:2111.06377 (MAE).
    """
    check_name("source", source, SOURCES)
    inside, ignored = encoder_part(state, source)
    arrays = _timm_names(inside, source)
    final_norm = bool(arrays.keys() & set(_NORM)) or not any(
        "fc_norm." in name for name in ignored
    )
    _check_names(arrays, source, final_norm)
    _check_axes(arrays)
    width, channels, patch_size, _ = arrays["patch_embed.proj.weight"].shape
    registers = arrays["reg_token"].shape[1] if "reg_token" in arrays else 0
    rule = source if source != "dinov2" else "timm" if registers else "dino"
    image_size = _fit_positions(arrays, source, image_size, patch_size, rule)
    encoder = VisionTransformer(
        image_size,
        patch_size,
        width,
        _depth(arrays),
        heads or _heads(width),
        positions="learned",
        interpolation=rule,
        registers=registers,
        mean=mean,
        std=std,
        channels=channels,
        final_norm=final_norm,
        **_block_options(arrays, width),
    )
    weights = {vit_name(name): each for name, each in named_weights(encoder).items()}
    assign_named(weights, _keras_layouts(arrays), f"{source} weights")
    return encoder


def _timm_names(arrays, source: str) -> dict[str, np.ndarray]:
    """Returns the arrays as float32 under the names that timm gives them."""
    renamed = {}
    for name, values in arrays.items():
        if source == "dinov2":
            # Blocks may lie in chunks: blocks.CHUNK.BLOCK.
            name = re.sub(r"^blocks\.\d+\.(?=\d)", "blocks.", name)
            name = name.replace("mlp.w12.", "mlp.fc1.").replace("mlp.w3.", "mlp.fc2.")
            name = name.replace("register_tokens", "reg_token")
        renamed[name] = np.asarray(values, np.float32)
    return renamed


def _check_names(arrays, source: str, final_norm: bool) -> None:
    """Refuses arrays that are not those of an encoder, naming all differences."""
    in_blocks = {re.sub(r"^blocks\.\d+\.", "", name) for name in arrays}
    block = [*_BLOCK, *(name for name in _OPTIONAL if name in in_blocks)]
    expected = {*_WEIGHTS, *(_NORM if final_norm else ())}
    expected |= {"reg_token"} & arrays.keys()
    expected |= {
        f"blocks.{index}.{name}"
        for index in range(max(_depth(arrays), 1))
        for name in block
    }
    problems = [f"missing {name}" for name in sorted(expected - arrays.keys())]
    problems += [f"unexpected {name}" for name in sorted(arrays.keys() - expected)]
    if problems:
        raise UserError(
            f"`state` must hold a vision transformer as {source} names its weights. "
            f"Received: source={source}, with {len(problems)} differences: "
            f"{'; '.join(problems)}. Choose the source that the weights are from "
            f"({', '.join(SOURCES)})."
        )


def _check_axes(arrays) -> None:
    """Refuses arrays from which the shape of the encoder cannot be read."""
    for name, values in arrays.items():
        axes = _AXES.get(re.sub(r"^blocks\.\d+\.", "", name), values.ndim)
        if values.ndim != axes or 0 in values.shape:
            raise UserError(
                f"`state` must have {axes} axes in {name}. Received: an array of shape "
                f"{values.shape}. Only plain vision transformers are supported."
            )
    kernel = arrays["patch_embed.proj.weight"]
    if kernel.shape[2] != kernel.shape[3]:
        raise UserError(
            "`state` must hold a convolution [width, channels, side, side] as "
            "patch_embed.proj.weight. Received: an array of shape "
            f"{kernel.shape}. Only plain square patches are supported."
        )


def _depth(arrays) -> int:
    found = [re.match(r"blocks\.(\d+)\.", name) for name in arrays]
    return 1 + max((int(match.group(1)) for match in found if match), default=-1)


def _heads(width: int) -> int:
    if width in _HEADS or width % 64 == 0:
        return _HEADS.get(width, width // 64)
    raise UserError(
        "`heads` must be given for a width that is no multiple of 64: the weights do "
        f"not tell. Received: heads=None, width={width}."
    )


def _block_options(arrays, width: int) -> dict:
    """Returns the settings of the blocks, read from the shapes of the first one."""
    inner = len(arrays["blocks.0.mlp.fc1.weight"])
    hidden = arrays["blocks.0.mlp.fc2.weight"].shape[-1]
    ratio = hidden / width
    if int(width * ratio) < hidden:  # Rounding must not lose one.
        ratio = (hidden + 0.5) / width
    if inner == 2 * hidden:  # Of the width that SwiGLU takes two thirds of.
        ratio = 4.0 if (int(4 * width * 2 / 3) + 7) // 8 * 8 == hidden else 1.5 * ratio
    return {
        "mlp": "swiglu" if inner == 2 * hidden else "gelu",
        "mlp_ratio": ratio,
        "qkv_bias": "blocks.0.attn.qkv.bias" in arrays,
        "layer_scale": 1e-5 if "blocks.0.ls1.gamma" in arrays else None,
    }


def _fit_positions(arrays, source, image_size, patch_size: int, rule: str):
    """Makes `pos_embed` [1 + N, D] of the image size; returns that size."""
    table = arrays["pos_embed"].reshape(-1, arrays["pos_embed"].shape[-1])
    wanted = None
    if image_size is not None:
        check_patches(image_size, patch_size)
        wanted = (image_size[0] // patch_size, image_size[1] // patch_size)
    prefix, grid = _prefix_and_grid(arrays, source, len(table), wanted)
    if prefix > 1:  # Positions of registers: as good as part of the registers.
        arrays["reg_token"] = arrays["reg_token"] + table[1:prefix]
    first = table[:1] if prefix else np.zeros_like(table[:1])
    table = np.concatenate([first, table[prefix:]])
    arrays["pos_embed"] = np.array(resize_positions(table, grid, wanted or grid, rule))
    return image_size or (grid[0] * patch_size, grid[1] * patch_size)


def _prefix_and_grid(arrays, source: str, rows: int, wanted):
    """Returns how many rows are not of patches, and (rows, columns) of the patches."""
    prefixes = [1]
    if source == "timm" and "reg_token" in arrays:
        # Rows for nothing but patches, for all tokens, or for the class token too.
        prefixes = [0, 1 + arrays["reg_token"].shape[1], 1]
    elif source == "timm":
        prefixes = [1, 0]
    for prefix in prefixes:
        count = max(rows - prefix, 0)
        side = math.isqrt(count)
        if side and side * side == count:
            return prefix, (side, side)
        if wanted is not None and wanted[0] * wanted[1] == count:
            return prefix, wanted
    raise UserError(
        "`image_size` must be given for positions that are not those of a square. "
        f"Received: image_size=None, pos_embed with {rows} rows."
        if wanted is None
        else "`image_size` must be the size that positions are for, if that is not a "
        f"square. Received: a grid of {wanted}, pos_embed with {rows} rows."
    )


def _keras_layouts(arrays) -> dict[str, np.ndarray]:
    """Returns the arrays as the variables of the encoder lie."""
    values = dict(arrays)
    for name, each in arrays.items():
        if name == "patch_embed.proj.weight":
            values[name] = keras_layout(each).reshape(-1, len(each))
        elif each.ndim == 2 and name != "pos_embed":
            values[name] = keras_layout(each)
    return values
