"""What happens between two steps: checks, probes, checkpoints and the progress line."""

import datetime
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from kerobust.config import UserError
from kerobust.progress import LOG_SECONDS
from kerobust.training.checkpoints import Checkpoints

# Runs at every multiple of its first entry, is given the global step, and returns
# floats and uint8 images [H, W, 3] by name.
Probe = tuple[int, Callable[[int], Mapping]]


class StepCallback(tf.keras.callbacks.Callback):
    """A callback that knows the global step, which is `optimizer.iterations`.

    Args:
        steps: Length of the whole training in steps.

    Attributes:
        step: Number of steps done since the very start of the training.
    """

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps
        self.step = self.previous = 0

    def on_train_begin(self, logs=None):
        """Starts at the step of the restored checkpoint."""
        self.step = global_step(self.model)

    def on_train_batch_end(self, batch, logs=None):
        """Moves to the new step and calls `after_step`."""
        self.previous, self.step = self.step, global_step(self.model)
        self.after_step(logs)

    def after_step(self, logs: dict) -> None:
        """Runs after each execution, which is one step or `steps_per_execution`."""
        raise NotImplementedError

    def passed(self, interval: int) -> bool:
        """Returns whether a multiple of `interval` was reached by this execution."""
        return self.step // interval > self.previous // interval

    @property
    def last(self) -> bool:
        """Whether no step follows: the end is reached or a stop was asked for."""
        return self.model.stop_training or self.step >= self.steps


class StopOnNonFinite(StepCallback):
    """Stops the training when a loss term is not a finite number.

    Args:
        steps: See `StepCallback`.
        checkpoints: Named in the message.

    Raises:
        UserError: After a step with a bad loss term; nothing is saved.
    """

    def __init__(self, steps: int, checkpoints: Checkpoints):
        super().__init__(steps)
        self.checkpoints = checkpoints

    def after_step(self, logs):
        """Raises if a loss term is not finite."""
        # The terms come before their sum: name the one to blame.
        for name in reversed(loss_names(self.model, logs)):
            if not math.isfinite(logs[name]):
                what = f"Loss term `{name}` is {logs[name]}"
                raise non_finite(what, self.step, self.checkpoints)


class Probes(StepCallback):
    """Runs measurements every so many steps and prints their numbers.

    Args:
        steps: See `StepCallback`.
        probes: Pairs (interval in steps, callable(step)).
        say: Called with one line of text after each probe.

    Attributes:
        results: What the probes of this step returned, by name.
    """

    def __init__(self, steps: int, probes: Sequence[Probe], say: Callable[[str], None]):
        super().__init__(steps)
        self.probes = probes
        self.say = say
        self.results: dict = {}

    def after_step(self, logs):
        """Runs the probes that are due."""
        self.results = {}
        for interval, probe in self.probes:
            if self.passed(interval):
                self.results.update(probe(self.step))
        numbers = {k: v for k, v in self.results.items() if np.ndim(v) == 0}
        if numbers:
            self.say(f"step {self.step}: {_pairs(numbers)}")


class SaveEvery(StepCallback):
    """Saves a checkpoint every `interval` steps and after the last step.

    Args:
        steps: See `StepCallback`.
        interval: Steps between two checkpoints.
        checkpoints: Where to.
        state: What to save.
        extra: JSON-able values that go with it.

    Raises:
        UserError: If a weight or an optimizer slot is not finite; nothing is saved.
    """

    def __init__(
        self,
        steps: int,
        interval: int,
        checkpoints: Checkpoints,
        state: tf.train.Checkpoint,
        extra: Mapping,
    ):
        super().__init__(steps)
        self.interval = interval
        self.checkpoints = checkpoints
        self.state = state
        self.extra = extra

    def after_step(self, logs):
        """Saves if it is time, unless the state is bad."""
        if not (self.passed(self.interval) or self.last):
            return
        for variable in [*self.model.variables, *self.model.optimizer.variables]:
            if variable.dtype.is_floating and not _finite(variable):
                what = f"Variable `{variable.name}` holds numbers that are not finite"
                raise non_finite(what, self.step, self.checkpoints)
        self.checkpoints.save(self.state, self.step, self.extra)


class Progress(StepCallback):
    """One line that says how far the training is, how fast, and how it goes.

    The line rewrites itself on a terminal. Elsewhere the first and the last state are
    printed, and a line every `progress.LOG_SECONDS` between them.

    Args:
        steps: See `StepCallback`.
        title: First word of the line.
        batch_size: Images per step over all devices.
        stream: Where to print; None = standard output.
    """

    def __init__(self, steps: int, title: str, batch_size: int, stream=None):
        super().__init__(steps)
        self.title = title
        self.batch_size = batch_size
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        # Step and time after the first execution, which compiles.
        self._first: tuple[int, float] | None = None
        self._pause = 0.2 if self.live else LOG_SECONDS
        self._shown = -math.inf

    def on_train_begin(self, logs=None):
        """Says where a resumed training continues."""
        super().on_train_begin(logs)
        if self.step:
            self.say(f"{self.title} continues from step {self.step} of {self.steps}")

    def after_step(self, logs):
        """Prints the line if it is time."""
        now = time.monotonic()
        self._first = self._first or (self.step, now)
        if now - self._shown < self._pause and not self.last:
            return
        self._shown = now
        values = {name: logs[name] for name in loss_names(self.model, logs)}
        parts = [
            f"{self.title} {self.step}/{self.steps}",
            *self._speed(self._first, now),
        ]
        self._print(" | ".join([*parts, _pairs(values)]), end=self.last)

    def say(self, text: str) -> None:
        """Prints a line of its own, above the line that rewrites itself."""
        self._print(text, end=True)

    def _speed(self, first: tuple[int, float], now: float) -> list[str]:
        done = self.step - first[0]
        if not done:
            return []
        seconds = (now - first[1]) / done
        left = datetime.timedelta(seconds=round(seconds * (self.steps - self.step)))
        return [f"{self.batch_size / seconds:.0f} images/s", f"{left} left"]

    def _print(self, text: str, end: bool) -> None:
        if self.live:
            columns = shutil.get_terminal_size().columns - 1
            text = "\r" + (
                text.ljust(columns) if end else f"{text:{columns}.{columns}}"
            )
        self.stream.write(text + ("\n" if end or not self.live else ""))
        self.stream.flush()


def global_step(model: tf.keras.Model) -> int:
    """Returns how many updates the model's optimizer has made."""
    return int(model.optimizer.iterations.numpy())


def loss_names(model: tf.keras.Model, logs: Mapping) -> list[str]:
    """Returns the metrics that are the loss and its terms.

    These are `loss` and the names in the model's `TERMS`, as far as `train_step`
    returns them; every metric if it returns none of them.
    """
    known = ("loss", *getattr(model, "TERMS", ()))
    return [name for name in known if name in logs] or list(logs)


def non_finite(what: str, step: int, checkpoints: Checkpoints) -> UserError:
    """Returns the error that ends a training whose numbers went bad."""
    saved = checkpoints.all()
    good = (
        f"The last good checkpoint is {saved[0]}" if saved else "Nothing is saved yet"
    )
    return UserError(
        f"{what} after step {step}; the training stopped and this state was not saved. "
        f"{good}. Remedies: lower the base rate or lengthen the warm-up; use "
        "--run.mixed_precision=float32; look for broken images in the data."
    )


def _finite(variable: tf.Variable) -> bool:
    return bool(tf.reduce_all(tf.math.is_finite(variable)))


def _pairs(values: Mapping) -> str:
    return ", ".join(f"{name} {float(value):.4g}" for name, value in values.items())
