"""Names and layouts of PyTorch weights, for the encoders of this library."""

import re
from collections.abc import Mapping

import numpy as np

from kerobust.config import check_name
from kerobust.models.transformer import VisionTransformer
from kerobust.models.weights import named_weights

# What programs put before every name, and the part of a model that is its encoder.
_WRAPPERS = ("module.", "_orig_mod.")
_ENCODERS = ("backbone.", "encoder.", "model.")
# For averages that this library does not take.
_COUNTER = r"\.num_batches_tracked"

# Source -> what its files hold beside an encoder, at the beginning of the names.
BESIDE = {
    "dino": r"head\.",
    "dinov2": r"head\.|dino_head\.|ibot_head\.|mask_token$",
    "mae": r"decoder_|head\.|fc_norm\.|mask_token$",
    "timm": r"head\.|fc_norm\.|mask_token$",
    "deacl": r"fc\.|linear\.|classifier\.|projector\.|predictor\.",
}

_VIT_LAYERS = {
    "patch_embedding": "patch_embed.proj",
    "attention_norm": "norm1",
    "attention.qkv": "attn.qkv",
    "attention.projection": "attn.proj",
    "attention_scale": "ls1",
    "mlp_norm": "norm2",
    "mlp.expand": "mlp.fc1",
    "mlp.reduce": "mlp.fc2",
    "mlp_scale": "ls2",
}
_VIT_WEIGHTS = {"positions": "pos_embed", "register_tokens": "reg_token"}
_LEAVES = {"kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}


def encoder_part(
    state: Mapping[str, np.ndarray], source: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the arrays of the encoder, and the names of the rest.

    `module.` (data parallel) and `_orig_mod.` (compiled) go; where some names begin
    with `backbone.`, `encoder.` or `model.`, those are the encoder and lose that, and
    heads beside it are the rest, as are counters of batches.

    Args:
        state: Arrays under the names of a PyTorch `state_dict`.
        source: Key of `BESIDE`.
    """
    names, rest = {name: _unwrapped(name) for name in state}, list[str]()
    while True:
        found = [x for x in _ENCODERS if any(y.startswith(x) for y in names.values())]
        if not found:
            break
        inside = {x: y for x, y in names.items() if y.startswith(found[0])}
        rest += [name for name in names if name not in inside]
        names = {x: _unwrapped(y.removeprefix(found[0])) for x, y in inside.items()}
    beside = re.compile(f"{BESIDE[source]}|.*{_COUNTER}$")
    rest += [name for name, short in names.items() if beside.match(short)]
    kept = {short: state[x] for x, short in names.items() if not beside.match(short)}
    return kept, rest


def ignored_names(state: Mapping[str, np.ndarray], source: str) -> list[str]:
    """Returns the names that no encoder needs: heads, decoders, mask tokens, counters.

    `load_vit` and `load_resnet18` leave them out.

    Args:
        state: Arrays under the names of a PyTorch `state_dict`.
        source: "dino", "dinov2", "mae", "timm" or "deacl".

    Raises:
        UserError: If the source is unknown.
    """
    check_name("source", source, BESIDE)
    return encoder_part(state, source)[1]


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.split(".", 1)[1]
    return name


def keras_layout(values: np.ndarray) -> np.ndarray:
    """Returns kernels [out, in, ...] as [..., in, out]; other arrays as they are."""
    if values.ndim < 2:
        return values
    return np.transpose(values, [*range(2, values.ndim), 1, 0])


def vit_name(name: str) -> str:
    """Returns timm's name of a weight: `blocks/0/mlp/expand/bias` -> `blocks.0.mlp...`.

    Args:
        name: From `named_weights` of a `VisionTransformer`.
    """
    if "/" not in name:
        return _VIT_WEIGHTS.get(name, name)
    *path, leaf = name.split("/")
    block = [] if path[0] != "blocks" else path[:2]
    layer = ".".join(path[len(block) :])
    layer = _VIT_LAYERS.get(layer, layer)
    leaf = "gamma" if layer.startswith("ls") else _LEAVES[leaf]
    return ".".join([*block, layer, leaf])


def to_torch_names(encoder: VisionTransformer) -> dict[str, np.ndarray]:
    """Returns the weights of an encoder as timm names and lays them out.

    `timm.models.VisionTransformer` loads them (with registers: `no_embed_class=True`,
    the class token's position being part of the class token). `load_vit(..., "timm")`
    of them computes exactly what `encoder` does; mean, std and the rule that fits
    positions to other sizes are not among them.

    Returns:
        float32 arrays, fixed positions included.
    """
    arrays = {}
    for name, weight in named_weights(encoder).items():
        value, name = weight.numpy(), vit_name(name)
        if name == "patch_embed.proj.weight":
            side, channels = encoder.patch_size, encoder.channels
            kernel = value.reshape(side, side, channels, encoder.width)
            value = kernel.transpose(3, 2, 0, 1)
        elif value.ndim == 2:
            value = value.T
        arrays[name] = np.ascontiguousarray(value)
    positions = np.array(encoder.positions)
    if encoder.registers:
        arrays["cls_token"] = arrays["cls_token"] + positions[:1]
        positions = positions[1:]
    arrays["pos_embed"] = positions[np.newaxis]
    return arrays
