"""Images kept in memory."""

import hashlib

import numpy as np
import tensorflow as tf

from kerobust.config import UserError
from kerobust.data.augmentations import square
from kerobust.data.config import DataConfig
from kerobust.data.splits import UNLABELLED, DataSource, consecutive
from kerobust.data.stratify import complete_splits

_CHUNK = 512


class Memory:
    """Images kept in memory; uint8 images are scaled to [0, 1] when fetched.

    Args:
        images: uint8 or float32 in [0, 1], [N, H, W, 1 or 3].
        annotations: "masks" int [N, H, W], -1 = no label, or "depths" float32
            [N, H, W], metres, 0 = unknown; what there is.
    """

    def __init__(self, images: np.ndarray, annotations: dict | None = None):
        with tf.device("CPU:0"):
            self._images = tf.constant(images)
            known = {name: tf.constant(x) for name, x in (annotations or {}).items()}
        self.annotations = known
        self.image_shape = (images.shape[1], images.shape[2], 3)

    def fetch(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns float32 [B, H, W, 3] in [0, 1]; grey is repeated to 3 channels."""
        images = tf.gather(self._images, rows)
        if images.dtype == tf.uint8:
            images = tf.cast(images, tf.float32) / 255.0
        if images.shape[-1] == 1:
            images = tf.repeat(images, 3, axis=-1)
        return images

    def annotated(self, rows: tf.Tensor, kinds) -> dict[str, tf.Tensor]:
        """Returns "images" and the kinds of annotations, see `Pictures`."""
        found = {kind: tf.gather(self.annotations[kind], rows) for kind in kinds}
        if "masks" in found:
            found["masks"] = tf.cast(found["masks"], tf.int32)
        return {"images": self.fetch(rows), **found}


def from_arrays(
    config: DataConfig,
    images: np.ndarray,
    labels: dict[str, np.ndarray],
    class_names: tuple[str, ...] = (),
    report: dict | None = None,
) -> DataSource:
    """Returns a data set held in memory.

    Args:
        config: Settings; `image_size` and the fractions are used.
        images: uint8 or float32 in [0, 1], [N, H, W, 1 or 3].
        labels: Split name -> int32 [n]; the splits follow each other in `images`.
        class_names: Names of the labels; empty = their numbers.
        report: Start of the data set's report.
    """
    digest = array_digest(images, np.concatenate(list(labels.values())))
    if config.image_size is not None:
        images = resize_all(images, config.image_size)
    highest = max(int(part.max(initial=UNLABELLED)) for part in labels.values())
    known = class_names or tuple(str(label) for label in range(highest + 1))
    if len(known) <= highest:
        raise UserError(
            f"`class_names` must name every label up to {highest}. Received: "
            f"class_names={class_names}."
        )
    report = dict(report or {})
    splits = complete_splits(config, consecutive(Memory(images), labels), report)
    return DataSource(config.name, known, digest, splits, report)


def resize_all(images: np.ndarray, size: int) -> np.ndarray:
    """Returns [N, size, size, C] of the same type; uint8 is rounded as PIL does."""
    chunks = range(0, len(images), _CHUNK)
    parts = [square(images[start : start + _CHUNK], size).numpy() for start in chunks]
    return np.concatenate(parts)


def array_digest(images: np.ndarray, labels: np.ndarray) -> str:
    """Returns the SHA-256 of shape, type and content."""
    digest = hashlib.sha256(f"{images.shape} {images.dtype}".encode())
    digest.update(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels, np.int32).data)
    return digest.hexdigest()
