"""What an encoder is asked to do, and how well it does it, with and without attack."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from kerobust.attacks import (
    PGD,
    AutoPGD,
    EmbedAttack,
    Objective,
    TokenDistance,
    TokenMatch,
)
from kerobust.attacks.attempts import Attempt

EMBED, TASK = "embed", "task"  # The two attacks of the cross-task benchmark.
PARTS = ("cls", "patches")  # Tokens that suites attack apart from each other.
_MANY = 10  # Steps from which attacks begin in larger balls.
_RADII = {"linf": (2.0, 1.5, 1.0), "l2": (2.0, 1.5, 1.0), "l1": (3.0, 2.0, 1.0)}


class Effort(NamedTuple):
    """How hard attacks try.

    Attributes:
        epsilon: Radius of the ball, pixel units.
        norm: "linf", "l2" or "l1".
        steps: Steps of the benchmark's attacks.
        suite_steps: Steps of every attack of a suite; 0 = no suites.
        whitening: Each of `PARTS` -> float32 [D, D] for the whitened attack on these
            tokens, see `kerobust.attacks.whitening_of`; None = without that attack.
    """

    epsilon: float
    norm: str = "linf"
    steps: int = 20
    suite_steps: int = 100
    whitening: Mapping[str, Any] | None = None


class Task:
    """Base: head, loss, attacks and exact counts of one task.

    What was found about an image is a record, an array of numbers that may be added:
    `metrics` of a sum of records are those of all images together.

    Attributes:
        NAME: Name of the task.
        TARGET: Entry of a batch that holds what is right, see `evaluation_batches`.
        MAIN: The metric that attacks are judged by.
        HIGHER: Whether larger values of `MAIN` are better.
        ATTACK: Class of the benchmark's attack on the output.
        OBJECTIVE: What it climbs.
        part: Tokens that the benchmark's attack on the embedding moves.
    """

    NAME: ClassVar[str]
    TARGET: ClassVar[str]
    MAIN: ClassVar[str]
    HIGHER: ClassVar[bool] = True
    ATTACK: ClassVar[type[PGD]] = PGD
    OBJECTIVE: ClassVar[type[Objective]]
    part: str = "patches"

    def predictor(self, encoder: tf.keras.Model) -> tf.keras.Model:
        """Returns the encoder with a new head."""
        raise NotImplementedError

    def loss(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns the training loss of a batch, scalar."""
        raise NotImplementedError

    def counted(self, targets: np.ndarray) -> np.ndarray:
        """Returns targets with "unknown" where metrics do not count; attacks see these.

        Args:
            targets: [B, ...], see `TARGET`.
        """
        return targets

    def known(self, targets: np.ndarray) -> bool:
        """Returns whether targets hold anything that metrics count."""
        return targets.size > 0

    def check(self, targets: np.ndarray) -> None:
        """Refuses targets of a whole data set that no head could be fitted to.

        Raises:
            UserError: If nothing is labelled, or labels are not what they should be.
        """

    def records(self, outputs, targets) -> np.ndarray:
        """Returns what a prediction got right and wrong, [B, ...].

        Raises:
            UserError: If targets or predictions are not what they should be.
        """
        raise NotImplementedError

    def metrics(self, total: np.ndarray) -> dict[str, float]:
        """Returns the metrics that a sum of records means; `MAIN` is the first."""
        raise NotImplementedError

    def main(self, totals: np.ndarray) -> np.ndarray:
        """Returns the metric `MAIN` of sums of records [R, ...], float64 [R]."""
        raise NotImplementedError

    def worst(self, tried: list[np.ndarray]) -> np.ndarray:
        """Returns per image the record of the attack that does most harm, [N, ...].

        Args:
            tried: Records [N, ...] of each attack, on the same images.
        """
        raise NotImplementedError

    def suite(self, effort: Effort) -> list[Attempt]:
        """Returns further attacks on the output, each with its own idea of harm."""
        raise NotImplementedError

    def predictions(self, outputs: tf.Tensor) -> tf.Tensor:
        """Returns what can be shown: classes, or depths."""
        return tf.argmax(outputs, axis=-1, output_type=tf.int32)

    def as_classifier(self, model, images, targets) -> tuple | None:
        """Returns what `diagnose` takes in place of a model, None if nothing does.

        Args:
            model: What the attacks of this task are made on.
            images: float32 [B, H, W, C].
            targets: What is right, see `TARGET`.

        Returns:
            A classifier, images for it, and labels int.
        """
        return None

    def attempts(self, effort: Effort) -> dict[str, Attempt]:
        """Returns the attacks on this task by name, the two of the benchmark first."""
        found = [self.embed(effort), self.attack(effort)]
        if effort.suite_steps:
            found += self.suite(effort)
        return {attempt.name: attempt for attempt in found}

    def embed(self, effort: Effort) -> Attempt:
        """Returns the benchmark's attack on the tokens that the head reads most."""
        attack = EmbedAttack(effort.epsilon, norm=effort.norm, steps=effort.steps)
        return Attempt(EMBED, attack, _on_tokens(self.part), cost=3 * effort.steps)

    def attack(self, effort: Effort) -> Attempt:
        """Returns the benchmark's attack on the output of this task."""
        attack = self.ATTACK(
            effort.epsilon, norm=effort.norm, steps=effort.steps, random_start=True
        )
        return Attempt(TASK, attack, self.OBJECTIVE, cost=3 * effort.steps)


def embed_suite(effort: Effort) -> dict[str, Attempt]:
    """Returns attacks on the tokens of any encoder by name, blind to task and head.

    Class token and patches are attacked apart: together the one class token would
    weigh as much as one patch. `TokenMatch` needs tokens of other images as targets.
    """
    found = {}
    for part in PARTS:
        kinds = {way: _on_tokens(part, distance=way) for way in ("mse", "cosine")}
        if effort.whitening is not None:
            matrix = effort.whitening[part]
            kinds["whitened"] = _on_tokens(part, distance="whitened", whitening=matrix)
        kinds["other"] = _on_tokens(part, TokenMatch)
        for way, kind in kinds.items():
            name = f"{EMBED}_{part}_{way}"
            found[name] = climbing(name, kind, effort)
    return found


def climbing(name: str, objective, effort: Effort) -> Attempt:
    """Returns an attempt of Auto-PGD in balls that shrink to the one that counts."""
    radii = _RADII[effort.norm] if effort.suite_steps >= _MANY else (1.0,)
    attack = AutoPGD(
        effort.epsilon, norm=effort.norm, steps=effort.suite_steps, radii=radii
    )
    return Attempt(name, attack, objective, cost=3 * effort.suite_steps)


def _on_tokens(part: str, kind=TokenDistance, **options):
    """Returns the maker of the objective on a model's tokens."""

    def make(model):
        return kind(model.encoder, part=part, **options)

    return make
