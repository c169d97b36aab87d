"""Channel normalisation, the first thing that every encoder does to its images."""

import numpy as np
import tensorflow as tf

from kerobust.config import UserError


def per_channel(name: str, values, channels: int) -> np.ndarray:
    """Returns `values`, one number or one per channel, as float64 [C].

    Args:
        name: What they are, "mean" or "std", for the message.
        values: Numbers that go with pixels in [0, 1].
        channels: C.

    Raises:
        UserError: If there are neither 1 nor C values.
    """
    values = np.asarray(values, np.float64)
    if values.size not in (1, channels):
        raise UserError(
            f"`--model.{name}` must have one number, or one per channel ({channels}). "
            f"Received: model.{name}={tuple(values.tolist())}."
        )
    return np.broadcast_to(values, [channels])


def normalise(images: tf.Tensor, mean: np.ndarray, std: np.ndarray) -> tf.Tensor:
    """Returns (images - mean) / std.

    Args:
        images: float32 [B, H, W, C] in [0, 1].
        mean, std: float64 [C]; 0 and 1 leave the images as they are.
    """
    if not mean.any() and (std == 1).all():
        return images
    return (images - tf.constant(mean, images.dtype)) / tf.constant(std, images.dtype)
