"""The record of a training: TensorBoard events and one JSON line per logged step."""

import json
import math
import os
import pathlib
import time
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from kerobust.training.callbacks import Probes, StepCallback
from kerobust.training.checkpoints import unwritable

# Marks the event files that belong to the training, which alone are ever rewritten.
_SUFFIX = ".train"


class MetricsLog(StepCallback):
    """Logs the means since the last row, the rate, the speed and the probes' results.

    Rows go to `<folder>/metrics.jsonl` and `<folder>/tensorboard`: `train/<name>` for
    every metric of `train_step`, `learning_rate`, `images_per_second`, `attack_share`
    (share of the time that went into `attack_seconds`, if there is such a metric) and
    whatever the probes return under their own names; images go to TensorBoard only.
    The first execution, which compiles, counts in no speed.

    Use as a context manager around `Model.fit`, behind `Probes` and before `SaveEvery`:
    a row is written at every checkpoint too, so means never reach over a checkpoint and
    a resumed run logs what the uninterrupted run would have. What was logged after the
    step of the restored checkpoint is removed when the context opens.

    Args:
        steps: See `StepCallback`.
        folder: Folder of this training.
        batch_size: Images per step over all devices.
        intervals: A row is due at the multiples of each of these numbers of steps, and
            whenever there are results of probes.
        probes: Whose results are logged.

    Raises:
        UserError: If the folder cannot be written.
    """

    def __init__(
        self,
        steps: int,
        folder: pathlib.Path,
        batch_size: int,
        intervals: tuple[int, ...],
        probes: Probes,
    ):
        super().__init__(steps)
        self.path = folder / "metrics.jsonl"
        self.events = folder / "tensorboard"
        self.batch_size = batch_size
        self.intervals = intervals
        self.probes = probes
        self._timed_steps, self._seconds = 0, 0.0
        self._warm = False

    def open(self, start: int, hparams: Mapping | None = None) -> "MetricsLog":
        """Forgets what came after step `start` and opens the files.

        Args:
            start: Step of the restored checkpoint, 0 if there is none.
            hparams: Settings for TensorBoard's HParams page, written at step 0.

        Returns:
            self.
        """
        try:
            self.events.mkdir(parents=True, exist_ok=True)
            _rewrite(self.path, _json_lines(read_rows(self.path, start)))
            for path in sorted(self.events.glob(f"*tfevents*{_SUFFIX}")):
                _cut_events(path, start)
            self._writer = tf.summary.create_file_writer(
                str(self.events), filename_suffix=_SUFFIX
            )
            if hparams and start == 0:
                _write_hparams(self._writer, hparams)
        except (OSError, tf.errors.OpError) as error:
            raise unwritable(self.path.parent, error) from error
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._writer.close()

    def on_train_batch_begin(self, batch, logs=None):
        """Starts the clock."""
        self._began = time.perf_counter()

    def after_step(self, logs):
        """Stops the clock and writes a row if it is time."""
        if self._warm:
            self._seconds += time.perf_counter() - self._began
            self._timed_steps += self.step - self.previous
        self._warm = True
        due = self.last or self.probes.results
        if not (due or any(map(self.passed, self.intervals))):
            return
        values = {f"train/{name}": float(value) for name, value in logs.items()}
        values["learning_rate"] = float(self.model.optimizer.learning_rate.numpy())
        self._write({**values, **self._speed(logs), **self.probes.results})
        self.model.reset_metrics()
        self._timed_steps, self._seconds = 0, 0.0

    def _speed(self, logs) -> dict[str, float]:
        if not self._timed_steps:
            return {}
        seconds = self._seconds / self._timed_steps
        speed = {"images_per_second": self.batch_size / seconds}
        if "attack_seconds" in logs:
            speed["attack_share"] = min(float(logs["attack_seconds"]) / seconds, 1.0)
        return speed

    def _write(self, values: Mapping) -> None:
        row: dict = {"step": self.step, "time": round(time.time(), 3)}
        with self._writer.as_default(self.step):
            for name, value in values.items():
                if np.ndim(value) == 0:
                    # JSON knows no infinities.
                    row[name] = float(value) if math.isfinite(value) else None
                    tf.summary.scalar(name, float(value))
                else:
                    _write_image(name, np.asarray(value))
        try:
            _append(self.path, _json_lines([row]))
            self._writer.flush()
        except (OSError, tf.errors.OpError) as error:
            raise unwritable(self.path.parent, error) from error


def read_rows(path: pathlib.Path, last_step: float = math.inf) -> list[dict]:
    """Returns the rows of a metrics file up to `last_step`; a torn line ends them."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            break
        if row["step"] <= last_step:
            rows.append(row)
    return rows


def _json_lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _append(path: pathlib.Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, data)  # one call: a kill leaves the whole line or nothing
    finally:
        os.close(descriptor)


def _rewrite(path: pathlib.Path, data: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def _cut_events(path: pathlib.Path, last_step: int) -> None:
    """Takes what came after `last_step` out of an event file; 0 deletes the file."""
    if last_step == 0:
        path.unlink()
        return
    temporary = path.parent / "rewriting.tmp"
    with tf.io.TFRecordWriter(str(temporary)) as writer:
        try:
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                if tf.compat.v1.Event.FromString(record).step <= last_step:
                    writer.write(record)
        except tf.errors.DataLossError:
            pass  # The run was killed while writing this record: the file ends here.
    os.replace(temporary, path)


def _write_hparams(writer, hparams: Mapping) -> None:
    from tensorboard.plugins.hparams import api  # type: ignore[import-untyped]

    plain = (bool, int, float, str)
    values = {k: v if isinstance(v, plain) else str(v) for k, v in hparams.items()}
    with writer.as_default(0):
        api.hparams(values)


def _write_image(name: str, image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3:
        raise ValueError(
            f"`{name}` of a probe must be a float or a uint8 image [H, W, 3]. "
            f"Received: shape={image.shape}, dtype={image.dtype}."
        )
    tf.summary.image(name, image[np.newaxis])
