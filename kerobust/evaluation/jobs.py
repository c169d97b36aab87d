"""The pieces of an evaluation: one attack, at one epsilon, on one batch."""

import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from kerobust.attacks import ATTACKS, PGD, Attack, AttackConfig
from kerobust.attacks.objectives import infer
from kerobust.config import UserError
from kerobust.randomness import example_keys, fold_in

_ONE_STEP = ("fgsm",)


class Job(NamedTuple):
    """One attack at one epsilon.

    Attributes:
        name: Name of the attack.
        attack: The attack, with one search per call.
        epsilon: Radius of the ball.
        restarts: How often it is tried on an example that still withstands it.
        steps: Gradient steps of one try.
    """

    name: str
    attack: Attack
    epsilon: float
    restarts: int
    steps: int

    @property
    def cost(self) -> int:
        """Most gradient steps per example."""
        return self.restarts * self.steps

    @property
    def key(self) -> str:
        """Name under which its results are kept."""
        return f"{self.name}@{self.epsilon!r}"


class Victim:
    """The model under evaluation, with checked outputs.

    Args:
        model: Maps images float32 [B, H, W, C] to logits [B, K]; called in inference
            mode.
    """

    def __init__(self, model: Callable[[tf.Tensor], tf.Tensor]):
        self.model = model
        self._forward = tf.function(
            functools.partial(infer, model), reduce_retracing=True
        )

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        """Returns finite float32 [B, K]; raises a `UserError` if there is no such."""
        logits = self._forward(images)
        if logits.shape.rank != 2:
            raise UserError(
                "`model` must map images to logits [B, K]. "
                f"Received: an output of shape {logits.shape}."
            )
        if not tf.reduce_all(tf.math.is_finite(logits)):
            raise UserError(
                "`model` must return finite logits. Received: NaN or infinity. The "
                "model has diverged, or overflows in half precision."
            )
        return logits

    def predictions(self, images: tf.Tensor) -> np.ndarray:
        """Returns int32 [B]."""
        return tf.argmax(self.logits(images), 1, output_type=tf.int32).numpy()


def make_attacks(threat: AttackConfig, config) -> dict[str, Attack]:
    """Returns the attacks that `EvaluateConfig` names, and PGD for the curve."""
    attacks = {}
    for name in {*config.attacks, "pgd"}:
        options: dict[str, Any] = {"norm": threat.norm, "keep": "best"}
        if name not in _ONE_STEP:
            options["steps"] = config.steps
        if issubclass(ATTACKS[name], PGD):
            options["stop_when_fooled"] = True
        attacks[name] = ATTACKS[name](threat.epsilon, **options)
    return attacks


def make_jobs(
    attacks: dict[str, Attack], threat: AttackConfig, config, image_shape
) -> tuple[list[Job], list[Job]]:
    """Returns the named attacks, and PGD at the radii of the curve above 0, if any.

    Args:
        attacks: What `make_attacks` returns.
        threat: Norm and epsilon of the named attacks.
        config: `EvaluateConfig`.
        image_shape: (H, W, C).
    """

    def job(name: str, epsilon: float) -> Job:
        restarts = config.restarts if name == "pgd" else 1
        steps = 1 if name in _ONE_STEP else config.steps
        return Job(name, attacks[name], float(epsilon), restarts, steps)

    named = [job(name, threat.epsilon) for name in config.attacks]
    if not config.curve:
        return named, []
    radii = _radii(threat.epsilon, config.epsilons, attacks["pgd"].ball, image_shape)
    return named, [job("pgd", radius) for radius in radii if radius > 0]


def run_clean(victim: Victim, batch) -> dict[str, np.ndarray]:
    """Returns "ids", "labels" and "predictions" of a batch's real rows, int32 [V]."""
    valid = batch["valid"].numpy()
    return {
        "ids": batch["ids"].numpy()[valid],
        "labels": batch["labels"].numpy()[valid],
        "predictions": victim.predictions(batch["images"])[valid],
    }


def run_attack(
    victim: Victim, job: Job, batch, clean: np.ndarray, seed: int, pictures: int
) -> dict[str, np.ndarray]:
    """Attacks what a batch's real rows have right; the rest is left alone.

    Args:
        victim: The model.
        job: The attack.
        batch: What `evaluation_batches` yields.
        clean: int32 [V], predictions for the real rows without attack.
        seed: Seed of the random starts.
        pictures: How many examples to keep as pictures, fooled ones first.

    Returns:
        "predictions" int32 [V], "norms" float32 [V], "seconds" of wall time, and of the
        pictures: "rows" int [P], "clean" and "adversarial" float32 [P, H, W, C].

    Raises:
        RuntimeError: If the attack leaves its ball or the range [0, 1].
    """
    started = time.perf_counter()
    valid = batch["valid"].numpy()
    images, labels = batch["images"].numpy()[valid], batch["labels"].numpy()[valid]
    keys = fold_in(example_keys(seed, 0, batch["ids"].numpy()[valid]), job.name)
    adversarial, predictions = images.copy(), clean.copy()
    for restart in range(job.restarts):
        standing = np.flatnonzero(predictions == labels)
        if not standing.size:
            break
        adversarial[standing] = job.attack(
            images[standing],
            labels[standing],
            victim.model,
            epsilon=job.epsilon,
            keys=tf.gather(fold_in(keys, restart), standing),
        )
        predictions[standing] = victim.predictions(adversarial[standing])
    change = tf.constant(adversarial - images)
    norms = job.attack.ball.norm(change).numpy()
    seconds = time.perf_counter() - started
    _check_inside(job, norms, adversarial)
    fooled = (predictions != labels) & (norms > 0)
    rows = np.argsort(~fooled, kind="stable")[:pictures]
    return {
        "predictions": predictions,
        "norms": norms,
        "seconds": np.array(seconds),
        "rows": rows,
        "clean": images[rows],
        "adversarial": adversarial[rows],
    }


def _radii(epsilon: float, chosen, ball, image_shape) -> list[float]:
    """Returns the radii of the curve above 0, growing."""
    largest = ball.largest(math.prod(image_shape))
    if max(epsilon, *chosen, 0.0) > largest:
        raise UserError(
            "`--attack.epsilon` and `--evaluate.epsilons` must be at most "
            f"{largest:g}, the largest {ball.name} change of these images. Received: "
            f"epsilon={epsilon}, epsilons={chosen}. Pixels lie in [0, 1]: write 8/255, "
            "not 8."
        )
    default = [min(factor * epsilon, largest) for factor in (0.25, 0.5, 1.0, 2.0)]
    # Half the range of a pixel, everywhere: every image can become plain grey.
    return sorted({float(radius) for radius in (*(chosen or default), largest / 2)})


def _check_inside(job: Job, norms: np.ndarray, adversarial: np.ndarray) -> None:
    limit = job.epsilon * (1 + 1e-4) + 1e-6  # Room for float32 rounding.
    low, high = adversarial.min(), adversarial.max()
    if not (norms.max() <= limit and low >= -1e-6 and high <= 1 + 1e-6):
        raise RuntimeError(
            f"Attack `{job.name}` must stay in its ball and in [0, 1]. Received: norm "
            f"{norms.max():.6g} with epsilon={job.epsilon:.6g}, pixels from {low:.6g} "
            f"to {high:.6g}. This is a bug of the attack; its results are void."
        )
