"""The model card beside every model that leaves the library."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

import kerobust
from kerobust.models.bundle import load_bundle, read_info
from kerobust.models.card import FILE, Result, model_card
from kerobust.models.ensemble import Ensemble
from kerobust.models.export import (
    FORMATS,
    KERAS_FILE,
    WEIGHTS_FILE,
    image_shape,
)
from kerobust.models.heads import Classifier

_SHOWN = ("patch_size", "width", "depth", "heads", "positions", "num_classes")
_IMAGES = (
    "Images are float32 in [0, 1], channels last; the model normalises them itself."
)
_TIMM_IMAGES = (
    "Images are normalised before the model, with the mean and the deviation above; "
    "channels come first."
)
_LIBRARIES = {"keras": "keras", "savedmodel": "keras", "timm": "timm"}


def write_card(
    folder: pathlib.Path,
    format: str,
    model: tf.keras.Model,
    info: Mapping[str, Any],
    *,
    title: str | None = None,
    license: str = "unknown",
    results: Sequence[Result] = (),
) -> pathlib.Path:
    """Writes the card of a model that lies in `folder`; returns its path.

    Args:
        folder: Where the model was written.
        format: How: a name of `kerobust.models.export.FORMATS`.
        model: The model.
        info: What its bundle knows: `flags` it was trained with, its `origin`.
        title: Name of the model; None = that of the folder.
        license: See `model_card`.
        results: What was measured, from `results_of`.
    """
    flags, origin = info.get("flags"), dict(info.get("origin", {}))
    data = (flags or {}).get("data.name", "")  # "kind:path" says nothing to others.
    classifier = isinstance(model, Classifier | Ensemble)
    text = model_card(
        title or folder.absolute().name,
        f"A {'classifier' if classifier else 'vision encoder'}, written by kerobust "
        f"{kerobust.__version__}: {FORMATS[format].about}.",
        usage=usage(model, format),
        facts=facts(model),
        provenance=origin or {"source": "trained by this library"},
        flags=flags,
        results=results,
        datasets=[data] if data and ":" not in data else (),
        license=license,
        library=_LIBRARIES.get(format, "kerobust"),
        task="image-classification" if classifier else "image-feature-extraction",
        limits=[_TIMM_IMAGES if format == "timm" else _IMAGES],
    )
    path = folder / FILE
    path.write_text(text, encoding="utf-8")
    return path


def write_bundle_card(
    folder: pathlib.Path,
    *,
    member: str | None = None,
    license: str = "unknown",
    results: Sequence[Result] = (),
) -> pathlib.Path:
    """Writes the card of a bundle, from what the bundle knows about itself.

    Args:
        folder: A bundle.
        member: Which of several models the card describes, the encoder by default.
        license, results: See `write_card`.

    Raises:
        UserError: If the bundle is missing, incomplete or altered.
    """
    model, info = load_bundle(folder), read_info(folder)
    if isinstance(model, dict):
        model = model[member or "encoder"]
    return write_card(folder, "bundle", model, info, license=license, results=results)


def facts(model: tf.keras.Model) -> dict[str, str]:
    """Returns what a model is, name -> text."""
    if isinstance(model, Ensemble):
        members = {"members": str(len(model.members)), "combine": model.combine}
        parameters = sum(int(tf.size(weight)) for weight in model.weights)
        whole = {"class": "Ensemble", "parameters": f"{parameters:,}", **members}
        one = facts(model.members[0])
        return whole | {f"a member's {name}": text for name, text in one.items()}
    encoder, head = getattr(model, "encoder", model), getattr(model, "head", None)
    settings = dict(encoder.get_config())
    settings |= {} if head is None else dict(head.get_config())
    parameters = sum(int(tf.size(weight)) for weight in model.weights)
    height, width, channels = image_shape(model)
    size = f"{height} x {width}" if height else "any size"
    shown = {name.replace("_", " "): name for name in _SHOWN if name in settings}
    return {
        "class": type(encoder).__name__,
        "parameters": f"{parameters:,}",
        "images": f"{size}, {channels} channels",
        **{text: str(settings[name]) for text, name in shown.items()},
        "normalisation inside": f"(images - {settings['mean']}) / {settings['std']}",
    }


def usage(model: tf.keras.Model, format: str) -> str:
    """Returns Python that loads a model and applies it, run in its folder.

    Args:
        model: The model.
        format: How it was written.
    """
    if format == "timm":
        return _usage_of_timm(model)
    height, width, channels = image_shape(model)
    logits = isinstance(model, Classifier | Ensemble)
    kind = "logits" if logits else "features"
    loading, taking = {
        "bundle": (_USAGE_OF_BUNDLE, {"features": ".cls"}),
        "keras": (_USAGE_OF_KERAS, {"features": '["cls"]'}),
        "savedmodel": (
            _USAGE_OF_SAVED_MODEL,
            {"features": '["cls"]', "logits": '["logits"]'},
        ),
        "safetensors": (_usage_of_weights(model), {"features": ".cls"}),
    }[format]
    return (
        f"import tensorflow as tf\n{loading}"
        f"images = tf.zeros([1, {height or 32}, {width or 32}, {channels}])\n"
        f"{kind} = model(images){taking.get(kind, '')}"
    )


def _usage_of_weights(model: tf.keras.Model) -> str:
    name = type(model).__name__
    return (
        f"\nfrom kerobust.models import {name}, read_state\n"
        "from kerobust.models.weights import assign_weights\n\n"
        f"model = {name}.from_config({model.get_config()!r})\n"
        f'assign_weights(model, read_state("{WEIGHTS_FILE}").arrays, "the file")\n'
    )


def _usage_of_timm(model: tf.keras.Model) -> str:
    settings = model.get_config()
    arguments = {
        "img_size": tuple(settings["image_size"]),
        "patch_size": settings["patch_size"],
        "in_chans": settings["channels"],
        "embed_dim": settings["width"],
        "depth": settings["depth"],
        "num_heads": settings["heads"],
        "mlp_ratio": settings["mlp_ratio"],
        "qkv_bias": settings["qkv_bias"],
        "init_values": settings["layer_scale"],
        "reg_tokens": settings["registers"],
        "no_embed_class": settings["registers"] > 0,
        "num_classes": 0,
    }
    lines = "".join(f"    {name}={value!r},\n" for name, value in arguments.items())
    gated = "    # Add the gated MLP of timm.layers that fits the shapes.\n"
    return (
        "import safetensors.torch\n"
        "from timm.models.vision_transformer import VisionTransformer\n\n"
        f"model = VisionTransformer(\n{lines}"
        f"{gated if settings['mlp'] == 'swiglu' else ''})\n"
        f'model.load_state_dict(safetensors.torch.load_file("{WEIGHTS_FILE}"))\n'
    )


_USAGE_OF_BUNDLE = """
from kerobust.models import load_bundle

model = load_bundle(".")
"""
_USAGE_OF_KERAS = f"""
import kerobust.models  # Keras finds the classes of the model by name.

model = tf.keras.models.load_model("{KERAS_FILE}")
"""
_USAGE_OF_SAVED_MODEL = """
model = tf.saved_model.load(".")
"""
