"""Weights and images from the closed forms that the golden files name."""

import numpy as np

from kerobust.models import VisionTransformer
from tests.goldens.closed_form import grid


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


def fill(order: list) -> dict[str, np.ndarray]:
    """Returns scale * sin(1.7 i + 0.31 k) + shift for parameter k of a network.

    Args:
        order: (name, shape) of every parameter, as PyTorch names and lays them out.
    """
    values = {}
    for number, (name, shape) in enumerate(order):
        scale, shift = _scale_and_shift(name, shape)
        wave = grid(shape, 1.7, 0.31 * number, scale=scale, offset=shift)
        values[name] = wave.astype(np.float32)
    return values


def _scale_and_shift(name: str, shape: list) -> tuple[float, float]:
    if name in ("pos_embed", "cls_token"):
        return 0.5, 0.0
    if len(shape) > 1:
        return np.sqrt(2 / np.prod(shape[1:])), 0.0
    return (0.1, 1.0) if name.endswith(".weight") else (0.05, 0.0)


def assign(encoder: VisionTransformer, values: dict[str, np.ndarray]) -> None:
    """Gives an encoder the values of a PyTorch one, in the order of its parameters."""
    kernel = values["patch_embed.proj.weight"]
    kernel = kernel.transpose(2, 3, 1, 0).reshape(-1, len(kernel))
    encoder.cls_token.assign(values["cls_token"])
    encoder.positions.assign(values["pos_embed"][0])
    encoder.patch_embedding.set_weights([kernel, values["patch_embed.proj.bias"]])
    for index, block in enumerate(encoder.blocks):
        layers = {
            "norm1": block.attention_norm,
            "attn.qkv": block.attention.qkv,
            "attn.proj": block.attention.projection,
            "norm2": block.mlp_norm,
            "mlp.fc1": block.mlp.expand,
            "mlp.fc2": block.mlp.reduce,
        }
        for name, layer in layers.items():
            owner = f"blocks.{index}.{name}"
            weights = [values[f"{owner}.weight"].T, values[f"{owner}.bias"]]
            layer.set_weights(weights)
    encoder.norm.set_weights([values["norm.weight"], values["norm.bias"]])
