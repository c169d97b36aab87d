"""Weights and images from the closed forms that the golden files name."""

import zlib

import numpy as np

from tests.goldens.closed_form import grid

TOKENS = ("cls_token", "pos_embed", "register_tokens", "mask_token")


def formula(recipe: dict) -> np.ndarray:
    """Returns scale * function(a * i + b) + shift, float64, from its description."""
    return grid(
        recipe["shape"],
        recipe["a"],
        recipe["b"],
        recipe["fn"],
        recipe["scale"],
        recipe["shift"],
    )


def fill(order: list, phase: float = 0.31) -> dict[str, np.ndarray]:
    """Returns scale * sin(1.7 i + phase * k) + shift for parameter k of a network.

    Args:
        order: (name, shape) of every parameter, as PyTorch names and lays them out.
        phase: Makes networks differ.
    """
    values = {}
    for number, (name, shape) in enumerate(order):
        scale, shift = _scale_and_shift(name, shape)
        wave = grid(shape, 1.7, phase * number, scale=scale, offset=shift)
        values[name] = wave.astype(np.float32)
    return values


def _scale_and_shift(name: str, shape: list) -> tuple[float, float]:
    if name in ("pos_embed", "cls_token"):
        return 0.5, 0.0
    if name.endswith("weight_g"):
        return 0.2, 1.0
    if len(shape) > 1:
        return np.sqrt(2 / np.prod(shape[1:])), 0.0
    return (0.1, 1.0) if name.endswith(".weight") else (0.05, 0.0)


def vit_shapes(
    width, depth, patch_size, rows, *, hidden=None, gated=None
) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a vision transformer by PyTorch name.

    Args:
        width, depth, patch_size: Of the encoder.
        rows: Of the position table.
        hidden: Inside an MLP, by default 4 times the width.
        gated: If given, the names of DINOv2's SwiGLU with so many gates.
    """
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, rows, width),
        "patch_embed.proj.weight": (width, 3, patch_size, patch_size),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    first, second, hidden = "mlp.fc1", "mlp.fc2", hidden or 4 * width
    outer = hidden
    if gated:
        first, second, hidden, outer = "mlp.w12", "mlp.w3", gated, 2 * gated
    dense = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    dense |= {first: (outer, width), second: (width, hidden)}
    for index in range(depth):
        owner = f"blocks.{index}"
        for name, shape in dense.items():
            shapes[f"{owner}.{name}.weight"] = shape
            shapes[f"{owner}.{name}.bias"] = shape[:1]
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            shapes[f"{owner}.{name}"] = (width,)
    return shapes


def dinov2_shapes(*args, registers=0, **kwargs) -> dict[str, tuple[int, ...]]:
    """Returns `vit_shapes` with layer scale, mask token and registers, as DINOv2."""
    shapes = vit_shapes(*args, **kwargs)
    width = shapes["cls_token"][-1]
    blocks = {".".join(name.split(".")[:2]) for name in shapes if "blocks." in name}
    for owner in blocks:
        shapes |= {f"{owner}.ls1.gamma": (width,), f"{owner}.ls2.gamma": (width,)}
    shapes["mask_token"] = (1, width)
    if registers:
        shapes["register_tokens"] = (1, registers, width)
    return shapes


def drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Returns float32 arrays, each drawn from a stream that its name alone decides.

    The goldens of `torch_encoders.npz` were computed with these weights.
    """
    values = {}
    for name, shape in shapes.items():
        stream = np.random.RandomState(zlib.crc32(name.encode()))
        value = stream.standard_normal(shape)
        if name.endswith("gamma"):
            value = 0.5 + 0.1 * value
        elif name in TOKENS:
            value = 0.2 * value
        elif len(shape) > 1:
            value = value / np.sqrt(np.prod(shape[1:]))
        else:
            value = 1 + 0.1 * value if name.endswith(".weight") else 0.05 * value
        values[name] = value.astype(np.float32)
    return values
