"""Learning rates and other numbers that change with the step."""

import math

import tensorflow as tf
from tensorflow import keras

from kerobust.config import UserError


@keras.saving.register_keras_serializable("kerobust")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to a peak, then half a cosine down to a final rate.

    The rate changes at every step, the first of which (step 0) has exactly `initial`.

    Args:
        peak: Rate at the end of the warm-up, at least 0.
        warmup_steps: Length of the warm-up in steps, in [0, total_steps].
        total_steps: Length of the training in steps, at least 1; `final` from then on.
        final: Rate at the end, at least 0.
        initial: Rate at step 0 when there is a warm-up, at least 0.
        inclusive: Whether the last step of the warm-up has the peak rate already, as
            well as the step after it (DINO, DeACL); otherwise the step after it is
            the first with the peak rate (MAE).

    Call arguments:
        step: Scalar, whole or fractional.

    Returns:
        float32 scalar.

    Raises:
        UserError: If an argument is out of range.

    References:
        Loshchilov and Hutter, 2017, arXiv:1608.03983, equation 5 (without restarts).
    """

    def __init__(
        self,
        peak,
        warmup_steps,
        total_steps,
        final=0.0,
        initial=0.0,
        inclusive=False,
    ):
        rates = {"peak": peak, "final": final, "initial": initial}
        for name, rate in rates.items():
            if rate < 0:
                raise UserError(
                    f"`{name}` must be at least 0. Received: {name}={rate}."
                )
        if total_steps < 1:
            raise UserError(
                f"`total_steps` must be at least 1. Received: {total_steps=}."
            )
        if not 0 <= warmup_steps <= total_steps:
            raise UserError(
                "`warmup_steps` must not be negative nor exceed the length of the "
                f"training. Received: warmup_steps={warmup_steps}, "
                f"total_steps={total_steps}. Shorten the warm-up or train longer."
            )
        self.peak = peak
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        self.final = final
        self.initial = initial
        self.inclusive = inclusive

    def __call__(self, step):
        """Returns the rate at `step`."""
        step = tf.cast(step, tf.float32)
        risen = step / max(self.warmup_steps - int(self.inclusive), 1)
        rising = self.initial + (self.peak - self.initial) * risen
        length = max(self.total_steps - self.warmup_steps, 1)
        fallen = tf.clip_by_value((step - self.warmup_steps) / length, 0.0, 1.0)
        left = 0.5 * (1.0 + tf.cos(math.pi * fallen))
        falling = self.final + (self.peak - self.final) * left
        return tf.where(step < self.warmup_steps, rising, falling)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
            "final": self.final,
            "initial": self.initial,
            "inclusive": self.inclusive,
        }


@keras.saving.register_keras_serializable("kerobust")
class PerEpoch(keras.optimizers.schedules.LearningRateSchedule):
    """Holds the value that another schedule has at the first step of each epoch.

    Args:
        schedule: Counted in epochs: called with 0, 1, 2, ...
        steps_per_epoch: Steps per epoch, at least 1.

    Call arguments:
        step: Whole scalar.

    Returns:
        float32 scalar.
    """

    def __init__(self, schedule, steps_per_epoch: int):
        self.schedule = schedule
        self.steps_per_epoch = steps_per_epoch

    def __call__(self, step):
        """Returns the value at `step`."""
        return self.schedule(tf.cast(step, tf.int64) // self.steps_per_epoch)

    def get_config(self):
        """Returns the arguments of the constructor."""
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "steps_per_epoch": self.steps_per_epoch}

    @classmethod
    def from_config(cls, config):
        """Returns the schedule that `get_config` described."""
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule, config["steps_per_epoch"])


@keras.saving.register_keras_serializable("kerobust")
class Ramp(keras.optimizers.schedules.LearningRateSchedule):
    """Share of a ramp that is behind: 0 at step 0, 1 from step `steps` on.

    Multiply an epsilon, a loss weight or any other number by it.

    Args:
        steps: Length of the ramp in steps, at least 0; 0 = no ramp, always 1.

    Call arguments:
        step: Scalar, whole or fractional.

    Returns:
        float32 scalar in [0, 1].

    Raises:
        UserError: If `steps` is negative.
    """

    def __init__(self, steps):
        if steps < 0:
            raise UserError(f"`steps` must be at least 0. Received: steps={steps}.")
        self.steps = steps

    def __call__(self, step):
        """Returns the share at `step`."""
        if self.steps == 0:
            return tf.constant(1.0)
        return tf.clip_by_value(tf.cast(step, tf.float32) / self.steps, 0.0, 1.0)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {"steps": self.steps}


def scaled_rate(base: float, batch_size: int, reference: int = 256) -> float:
    """Returns the rate for `batch_size` by the linear rule, base at `reference`.

    References:
        Goyal et al., 2017, arXiv:1706.02677, section 2.1.
    """
    return base * batch_size / reference
