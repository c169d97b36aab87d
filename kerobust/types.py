"""Named results that cross package borders."""

from typing import NamedTuple

import tensorflow as tf


class Tokens(NamedTuple):
    """What an encoder returns; callers never slice position 0.

    Attributes:
        cls: float [B, D], the class token after the final norm.
        patches: float [B, N, D], the patch tokens after the final norm, in row-major
            patch order, or in the order of `visible` when that was given.
    """

    cls: tf.Tensor
    patches: tf.Tensor


class AttackInfo(NamedTuple):
    """What one attack call did to each example.

    Attributes:
        success: bool [B], the returned image fools the victim (all False for
            objectives without a notion of success).
        loss: float32 [B], value of the objective at the returned image.
        norm: float32 [B], size of the perturbation in the attack's own norm.
        steps_used: int32 [B], search steps from the start to the returned image;
            0 for examples that were left untouched.
    """

    success: tf.Tensor
    loss: tf.Tensor
    norm: tf.Tensor
    steps_used: tf.Tensor
