"""Classifiers that other programs saved: Keras files and SavedModel folders."""

import os
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf
from keras.src.saving import serialization_lib  # type: ignore[import-untyped]

from kerobust.config import UserError

_FILES = (".keras", ".h5", ".hdf5")


def is_foreign(path: str | os.PathLike) -> bool:
    """Returns whether `path` is a Keras file or a SavedModel folder by its looks."""
    path = Path(path)
    return path.suffix in _FILES or (path / "saved_model.pb").is_file()


def load_foreign(path: str | os.PathLike) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the model that a file or folder holds, as images -> outputs.

    Files with a Lambda layer, whose Python code loading would run, are refused: Keras
    does so for `.keras` only. That is no sandbox: a made-up `.keras` file can name any
    function that is installed, and a network or a SavedModel can use every operation of
    TensorFlow, files included. Load only what you trust.

    Args:
        path: `.keras`, `.h5` or `.hdf5` file, or SavedModel folder, of a model that
            maps images float32 [B, H, W, C] in [0, 1] to logits [B, K].

    Raises:
        UserError: If nothing usable is there.
    """
    path = Path(path)
    if not path.exists():
        raise _unusable(path, "it does not exist")
    try:
        if not path.is_file():
            return SavedModel(path)
        # The argument `safe_mode` of `load_model` does nothing for HDF5 files.
        with serialization_lib.SafeModeScope(True):
            model = tf.keras.models.load_model(path, compile=False)
        _require_one_each(model)
        return model
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = reason_of(error)
        if "arbitrary code execution" in reason:
            reason = (
                "it has a Lambda layer, whose Python code would run. Use other layers"
            )
        raise _unusable(path, reason) from error


def input_shape(model: Callable) -> tf.TensorShape:
    """Returns the shape of the images that a foreign model takes, as far as known."""
    inputs = getattr(model, "inputs", None)
    return tf.TensorShape(
        inputs[0].shape if inputs else getattr(model, "input_shape", None)
    )


def output_shape(model: Callable, images: tf.TensorShape) -> tf.TensorShape:
    """Returns the shape of what a foreign model makes of black images of a shape.

    Raises:
        ValueError: If the model cannot be called so.
    """
    batch, *rest = images
    try:
        outputs = model(tf.zeros([batch or 1, *rest]))
    except (TypeError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(str(error).strip()) from error
    return tf.TensorShape(getattr(outputs, "shape", None))


class SavedModel:
    """A SavedModel folder as a callable.

    Args:
        folder: Where it lies.

    Raises:
        ValueError: If it can be called neither as a whole nor by its only signature.
    """

    def __init__(self, folder: str | os.PathLike):
        # Signatures are functions of the loaded object, which must stay alive.
        self._loaded = tf.saved_model.load(os.fspath(folder))
        self._signature = self._loaded.signatures.get("serving_default")
        if self._signature is None:
            raise ValueError("it has no signature serving_default")
        _, inputs = self._signature.structured_input_signature
        outputs = self._signature.structured_outputs
        if len(inputs) != 1 or len(outputs) != 1:
            raise ValueError(
                f"serving_default has inputs {sorted(inputs)} and outputs "
                f"{sorted(outputs)}, one of each is needed"
            )
        (self._input,), (self._output,) = inputs, outputs
        self.input_shape = tuple(inputs[self._input].shape)

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the outputs on images float32 [B, H, W, C]."""
        return self._signature(**{self._input: images})[self._output]


def reason_of(error: Exception) -> str:
    """Returns the line of an error of Keras that says what is wrong."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("Exception encountered when calling"):
        lines = lines[1:]
    return (lines or [type(error).__name__])[0].strip(" .")


def _require_one_each(model: tf.keras.Model) -> None:
    counts = [len(getattr(model, x, None) or [1]) for x in ("inputs", "outputs")]
    if counts != [1, 1]:
        raise ValueError(
            f"it has {counts[0]} inputs and {counts[1]} outputs, one of each is needed"
        )


def _unusable(path: Path, reason: str) -> UserError:
    return UserError(
        "`--run.init_from` must be a bundle of this library, a Keras file (.keras, "
        ".h5) or a SavedModel folder with one input, the images, and one output, the "
        f"logits. Received: init_from={path}, but {reason}."
    )
