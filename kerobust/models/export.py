"""Models written for other programs: Keras files, SavedModel, safetensors."""

import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
import tensorflow as tf

from kerobust.config import UserError
from kerobust.models.bundle import load_bundle, save_bundle
from kerobust.models.checkpoint_files import read_state
from kerobust.models.ensemble import Ensemble
from kerobust.models.heads import Classifier
from kerobust.models.keras_cv_encoder import KerasCvEncoder
from kerobust.models.resnet import ResidualNetwork
from kerobust.models.torch_names import to_torch_names
from kerobust.models.vit import VisionTransformer
from kerobust.models.weights import named_weights
from kerobust.types import Tokens

KERAS_FILE, WEIGHTS_FILE = "model.keras", "model.safetensors"
Outputs = dict[str, tf.Tensor]


class Format(NamedTuple):
    """One way to write a model.

    Attributes:
        about: What is written, in a few words.
        write: Given model, folder and info, writes it.
        difference: Given model, folder and images, reads what was written and returns
            the largest difference to the model: of the outputs on these images, in
            units of the largest one above 1, or of the weights where the format holds
            nothing else.
    """

    about: str
    write: Callable[[tf.keras.Model, pathlib.Path, Mapping[str, Any]], None]
    difference: Callable[[tf.keras.Model, pathlib.Path, np.ndarray], float]


class Servable(tf.Module):
    """A model as a SavedModel holds it: images to named outputs, at inference.

    Args:
        model: Encoder or classifier.
    """

    def __init__(self, model: tf.keras.Model):
        super().__init__()
        # In a closure: Keras would trace each layer once more if it saw the model.
        self._outputs = lambda images: outputs(model, images)
        self._weights = model.variables
        self._spec = tf.TensorSpec([None, *image_shape(model)], name="images")

    @tf.function
    def __call__(self, images: tf.Tensor) -> Outputs:
        """Returns what `outputs` does."""
        return self._outputs(images)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the SavedModel; its one signature is `serving_default`."""
        traced = self.__call__.get_concrete_function(self._spec)
        tf.saved_model.save(self, os.fspath(folder), {"serving_default": traced})


def image_shape(model: tf.keras.Model) -> tuple[int | None, int | None, int]:
    """Returns (height, width, channels) of the images; None where any size will do."""
    first = model.members[0] if isinstance(model, Ensemble) else model
    encoder = getattr(first, "encoder", first)
    height, width = getattr(encoder, "image_size", (None, None))
    return height, width, encoder.channels


def outputs(model: tf.keras.Model, images: tf.Tensor) -> Outputs:
    """Returns what a model makes of images at inference, by name.

    Args:
        model: Encoder or classifier.
        images: float32 [B, H, W, C] in [0, 1].

    Returns:
        An encoder's `cls` float32 [B, D] and `patches` [B, N, D], or a classifier's
        `logits` [B, K].
    """
    result = model(images, training=False)
    if isinstance(result, Tokens):
        return {"cls": result.cls, "patches": result.patches}
    return {"logits": result}


def export(
    model: tf.keras.Model,
    folder: str | os.PathLike,
    format: str,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Writes an encoder or a classifier for this library or for other programs.

    Args:
        model: `VisionTransformer`, `ResNet`, `ResNet18`, `KerasCvEncoder`, `Classifier`
            or `Ensemble`.
        folder: A new or empty folder; parents are made.
        format: "bundle", "safetensors" (the names of `named_weights`), "keras",
            "savedmodel" or "timm" (a vision transformer under timm's names). Keras
            files and SavedModels map images [B, H, W, C] in [0, 1], with any B, to
            what `outputs` names; those of a classifier to bare logits.
        info: What a bundle says about itself.

    Raises:
        UserError: If the folder holds files, or the format does not fit the model.
    """
    check_exportable(model)
    folder = pathlib.Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            "`folder` must be new or empty. Received: "
            f"folder={folder}, which is there already. Choose another or remove it."
        )
    FORMATS[format].write(model, folder, info or {})


def check_exportable(model: Any) -> tf.keras.Model:
    """Returns the model if it is an encoder, a classifier or an ensemble of these.

    Raises:
        UserError: If it is not.
    """
    known = (VisionTransformer, ResidualNetwork, KerasCvEncoder, Classifier, Ensemble)
    if not isinstance(model, known):
        raise UserError(
            "`model` must be an encoder, a classifier or an ensemble to be written. "
            f"Received: model={type(model).__name__}."
        )
    return model


def _functional(model: tf.keras.Model) -> tf.keras.Model:
    """Returns the model between plain tensors, which every reader of Keras knows."""
    images = tf.keras.Input(image_shape(model), name="images")
    result = outputs(model, images)
    return tf.keras.Model(images, result.get("logits", result))


def _write_keras(model, folder: pathlib.Path, info) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _functional(model).save(folder / KERAS_FILE)


def _write_saved_model(model, folder: pathlib.Path, info) -> None:
    Servable(model).save(folder)


def _write_safetensors(model, folder: pathlib.Path, info) -> None:
    arrays = {name: each.numpy() for name, each in named_weights(model).items()}
    _write_arrays(arrays, folder, info)


def _write_timm(model, folder: pathlib.Path, info) -> None:
    _write_arrays(_timm_arrays(model), folder, info)


def _write_arrays(arrays: Mapping[str, np.ndarray], folder, info) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # The writer takes the bytes of an array as they lie in memory.
    dense = {name: np.ascontiguousarray(each) for name, each in arrays.items()}
    # "format" is what PyTorch's readers of such files ask for.
    metadata = {"format": "pt", "info": json.dumps(dict(info))}
    safetensors.numpy.save_file(dense, folder / WEIGHTS_FILE, metadata)


def _timm_arrays(model) -> dict[str, np.ndarray]:
    if not isinstance(model, VisionTransformer):
        raise UserError(
            "`format` must not be timm unless the model is a VisionTransformer. "
            f"Received: format=timm for a {type(model).__name__}. Write a Keras file, "
            "a SavedModel or safetensors."
        )
    return to_torch_names(model)


def _output_difference(expected: Outputs, again: Outputs | tf.Tensor) -> float:
    """Returns the largest difference, in units of the largest output above 1."""
    if not isinstance(again, Mapping):
        again = {"logits": again}
    if again.keys() != expected.keys():
        return float("inf")
    scale = max(1.0, *(float(np.abs(each).max()) for each in expected.values()))
    gaps = [np.abs(expected[name] - again[name]).max() for name in expected]
    return float(np.max(gaps)) / scale


def _weight_difference(expected: Mapping[str, np.ndarray], folder) -> float:
    found = read_state(folder / WEIGHTS_FILE).arrays
    if found.keys() != expected.keys():
        return float("inf")
    return max(float(np.abs(found[name] - expected[name]).max()) for name in expected)


def _keras_difference(model, folder, images) -> float:
    again = tf.keras.models.load_model(folder / KERAS_FILE, compile=False)
    return _output_difference(outputs(model, images), again(images))


def _saved_model_difference(model, folder, images) -> float:
    loaded, images = tf.saved_model.load(os.fspath(folder)), tf.constant(images)
    # Compared as a graph, too: graphs round otherwise, and large networks magnify that.
    return _output_difference(Servable(model)(images), loaded(images))


def _write_bundle(model, folder, info) -> None:
    save_bundle(model, folder, info)


FORMATS = {
    "bundle": Format(
        "a bundle of this library, for --run.init_from",
        _write_bundle,
        lambda model, folder, images: _output_difference(
            outputs(model, images), outputs(load_bundle(folder), images)
        ),
    ),
    "safetensors": Format(
        "weights under the names of this library",
        _write_safetensors,
        lambda model, folder, images: _weight_difference(
            {name: each.numpy() for name, each in named_weights(model).items()}, folder
        ),
    ),
    "keras": Format("a Keras file", _write_keras, _keras_difference),
    "savedmodel": Format("a SavedModel", _write_saved_model, _saved_model_difference),
    "timm": Format(
        "weights under timm's names",
        _write_timm,
        lambda model, folder, images: _weight_difference(_timm_arrays(model), folder),
    ),
}
