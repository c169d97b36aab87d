"""Classifiers that other programs saved: Keras files and SavedModel folders."""

import os
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from kerobust.config import UserError

_FILES = (".keras", ".h5", ".hdf5")


def is_foreign(path: str | os.PathLike) -> bool:
    """Returns whether `path` is a Keras file or a SavedModel folder by its looks."""
    path = Path(path)
    return path.suffix in _FILES or (path / "saved_model.pb").is_file()


def load_foreign(path: str | os.PathLike) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the model that a file or folder holds, as images -> outputs.

    A `.keras` file with Python code in it (a Lambda layer) is refused. A SavedModel is
    a graph that runs as it was saved: load only what you trust.

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
        if path.is_file():
            return tf.keras.models.load_model(path, compile=False)
        return SavedModel(path)
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise _unusable(path, reason) from error


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


def _unusable(path: Path, reason: str) -> UserError:
    return UserError(
        "`--run.init_from` must be a bundle of this library, a Keras file (.keras, "
        ".h5) or a SavedModel folder with one input, the images, and one output, the "
        f"logits. Received: init_from={path}, but {reason}."
    )
