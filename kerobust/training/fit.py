"""The training loop: Keras' own, made resumable, stoppable and observable."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from kerobust.batch_state import weights_digest
from kerobust.config import Config, UserError, setting
from kerobust.distribute import workers
from kerobust.training.callbacks import (
    Probe,
    Probes,
    Progress,
    SaveEvery,
    StopOnNonFinite,
    global_step,
)
from kerobust.training.checkpoints import Checkpoints
from kerobust.training.metrics_log import MetricsLog, read_rows
from kerobust.training.monitors import StopOnTrouble
from kerobust.training.signals import StopOnSignal


@dataclasses.dataclass(frozen=True)
class RunConfig(Config):
    """Where and how a run happens; nothing here says what is trained."""

    SECTION = "run"

    workdir: str = setting("runs/default", "Folder of everything the run writes.")
    stages: tuple[str, ...] = setting(("pretrain",), "What to do, in this order.")
    seed: int = setting(0, "Seed of weights, data order, masks and noise.", low=0)
    devices: int = setting(1, "Devices that share each batch.", low=1)
    mixed_precision: str = setting(
        "float32",
        "Precision of the networks; losses and attacked images stay float32.",
        choices=("float32", "mixed_float16", "mixed_bfloat16"),
    )
    init_from: str | None = setting(
        None, "Bundle to start from where there is no checkpoint; empty = new weights."
    )
    checkpoint_steps: int = setting(200, "Steps between two checkpoints.", low=1)
    keep_checkpoints: int = setting(2, "Newest checkpoints that are kept.", low=1)
    log_steps: int = setting(20, "Steps between two rows of metrics.", low=1)
    steps_per_execution: int = setting(
        1,
        "Steps per call of the compiled function. More is faster for small networks;"
        " signals, bad losses and checkpoints wait for the end of the call.",
        low=1,
    )
    deterministic: bool = setting(
        True, "Only operations that give the same bits every time."
    )
    jit_compile: bool = setting(
        False, "Compile the step with XLA (one device only; mostly slower on CPUs)."
    )

    def __post_init__(self):
        super().__post_init__()
        self.require(bool(self.workdir.strip()), "workdir", "must name a folder")
        self.require(
            not (self.jit_compile and self.devices > 1),
            "jit_compile",
            f"must be false with --run.devices={self.devices}",
            "XLA cannot compile a step that is shared by several devices.",
        )


@dataclasses.dataclass(frozen=True)
class Fitted:
    """How a training ended.

    Attributes:
        step: Global step of the newest checkpoint, which is the state of the weights.
        stopped: Whether a signal asked to stop; the same call continues the training.
        history: Rows of metrics since step 0, as in `metrics.jsonl`.
    """

    step: int
    stopped: bool
    history: list[dict]


def fit(
    method: tf.keras.Model,
    batches: Callable[[int], tf.data.Dataset],
    *,
    steps: int,
    batch_size: int,
    folder: str | os.PathLike,
    run: RunConfig,
    probes: Sequence[Probe] = (),
    digest: str | None = None,
    hparams: Mapping | None = None,
) -> Fitted:
    """Trains `method` up to step `steps`, from the newest checkpoint in `folder`.

    With a pure `train_step` (no random state of its own) and deterministic operations,
    a run that was killed and called again ends with the same weights and slots, bit
    for bit, as one that was not.

    Args:
        method: Compiled model with all its weights, and an optimizer that is built.
            `train_step` makes exactly one optimizer step and returns running means of
            its metrics; `TERMS`, if present, names the loss terms among them, and
            `monitors` limits some (see `Monitor`).
        batches: Given a step, returns the batches of that step and all later ones; with
            several workers the `shares` of this one.
        steps: Global step at which the training ends, at least 1.
        batch_size: Images per step over all devices.
        folder: Receives `checkpoints/`, `tensorboard/` and `metrics.jsonl`. All workers
            read it, the chief alone writes it.
        run: Intervals, `steps_per_execution` and `jit_compile`.
        probes: Pairs (interval in steps, callable(step) -> floats and uint8 images by
            name).
        digest: Names the configuration; a checkpoint of another one is refused.
        hparams: Settings for TensorBoard's HParams page.

    Raises:
        UserError: If a loss term or a weight is not finite, a monitored mean stays
            outside its limits, the folder holds another configuration or damaged
            checkpoints only, or cannot be written, or is not the same to all workers.
        ValueError: If `method` is not ready, or `batches` yields too few batches (with
            several workers they repeat).
    """
    _prepare(method, steps, run)
    folder, own = pathlib.Path(folder), workers().own(folder)
    state = tf.train.Checkpoint(method=method, optimizer=method.optimizer)
    kept, extra = _checkpoints(folder, run.keep_checkpoints), {"config_digest": digest}
    start = _restore(kept, state, extra, method)
    if start >= steps:
        return _already_done(start, steps, folder)

    saved = kept if workers().place.chief else _checkpoints(own, keep=1)
    progress = Progress(steps, folder.name, batch_size)
    measured = Probes(steps, probes, progress.say)
    rows = (run.log_steps, run.checkpoint_steps)
    log = MetricsLog(steps, own, batch_size, rows, measured)
    guard = StopOnNonFinite(steps, kept)
    trouble = StopOnTrouble(steps, run.log_steps, progress.say)
    save = SaveEvery(steps, run.checkpoint_steps, saved, state, extra)
    with StopOnSignal(steps, run.log_steps) as stop, log.open(start, hparams):
        method.fit(
            workers().distributed(batches(start)),
            steps_per_epoch=steps - start,
            epochs=1,
            verbose=0,
            callbacks=[guard, trouble, measured, stop, progress, log, save],
        )
    stopped = stop.stopped
    _require_end(save.step, steps, stopped)
    workers().exchange()  # The chief has written the last row.
    return Fitted(save.step, stopped, read_rows(folder / log.path.name))


def _checkpoints(folder: pathlib.Path, keep: int) -> Checkpoints:
    return Checkpoints(folder / "checkpoints", keep=keep)


def _restore(checkpoints: Checkpoints, state, extra, method: tf.keras.Model) -> int:
    """Returns the step of the newest checkpoint, 0 without one, after reading it.

    Workers read one after the other. Those whose weights differ afterwards are refused,
    since no later step would put that right.
    """
    workers().in_turn(lambda: checkpoints.restore(state, extra))
    start = global_step(method)
    other = workers().differing(lambda: f"{start} {weights_digest(method)}")
    if other is not None:
        raise UserError(
            "`--run.workdir` must be one folder that all workers share. Received: "
            f"{checkpoints.folder}, from which worker {other} starts with other "
            "weights than worker 0. Wait until all machines see the same files, and "
            "start again."
        )
    return start


def _already_done(start: int, steps: int, folder: pathlib.Path) -> Fitted:
    if start > steps:
        raise UserError(
            f"`--run.workdir` holds another configuration: its training is at step "
            f"{start}, this one ends at step {steps}. Received: {folder}. Choose "
            "another --run.workdir, or repeat the settings of that run."
        )
    return Fitted(start, False, read_rows(folder / "metrics.jsonl"))


def _prepare(method: tf.keras.Model, steps: int, run: RunConfig) -> None:
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1. Received: steps={steps}.")
    if not method.weights or len(method.optimizer.variables) <= 1:
        raise ValueError(
            "`method` must have all its weights and a built optimizer, so that a "
            f"checkpoint can fill them. Received: {len(method.weights)} weights, "
            f"{len(method.optimizer.variables)} optimizer variables. Call the model on "
            "a batch, then optimizer.build(method.trainable_variables)."
        )
    method.steps_per_execution = run.steps_per_execution
    method.jit_compile = run.jit_compile


def _require_end(end: int, steps: int, stopped: bool) -> None:
    if end != steps and not stopped:
        raise ValueError(
            f"`batches` must yield one batch per step, and `train_step` must make one "
            f"optimizer step. Received: the training ended at step {end} of {steps}."
        )
