"""Asks one victim about one batch: outputs, gradients, short attacks."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from kerobust.attacks.balls import BALLS, per_example
from kerobust.attacks.candidates import Candidate
from kerobust.attacks.gradient import PGD
from kerobust.attacks.margins import DLR
from kerobust.attacks.masking.vanishing import MAGNIFIED
from kerobust.attacks.objectives import CrossEntropy, LogitMargin, Objective
from kerobust.attacks.square import Square
from kerobust.attacks.standing import climb
from kerobust.attacks.stochastic import Averaged
from kerobust.randomness import example_keys, fold_in

FEW, MANY = 10, 40  # Steps of gradient ascent.
QUERIES = 200
DRAWS = 10  # Forwards that decide about a random victim.
ALONE = 4  # Examples that are also shown alone.
_FAR = 1e3  # In units of the largest pixel of a gradient.
_HALVES = (tf.float16, tf.bfloat16)


class Gradients(NamedTuple):
    """Input gradients of one batch, and what the forward saw.

    Attributes:
        cross_entropy, dlr: float32 [B, H, W, C], or None without a path.
        magnified: float32 [B, H, W, C] of `MAGNIFIED` times the cross-entropy, or None.
        logits: float32 [B, K].
        losses: float32 [B], the cross-entropy.
    """

    cross_entropy: np.ndarray | None
    dlr: np.ndarray | None
    magnified: np.ndarray | None
    logits: np.ndarray
    losses: np.ndarray


class Ascent(NamedTuple):
    """Where gradient ascent ended.

    Attributes:
        images: float32 [B, H, W, C].
        losses: float32 [B].
        robust: bool [B].
    """

    images: tf.Tensor
    losses: np.ndarray
    robust: np.ndarray


class Probe:
    """One victim and one batch of examples; each method asks one question.

    Args:
        model: Callable, images float32 [B, H, W, C] -> logits [B, K].
        images: float32 [B, H, W, C].
        labels: int32 [B].
        norm: Key of `BALLS`.
        seed: Seed of all noise.
    """

    def __init__(self, model: Callable, images, labels, norm: str, seed: int):
        self.model = model
        self.images = images
        self.labels = labels
        self.norm = norm
        self.ball = BALLS[norm]
        self.largest = self.ball.largest(images.shape[1:].num_elements())
        self.keys = example_keys(seed, 0, tf.range(len(images)))
        self._single = CrossEntropy(model)
        self._loss: Objective = _ChosenLoss(model)
        self._margin: Objective = LogitMargin(model)
        self._ascent = _Ascent(norm=norm, seed=seed)
        self._square = Square(
            norm=norm, queries=QUERIES, stop_when_fooled=True, seed=seed
        )

    def average(self) -> None:
        """Lets many forwards decide from now on, for victims that are random."""
        self._loss = Averaged(self._loss, DRAWS)
        self._margin = Averaged(self._margin, DRAWS)

    def logits(self, images) -> np.ndarray:
        """Returns the logits float32 [B, K] of one forward."""
        return self._single.outputs(images).numpy()

    def company(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns logits [A, K] of the first examples among others, and alone."""
        first = self.images[:ALONE]
        negatives = 1.0 - self.images  # Other mates, even for a single example.
        together = self.logits(tf.concat([self.images, negatives], axis=0))
        apart = [self.logits(each[tf.newaxis]) for each in first]
        return together[: len(first)], np.concatenate(apart)

    def has_batch_norm(self) -> bool:
        """Returns whether the victim is a Keras model with batch normalisation."""
        kinds = tf.keras.layers.BatchNormalization
        return any(isinstance(each, kinds) for each in self._layers())

    def in_half_precision(self, logits: np.ndarray) -> bool:
        """Returns whether the victim computes in half precision, as far as one can see.

        It does if a Keras layer says so, or if all logits [B, K] are numbers that
        float16 or bfloat16 can hold.
        """
        types = {getattr(layer, "compute_dtype", None) for layer in self._layers()}
        if types & {half.name for half in _HALVES}:
            return True
        with np.errstate(over="ignore"):  # What is too large to hold differs, too.
            rounded = [logits.astype(half.as_numpy_dtype) for half in _HALVES]
        return any((each.astype(np.float32) == logits).all() for each in rounded)

    def robust(self, images) -> np.ndarray:
        """Returns whether the labels are still predicted on images, bool [B]."""
        outputs = self._margin.outputs(images)
        fooled = self._margin.fooled(outputs, self.labels)
        return tf.math.logical_not(fooled).numpy()

    def gradients(self, images) -> Gradients:
        """Returns input gradients of one forward, in eager code."""
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(images)
            logits = self._single.outputs(images)
            losses = self._single.values(logits, self.labels)
            ratios = DLR(self.model).values(logits, self.labels)

        def gradient_of(values, factor=1.0):
            found = tape.gradient(values, images, tf.fill(tf.shape(values), factor))
            return None if found is None else found.numpy()

        return Gradients(
            gradient_of(losses),
            gradient_of(ratios),
            gradient_of(losses, MAGNIFIED),
            logits.numpy(),
            losses.numpy(),
        )

    def ascend(self, steps: int, epsilon: float, scale: float | None = 1.0) -> Ascent:
        """Returns where gradient ascent ends, from random points of the ball.

        Args:
            steps: Number of steps, at least 1.
            epsilon: Radius, pixel units.
            scale: Factor of the logits under the cross-entropy; None climbs DLR.
        """
        rows = tf.shape(self.labels)
        targets = {
            "labels": self.labels,
            "scale": tf.fill(rows, 1.0 if scale is None else scale),
            "ratio": tf.fill(rows, scale is None),
            "steps": tf.fill(rows, steps),
        }
        images, info = self._ascent(
            self.images,
            targets,
            self._loss,
            epsilon=epsilon,
            step_size=min(2.5 * epsilon / steps, epsilon),
            keys=self.keys,
            return_info=True,
        )
        return Ascent(images, info.loss.numpy(), ~info.success.numpy())

    def search(self, epsilon: float) -> np.ndarray:
        """Returns what a short black-box search leaves, bool [B].

        What it found is shown once more: of a random victim it keeps strokes of luck.
        """
        found = self._square(
            self.images,
            self.labels,
            self._margin,
            epsilon=epsilon,
            keys=self.keys,
        )
        return self.robust(found)

    def step(self, gradient: np.ndarray, epsilon: float) -> tf.Tensor:
        """Returns images moved as far along a gradient of theirs as the ball allows."""
        gradient = tf.where(tf.math.is_finite(gradient), gradient, 0.0)
        largest = tf.reduce_max(tf.abs(gradient), axis=[1, 2, 3], keepdims=True)
        # Far outside: the nearest point of an l1 ball then changes the steepest pixels.
        return self._confined(_FAR * tf.math.divide_no_nan(gradient, largest), epsilon)

    def noise(self, epsilon: float, draw: int = 0) -> tf.Tensor:
        """Returns images with one random change each from the ball, draw by draw."""
        keys = fold_in(fold_in(self.keys, "noise"), draw)
        change = self.ball.sample(keys, self.images.shape[1:], self._radii(epsilon))
        return self._confined(change, epsilon)

    def _layers(self):
        return self.model.submodules if isinstance(self.model, tf.Module) else ()

    def _confined(self, change, epsilon):
        room = self.ball.room(self.images, self._radii(epsilon))
        return self.ball.confine(self.images + change, room)

    def _radii(self, epsilon):
        return tf.fill([len(self.images)], float(epsilon))


class _ChosenLoss(CrossEntropy):
    """Cross-entropy of scaled logits, or DLR: the targets say which.

    Targets: {"labels": int32 [B], "scale": float32 [B], "ratio": bool [B]}.
    """

    def __init__(self, victim):
        super().__init__(victim)
        self._ratio = DLR(victim)

    def values(self, outputs, targets):
        scaled = outputs * targets["scale"][:, tf.newaxis]
        return tf.where(
            targets["ratio"],
            self._ratio.values(outputs, targets["labels"]),
            super().values(scaled, targets["labels"]),
        )

    def fooled(self, outputs, targets):
        return super().fooled(outputs, targets["labels"])


class _Ascent(PGD):
    """PGD whose targets say how many steps it makes, `targets["steps"]`.

    One compilation then serves all ascents on a victim.
    """

    def _search(self, images, start, targets, objective, epsilon, step_size, keys):
        steps = tf.reduce_max(targets["steps"])
        room, length = self.ball.room(images, epsilon), per_example(step_size, images)

        def step(index, given, adversarial, found):
            point = (index, adversarial, targets, objective)
            gradient, _ = self._differentiated(*point)
            return self._move(adversarial, gradient, length, room), found

        def finish(given, adversarial, found):
            return Candidate.after(adversarial, steps)

        return climb(step, finish, (), start, (), steps)
