"""Images of prepared TensorFlow Datasets: read once, or record by record."""

import numpy as np
import tensorflow as tf

from kerobust.data.pictures import decode_picture

_CHUNK = 512


class Records:
    """Images read from random-access records whenever they are fetched.

    Args:
        sources: Sequences of records with encoded pictures, one after the other.
        key: Name of the image in a record.
        size: Side to which images are resized; None = all have `image_shape`.
        image_shape: (H, W, 3).
    """

    def __init__(self, sources: list, key: str, size: int | None, image_shape):
        self._sources = sources
        self._starts = np.cumsum([0] + [len(source) for source in sources])
        self._key = key
        self._size = size
        self.image_shape = image_shape

    def fetch(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns float32 [B, H, W, 3] in [0, 1], the same as if kept in memory."""
        return tf.cast(self.pixels(rows), tf.float32) / 255.0

    def pixels(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns uint8 [B, H, W, 3] for int32 [B]."""
        rows = tf.convert_to_tensor(rows)
        data = tf.numpy_function(self._read, [rows], tf.string, stateful=False)
        return self._decode(tf.ensure_shape(data, rows.shape))

    def everything(self) -> np.ndarray:
        """Returns all images, uint8 [N, H, W, 3]."""
        images = np.empty([self._starts[-1], *self.image_shape], np.uint8)
        for start in range(0, len(images), _CHUNK):
            stop = min(start + _CHUNK, len(images))
            images[start:stop] = self.pixels(tf.range(start, stop)).numpy()
        return images

    def _read(self, rows: np.ndarray) -> np.ndarray:
        found = np.empty(len(rows), object)
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        for place, (row, number) in enumerate(zip(rows, numbers, strict=True)):
            record = self._sources[number][int(row - self._starts[number])]
            found[place] = record[self._key]
        return found

    @tf.function(autograph=False)
    def _decode(self, data: tf.Tensor) -> tf.Tensor:
        spec = tf.TensorSpec(self.image_shape, tf.uint8)
        return tf.map_fn(self._decode_one, data, fn_output_signature=spec)

    def _decode_one(self, data: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(decode_picture(data, self._size), self.image_shape)


def read_all(records: tf.data.Dataset, count: int, keys, size: int | None, shape):
    """Reads every record once.

    Args:
        records: Dataset of records with encoded pictures, in stored order.
        count: N.
        keys: Names of image and label in a record.
        size: Side to which images are resized; None = all have `shape`.
        shape: (H, W, 3).

    Returns:
        (images uint8 [N, H, W, 3], labels int32 [N]).
    """
    image_key, label_key = keys

    def decode(record):
        image = tf.ensure_shape(decode_picture(record[image_key], size), shape)
        return image, record[label_key]

    images, labels = np.empty([count, *shape], np.uint8), np.empty(count, np.int32)
    start = 0
    for part, names in records.map(decode, tf.data.AUTOTUNE).batch(_CHUNK):
        stop = start + len(names)
        images[start:stop], labels[start:stop] = part.numpy(), names.numpy()
        start = stop
    return images, labels
