"""What objectives refuse as targets: values of other classes, other shapes, labels.

Values are looked at in eager code only, shapes and types everywhere.
"""

import numpy as np
import tensorflow as tf

from kerobust.attacks.checks import known


def check_classes(targets, classes: int) -> None:
    """Raises a `ValueError` if class indices are known to be out of [0, K).

    Args:
        targets: int [B]; what is symbolic or no integer passes.
        classes: K.
    """
    outside = _outside(targets, 0, classes)
    if outside is not None:
        raise ValueError(
            f"`targets` must be class indices from 0 to {classes - 1}, the classes "
            f"of the victim's logits. Received: targets with the value {outside}. "
            "Leave images without a label out, and count classes from 0."
        )


def check_masks(targets, classes: int) -> None:
    """Raises a `ValueError` if masks are known to hold other labels than -1 to K - 1.

    Args:
        targets: int [B, H, W]; what is symbolic or no integer passes.
        classes: K.
    """
    outside = _outside(targets, -1, classes)
    if outside is not None:
        raise ValueError(
            f"`targets` must be masks of classes from 0 to {classes - 1}, -1 where "
            f"there is no label. Received: targets with the value {outside} for logits "
            f"of {classes} classes. If it means no label, pass "
            f"tf.where(masks == {outside}, -1, masks)."
        )


def check_depths(targets) -> None:
    """Raises a `ValueError` if depths float [B, H, W] are known to be no distances."""
    values = _seen(targets, "f")
    if values is None:
        return
    low, high = float(values.min()), float(values.max())  # NaN if one value is.
    if not (low >= 0 and np.isfinite(high)):
        found = "NaN" if np.isnan(low) else f"{low:g}" if low < 0 else "infinity"
        raise ValueError(
            "`targets` must be depths in metres, at least 0 and finite, 0 where "
            f"unknown. Received: targets with the value {found}. Pass "
            "tf.where(tf.math.is_finite(depths) & (depths > 0), depths, 0.0)."
        )


def check_like(targets, outputs: tf.Tensor, expected: str) -> None:
    """Raises a `ValueError` unless targets are floating, of the shape of the outputs.

    Without it they would broadcast, or fail deep inside of a graph.

    Args:
        targets: What was given.
        outputs: float [B, ...] of the victim.
        expected: What targets are, in words.
    """
    shape, dtype = getattr(targets, "shape", None), getattr(targets, "dtype", None)
    if shape is None or dtype is None:
        received = type(targets).__name__
    elif tf.as_dtype(dtype).is_floating and outputs.shape.is_compatible_with(shape):
        return
    else:
        received = f"shape {shape} and dtype {tf.as_dtype(dtype).name}"
    raise ValueError(
        f"`targets` must be {expected}. Received: targets of {received} for outputs of "
        f"shape {outputs.shape}."
    )


def check_mask_shape(targets: tf.Tensor, outputs: tf.Tensor) -> None:
    """Raises a `ValueError` unless masks [B, H, W] have the size of logits.

    Args:
        targets: int [B, H, W].
        outputs: float32 [B, H, W, K].
    """
    if not outputs.shape[:3].is_compatible_with(targets.shape):
        raise ValueError(
            "`targets` must be masks of the size of the victim's logits: one label per "
            f"pixel. Received: targets of shape {targets.shape} for logits of "
            f"shape {outputs.shape}. Resize masks by nearest neighbour, or let "
            "the victim resize its logits."
        )


def _seen(targets, kinds: str) -> np.ndarray | None:
    """Returns one eager tensor of some kinds of numbers as an array, else None."""
    values = known(targets) if hasattr(targets, "dtype") else None
    if values is None or values.dtype.kind not in kinds or not values.size:
        return None
    return values


def _outside(targets, least: int, classes: int) -> int | None:
    """Returns a known integer outside [least, classes), or None if there is none."""
    values = _seen(targets, "iu")
    if values is None:
        return None
    low, high = int(values.min()), int(values.max())
    if low < least:
        return low
    return high if high >= classes else None
