"""Limits of logged means: training that left them is warned of, then stopped."""

import math
from collections.abc import Callable
from typing import NamedTuple

from kerobust.config import UserError
from kerobust.training.callbacks import StepCallback

# Rows of metrics in a row outside the limits after which the training stops.
PATIENCE = 5


class Monitor(NamedTuple):
    """A mean of `train_step` and the limits outside which training is pointless.

    Attributes:
        name: Of the mean.
        low, high: Limits; both are still good.
        trouble: What a value outside means.
        remedy: What to do about it.
    """

    name: str
    low: float
    high: float
    trouble: str
    remedy: str


class StopOnTrouble(StepCallback):
    """Warns when a mean leaves its limits, and stops when it stays outside.

    Means are looked at where a row of metrics is due, so they cover one interval.

    Args:
        steps: See `StepCallback`.
        interval: Steps between two looks.
        say: Called with one line of text at the first look outside.

    Raises:
        UserError: After `PATIENCE` looks in a row outside the limits.
    """

    def __init__(self, steps: int, interval: int, say: Callable[[str], None]):
        super().__init__(steps)
        self.interval = interval
        self.say = say
        self._outside: dict[str, int] = {}

    def after_step(self, logs):
        """Compares the means with their limits if a row of metrics is due."""
        if not (self.passed(self.interval) or self.last):
            return
        for monitor in getattr(self.model, "monitors", ()):
            value = float(logs[monitor.name])
            # Numbers that are not finite are another callback's business.
            good = not math.isfinite(value) or monitor.low <= value <= monitor.high
            looks = 0 if good else self._outside.get(monitor.name, 0) + 1
            self._outside[monitor.name] = looks
            if looks == 1:
                self.say(f"warning: {_message(monitor, value, self.step)}")
            if looks >= PATIENCE:
                raise UserError(
                    f"{_message(monitor, value, self.step)} It stayed there for "
                    f"{PATIENCE} rows of metrics, so the training stopped; the newest "
                    "checkpoint is kept."
                )


def _message(monitor: Monitor, value: float, step: int) -> str:
    return (
        f"Monitor `{monitor.name}` must lie in [{monitor.low:.4g}, {monitor.high:.4g}]."
        f" Received: {monitor.name}={value:.4g} at step {step}, which means "
        f"{monitor.trouble}. Remedy: {monitor.remedy}"
    )
