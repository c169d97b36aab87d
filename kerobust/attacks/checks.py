"""What an attack refuses, and the words with which it does."""

import numpy as np
import tensorflow as tf

from kerobust.attacks.precision import PRECISIONS

_ROUNDING = 1e-4  # How far resized images may leave [0, 1].
_DEFAULT = 8 / 255  # Of linf only: as a radius in l2 or l1 it is next to nothing.
_USUAL = {
    "linf": "did you mean 8/255?",
    "l2": "a usual radius of 32 x 32 images is 0.5.",
    "l1": "a usual radius of 32 x 32 images is 12.",
}


def check_order(images, targets) -> None:
    """Raises a `TypeError` if a model stands where images or targets belong."""
    for name, value in (("images", images), ("targets", targets)):
        if callable(value):
            wanted = "be a tensor or array" if name == "images" else "hold tensors"
            raise TypeError(
                f"`{name}` must {wanted}, and the model comes last: call "
                "attack(images, targets, victim), or attack(images, victim=model) for "
                f"the model's own predictions. Received: {name}={value!r}."
            )


def check_images(images) -> None:
    """Raises a `ValueError` unless images are floating [B, H, W, C] in [0, 1].

    Values are checked in eager code only; shape and type everywhere.
    """
    dtype, shape = tf.as_dtype(images.dtype), tf.TensorShape(images.shape)
    if not dtype.is_floating:
        raise ValueError(
            "`images` must be floating point in [0, 1]; divide by 255 (as float32) if "
            f"they are bytes. Received: images of dtype {dtype.name}."
        )
    if shape.rank != 4 or not shape[1:].is_fully_defined():
        raise ValueError(
            "`images` must have shape [B, H, W, C] with known H, W and C. "
            f"Received: images of shape {shape}."
        )
    values = known(images)
    if values is None or not values.size:
        return
    low, high = float(values.min()), float(values.max())  # NaN if one value is.
    if np.isnan(low):
        raise ValueError("`images` must be numbers. Received: images with NaN.")
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        fix = "Divide by 255" if low >= 0 and high <= 255 else "Undo the normalisation"
        raise ValueError(
            f"`images` must lie in [0, 1]. {fix}: whatever scaling the network wants "
            "belongs into the victim, so that epsilon is in pixel units. "
            f"Received: images in [{low:g}, {high:g}]."
        )


def check_radius(name: str, value, most: float | None = None, norm: str = "") -> None:
    """Raises a `ValueError` unless a radius or step is known to be in range.

    Args:
        name: The argument.
        value: Scalar, [B] or None; symbolic tensors pass.
        most: Largest norm of a change in [0, 1], None for no limit.
        norm: Name of the norm.
    """
    values = None if value is None else known(value)
    if values is None or not values.size:
        return
    if values.dtype.kind not in "biuf":
        raise ValueError(
            f"`{name}` must be a number, such as 8 / 255 without quotes. "
            f"Received: {name}={value!r}."
        )
    values = values.astype(np.float64)
    received = f"Received: {name}={values.tolist()}."
    if values.ndim > 1:
        raise ValueError(f"`{name}` must be a number or of shape [B]. {received}")
    if not (np.isfinite(values).all() and values.min() >= 0):
        raise ValueError(f"`{name}` must be at least 0 and finite. {received}")
    if most is not None and values.max() > most:
        advice = (
            "it multiplies the radii: is one of them too large for these images?"
            if norm == "union"
            else "it is in the pixel units of images in [0, 1]: "
            + _USUAL.get(norm, "divide by 255?")
        )
        raise ValueError(
            f"`{name}` must be at most {most:g}, the largest {norm} change within "
            f"[0, 1]; {advice} {received}"
        )


def default_radius(epsilon, norm: str) -> float | None:
    """Returns the radius of an attack: what was given, checked, or 8/255 in linf.

    In other norms it stays None, for calls that bring a radius along.
    """
    if epsilon is None:
        return _DEFAULT if norm == "linf" else None
    # How large l2 and l1 balls may be depends on the size of the images.
    check_radius("epsilon", epsilon, 1.0 if norm == "linf" else None, norm)
    return float(epsilon)


def check_given(epsilon, norm: str) -> None:
    """Raises a `ValueError` if neither the constructor nor the call gave a radius."""
    if epsilon is None:
        raise ValueError(
            f"`epsilon` must be given for norm {norm}: {_USUAL.get(norm, '')} "
            "Received: epsilon=None."
        )


def check_count(name: str, value) -> None:
    """Raises a `ValueError` unless `value` is a whole number of at least 1."""
    if isinstance(value, bool) or int(value) != value or value < 1:
        raise ValueError(
            f"`{name}` must be a whole number of at least 1. Received: {name}={value}."
        )


def check_starts(restarts, random_start: bool) -> None:
    """Raises a `ValueError` unless several searches start at different points."""
    check_count("restarts", restarts)
    if restarts > 1 and not random_start:
        raise ValueError(
            "`restarts` above 1 must come with random_start=True: from the image "
            "itself every search is the same. "
            f"Received: restarts={restarts}, random_start={random_start}."
        )


def check_mode(keep: str, precision: str, stop_when_fooled: bool) -> None:
    """Raises a `ValueError` unless these settings of a search are known and agree."""
    if keep not in ("last", "best"):
        raise ValueError(
            f'`keep` must be None, "last" or "best". Received: keep={keep}.'
        )
    if precision not in PRECISIONS:
        raise ValueError(
            f"`precision` must be one of {', '.join(PRECISIONS)}. "
            f"Received: precision={precision}."
        )
    if stop_when_fooled and (keep, precision) != ("best", "float32"):
        raise ValueError(
            '`stop_when_fooled` must have keep="best" and precision="float32": it '
            "ends at the first point that fools, which must then fool indeed. "
            f"Received: keep={keep}, precision={precision}."
        )


def check_rows(name: str, tensor: tf.Tensor, images: tf.Tensor) -> None:
    """Raises a `ValueError` unless a tensor is known to lead with the images' B."""
    rows = images.shape[:1]
    if tensor.shape.rank == 0 or not rows.is_compatible_with(tensor.shape[:1]):
        raise ValueError(
            f"`{name}` must have one row per image. Received: {name} of shape "
            f"{tensor.shape} for images of shape {images.shape}."
        )


def known(value) -> np.ndarray | None:
    """Returns a number, array or eager tensor as an array, None for a symbolic one."""
    if not tf.is_tensor(value):
        return np.asarray(value)
    eager = tf.executing_eagerly() and hasattr(value, "numpy")
    return value.numpy() if eager else None
