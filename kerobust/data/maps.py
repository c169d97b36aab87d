"""Files of masks and depth maps: what their values mean."""

import io
import struct
from collections.abc import Callable

import numpy as np

from kerobust.config import UserError
from kerobust.data.label_maps import UNKNOWN, LabelMap
from kerobust.data.pictures import UnreadableError

_GREY, _PALETTE = 0, 3  # Colour types of PNG.


def png_values(data: bytes) -> tuple[np.ndarray, int, int]:
    """Returns the stored values of a PNG file, its bits per value and colour type.

    Those of a palette are its numbers, not its colours: TensorFlow decodes colours.

    Returns:
        (uint8 or uint16 [H, W] or [H, W, C], bits, colour type).

    Raises:
        UnreadableError: If it is no PNG file, or damaged.
    """
    from PIL import Image

    if not data.startswith(b"\x89PNG\r\n\x1a\n") or len(data) < 26:
        raise UnreadableError("is not a PNG file")
    bits, colour = struct.unpack("BB", data[24:26])
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture), bits, colour
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableError(f"cannot be decoded ({error})") from error


def class_decoder(labels: LabelMap) -> Callable[[bytes, str], np.ndarray]:
    """Returns the function that decodes masks: 8 bits per pixel, grey or palette."""

    def decode(data: bytes, name: str) -> np.ndarray:
        values, bits, colour = png_values(data)
        if colour != _PALETTE and (bits, colour) != (8, _GREY):
            raise UserError(
                "`--data.name` must have masks that are PNG files of 8 bits, grey or "
                f"with a palette, whose values are classes. Received: {name} with "
                f"{bits} bits and {'colours' if colour else 'grey values'}."
            )
        return classes_of(values, labels, name)

    return decode


def classes_of(values: np.ndarray, labels: LabelMap, name: str) -> np.ndarray:
    """Returns the classes int16 [H, W] of stored values uint8 [H, W]."""
    found = labels.table[values]
    wrong = values[found == UNKNOWN]
    if wrong.size:
        raise UserError(
            f"`--data.name` must have masks of the {len(labels.names)} classes that "
            f"are named. Received: {name} with {wrong[0]} in {wrong.size} pixels. If "
            "that value means no label, add it to --data.ignore (masks:PATH only); if "
            "it is a class, to classes.txt."
        )
    return found


def metres_decoder(unit: float) -> Callable[[bytes, str], np.ndarray]:
    """Returns the function that decodes depth maps: 16 bits per pixel, grey.

    Args:
        unit: Metres per stored step.
    """

    def decode(data: bytes, name: str) -> np.ndarray:
        values, bits, colour = png_values(data)
        if (bits, colour) != (16, _GREY):
            raise UserError(
                "`--data.name` must have depth maps that are grey PNG files of 16 "
                f"bits. Received: {name} with {bits} bits and "
                f"{'grey values' if colour == _GREY else 'colours'}, which is made "
                "for looking at: take the measured values."
            )
        return values.astype(np.float32) * np.float32(unit)

    return decode
