"""The training template that every method shares."""

import time
from collections.abc import Callable, Mapping

import tensorflow as tf

from kerobust.data import Split
from kerobust.distribute import replica_count, replica_index
from kerobust.training.monitors import Monitor

Batch = Mapping[str, tf.Tensor]


class Method(tf.keras.Model):
    """A way to train: subclasses say what to perturb and which losses to add up.

    A subclass names its loss terms in `TERMS` and writes `loss_terms`; it may override
    `guide` (ask a teacher), `perturb` (run an attack), both before the tape,
    `trained_variables` and `after_update`. Everything else is written here once.

    Batches are dicts with at least `images` float32 [B, H, W, C] in [0, 1], `labels`
    int32 [B] (-1 = unlabelled), `ids` int32 [B] and `keys` int32 [B, 2] (the example's
    randomness of this epoch), and the views of `view_maker`. `guide` and `perturb` may
    add entries, `adversarial` by convention.

    Attributes:
        TERMS: Names of the loss terms; the loss is their sum.
        MEASURES: Names of further means that are logged, not minimised.
        SUPERVISED: Whether it trains on labelled images; then `from_experiment` takes
            `num_classes` too.
        PARTNERS: Whether batches have `partners`, a second batch of images.
        EXPORT: Folder of the run in which the result is kept.
        STARTS_FROM: Method of the stage `start`.
        monitors: Limits of means beyond which training is pointless.
        accumulation_steps: Parts of a batch whose gradients are computed one after the
            other. What looks at a whole batch (statistics of batch norm, chunks of a
            dependence) sees a part of it.
        view_maker: (images float32 [B, H, W, C] in [0, 1], keys int32 [B, 2]) -> dict
            of further entries of a batch, made by the input pipeline; None = none.
    """

    TERMS: tuple[str, ...] = ()
    MEASURES: tuple[str, ...] = ()
    SUPERVISED: bool = False
    PARTNERS: bool = False
    EXPORT: str = "encoder"
    STARTS_FROM: str = "dino"
    monitors: tuple[Monitor, ...] = ()
    accumulation_steps: int = 1
    view_maker: Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]] | None = None

    @classmethod
    def from_experiment(cls, experiment, image_shape, length, start=None) -> "Method":
        """Returns the method with networks for the pretraining of an experiment.

        Args:
            experiment: `ExperimentConfig`.
            image_shape: (height, width, channels).
            length: `Length` of the training.
            start: Loaded bundle to start from; None = new weights.
        """
        raise NotImplementedError(f"{cls.__name__} pretrains nothing.")

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        names = ("loss", *self.TERMS, *self.MEASURES, "attack_seconds")
        self._means = {name: tf.keras.metrics.Mean(name=name) for name in names}

    @property
    def metrics(self):
        return list(self._means.values())

    @property
    def exports(self) -> dict[str, tf.keras.Model]:
        """Named models that are worth keeping after training."""
        raise NotImplementedError(f"{type(self).__name__} names no exports.")

    def trained_variables(self) -> list[tf.Variable]:
        """Returns the variables that `train_step` updates."""
        return self.trainable_variables

    def rate_groups(self) -> list[list[tf.Variable]]:
        """Returns the trained variables from input to output, for layer-wise rates."""
        return [self.trained_variables()]

    def late_variables(self) -> list[tuple[float, list[tf.Variable]]]:
        """Returns (epoch, variables that the optimizer leaves alone before it)."""
        return []

    def study(self, split: Split) -> None:
        """Looks at the training images as they are, before the first step.

        A continued pretraining looks again, at the same.
        """

    def guide(self, batch: Batch) -> Batch:
        """Returns the batch and what a teacher says of it; runs before `perturb`."""
        return batch

    def perturb(self, batch: Batch) -> Batch:
        """Returns the batch and what an attack adds to it; runs before the tape."""
        return batch

    def loss_terms(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        """Returns a float32 scalar per name in `TERMS`, means over the local batch."""
        raise NotImplementedError(f"{type(self).__name__} names no loss terms.")

    def after_update(self, batch: Batch) -> None:
        """Runs after every update (moving averages, centres)."""

    def measure(self, name: str, value: tf.Tensor) -> None:
        """Adds `value` (scalar, or [B] for a mean over examples) to mean `name`."""
        self._means[name].update_state(value)

    def train_step(self, data: Batch) -> dict[str, tf.Tensor]:
        """Makes one update and returns the means since the last reset."""
        variables = self.trained_variables()
        gradients: list[tf.Tensor] = []
        seen = []
        for part in _parts(data, self.accumulation_steps):
            gradients, batch = self._accumulate(gradients, part, variables)
            seen.append(batch)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        self.after_update(_joined(seen))
        return {name: mean.result() for name, mean in self._means.items()}

    def _accumulate(self, gradients, part: Batch, variables):
        """Returns the gradients with those of a part added, and what became of it.

        A part begins when the gradients of those before it are there: its activations
        can have their memory.
        """
        before = [each for each in gradients if each is not None]
        with tf.control_dependencies(before):
            part = tf.nest.map_structure(tf.identity, dict(part))
            batch = self._prepared(part)
            with tf.GradientTape() as tape:
                terms = self.loss_terms(batch, training=True)
                loss = tf.add_n([terms[name] for name in self.TERMS])
                scaled = loss / (replica_count() * self.accumulation_steps)
            pairs = self.optimizer.compute_gradients(scaled, variables, tape)
        self.measure("loss", loss)
        for name in self.TERMS:
            self.measure(name, terms[name])
        own = [gradient for gradient, _ in pairs]
        if gradients:
            both = zip(gradients, own, strict=True)
            own = [None if a is None else a + b for a, b in both]
        return own, batch

    def _prepared(self, data: Batch) -> Batch:
        """Returns a batch after `guide` and `perturb`; the first replica times it."""
        batch = self.guide(data)
        # XLA knows no clock, and clocks would make the replicas wait for each other.
        if self.jit_compile or replica_index():
            return self.perturb(batch)
        batch, seconds = _timed(self.perturb, batch)
        # The mean over parts is to be that of whole steps.
        self.measure("attack_seconds", self.accumulation_steps * seconds)
        return batch


def _parts(batch: Batch, count: int) -> list[Batch]:
    """Returns the batch in `count` parts of consecutive rows."""
    if count == 1:
        return [batch]
    split = {name: tf.split(value, count) for name, value in batch.items()}
    return [{name: split[name][i] for name in split} for i in range(count)]


def _joined(parts: list[Batch]) -> Batch:
    """Returns the batch whose parts of consecutive rows these are."""
    if len(parts) == 1:
        return parts[0]
    return tf.nest.map_structure(lambda *rows: tf.concat(rows, axis=0), *parts)


def linear_ramp(step: tf.Tensor, steps: int) -> tf.Tensor:
    """Returns how far a ramp of `steps` steps has come at `step`: (0, 1], float32."""
    if steps <= 0:
        return tf.constant(1.0)
    return tf.minimum((tf.cast(step, tf.float32) + 1.0) / float(steps), 1.0)


def _timed(work, batch: Batch):
    """Returns (work(batch), seconds it took), also inside a compiled step."""
    started = _clock()
    with tf.control_dependencies([started]):
        batch = {name: tf.identity(value) for name, value in batch.items()}
    result = work(batch)
    added = [value for name, value in result.items() if name not in batch]
    if not added:
        return result, tf.constant(0.0)
    with tf.control_dependencies(tf.nest.flatten(added)):
        return result, tf.cast(_clock() - started, tf.float32)


def _clock() -> tf.Tensor:
    """Returns seconds, float64; `tf.timestamp` refuses to run deterministically."""
    return tf.numpy_function(time.perf_counter, [], tf.float64)
