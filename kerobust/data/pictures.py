"""Picture files: what they hold, reading them, fetching from them."""

import os
import pathlib
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from kerobust.data.augmentations import square

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
# A few kilobytes can claim to be gigapixels; nothing larger than this is decoded.
MAX_PIXELS = 2**26
_THREADS = 2 * (os.cpu_count() or 1)
_TAIL = 4096
_MANY = 2**30


class UnreadableError(Exception):
    """A file that is not a picture TensorFlow can decode; the text says why."""


class Files:
    """Images read from files whenever they are fetched.

    Args:
        paths: Names of the files.
        size: Side to which images are resized; None = all have `image_shape`.
        image_shape: (H, W, 3).
    """

    def __init__(self, paths: list[str], size: int | None, image_shape):
        with tf.device("CPU:0"):
            self._paths = tf.constant(paths, tf.string)
        self._size = size
        self.image_shape = image_shape

    def fetch(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns float32 [B, H, W, 3] in [0, 1], the same as if kept in memory."""
        images = self._decode(tf.gather(self._paths, rows))
        images = tf.ensure_shape(images, [rows.shape[0], *self.image_shape])
        return tf.cast(images, tf.float32) / 255.0

    @tf.function(autograph=False)
    def _decode(self, paths: tf.Tensor) -> tf.Tensor:
        """Returns uint8 [B, H, W, 3]; a file that cannot be decoded is named."""
        count = tf.size(paths)
        files = tf.data.Dataset.from_tensor_slices((tf.range(count), paths))
        read = files.map(self._read, tf.data.AUTOTUNE, deterministic=True)
        # TensorFlow's own error would not say which file it is about.
        places, images = read.ignore_errors().batch(_MANY).get_single_element()
        lost = tf.tensor_scatter_nd_update(
            tf.ones([count], tf.bool), places[:, tf.newaxis], tf.zeros_like(places) > 0
        )
        names = tf.boolean_mask(paths, lost)
        message = "`--data.name` holds files that cannot be decoded any more:"
        tf.debugging.Assert(tf.size(names) == 0, [message, names])
        return images

    def _read(self, place: tf.Tensor, path: tf.Tensor):
        image = decode_picture(tf.io.read_file(path), self._size)
        return place, tf.ensure_shape(image, self.image_shape)


def decode_picture(data: tf.Tensor, size: int | None) -> tf.Tensor:
    """Returns a picture's pixels, resized and cropped to a square if `size` is given.

    Args:
        data: string scalar: content of a JPEG, PNG, BMP or GIF (first frame) file.
        size: Side in pixels, or None.

    Returns:
        uint8 [H, W, 3]; grey is repeated, transparency and EXIF rotation are ignored.
    """
    image = tf.cond(
        tf.io.is_jpeg(data),
        lambda: tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(data, channels=3, expand_animations=False),
    )
    image = tf.ensure_shape(image, [None, None, 3])
    return image if size is None else square(image, size)


def inspect_all(paths: list[pathlib.Path]) -> list:
    """Returns for each file its (height, width), or the `UnreadableError` it raised."""
    return list(each_or_error(inspect, paths))


def decode_all(paths: list[pathlib.Path], size: int | None) -> Iterator:
    """Gives for each file its uint8 [H, W, 3], or the `UnreadableError` it raised."""
    decode = picture_decoder(size)
    yield from each_or_error(lambda path: decode(read_bytes(path)), paths)


def picture_decoder(size: int | None) -> Callable[[bytes], np.ndarray]:
    """Returns `decode_picture` for threads; it raises `UnreadableError`."""
    # Made here, not at the first call, which would be one per thread.
    decode = tf.function(
        lambda data: decode_picture(data, size), autograph=False
    ).get_concrete_function(tf.TensorSpec([], tf.string))

    def of(data: bytes) -> np.ndarray:
        try:
            with tf.device("CPU:0"):
                return decode(tf.constant(data)).numpy()
        except tf.errors.OpError as error:
            raise UnreadableError("cannot be decoded") from error

    return of


def read_bytes(path: pathlib.Path) -> bytes:
    """Returns a file's content; raises `UnreadableError`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error})") from error


def each_or_error(work: Callable, items) -> Iterator:
    """Gives for each item what `work` returns, or the `UnreadableError` it raised."""
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(lambda item: _or_error(work, item), items)


def inspect(path: pathlib.Path) -> tuple[int, int]:
    """Returns (height, width) from a picture's header.

    Only the header and the end are read, so that large folders open quickly. A file
    that does not end as its format demands may be cut off: that one is decoded.

    Raises:
        UnreadableError: If the file is none of the formats, too large or damaged.
    """
    try:
        with open(path, "rb") as file:
            height, width, ending = _header(file)
            file.seek(-min(_TAIL, file.seek(0, os.SEEK_END)), os.SEEK_END)
            complete = ending in file.read()
    except (OSError, struct.error, IndexError) as error:
        raise UnreadableError(f"cannot be read ({error})") from error
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise UnreadableError(f"claims {height} x {width} pixels")
    if not complete:
        result = next(decode_all([path], None))
        if isinstance(result, UnreadableError):
            raise result
    return height, width


def _header(file) -> tuple[int, int, bytes]:
    """Returns (height, width, what the file must end with)."""
    start = file.read(26)
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        width, height = struct.unpack(">II", start[16:24])
        return height, width, b"IEND"
    if start.startswith((b"GIF87a", b"GIF89a")):
        width, height = struct.unpack("<HH", start[6:10])
        return height, width, b"\x3b"
    if start.startswith(b"BM"):
        width, height = struct.unpack("<ii", start[18:26])
        return abs(height), width, b""
    if start.startswith(b"\xff\xd8\xff"):
        return (*_jpeg_size(file), b"\xff\xd9")
    raise UnreadableError("is not a JPEG, PNG, BMP or GIF file")


def _jpeg_size(file) -> tuple[int, int]:
    """Returns (height, width) from the first start-of-frame segment."""
    file.seek(2)
    while True:
        mark, kind, length = struct.unpack(">BBH", file.read(4))
        if mark != 0xFF:
            raise UnreadableError("is damaged near its start")
        # 0xC0..0xCF start a frame, but for three that define tables.
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            return struct.unpack(">HH", file.read(5)[1:])
        file.seek(length - 2, os.SEEK_CUR)


def _or_error(work: Callable, item):
    try:
        return work(item)
    except UnreadableError as error:
        return error
