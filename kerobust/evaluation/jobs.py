"""The pieces of an evaluation: one attack, at one epsilon, on one batch."""

import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from kerobust.attacks import ATTACKS, Attack, AttackConfig
from kerobust.attacks.objectives import infer
from kerobust.config import UserError
from kerobust.randomness import example_keys, fold_in

_ONE_STEP = ("fgsm",)


class Job(NamedTuple):
    """One attack at one epsilon; `cost` counts its gradient steps per example."""

    name: str
    attack: Attack
    epsilon: float
    cost: int

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
        self._forward = tf.function(functools.partial(infer, model))

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


def make_jobs(threat: AttackConfig, config, image_shape) -> tuple[list[Job], list[Job]]:
    """Returns the named attacks, and PGD at the radii of the curve above 0, if any.

    Args:
        threat: Norm and epsilon of the named attacks.
        config: `EvaluateConfig`.
        image_shape: (H, W, C).
    """
    names = {*config.attacks, "pgd"}  # PGD once for both, so that it is traced once.
    attacks = {name: _make_attack(name, threat, config) for name in names}
    costs = {name: 1 if name in _ONE_STEP else config.steps for name in names}
    costs["pgd"] *= config.restarts
    named = [
        Job(name, attacks[name], float(threat.epsilon), costs[name])
        for name in config.attacks
    ]
    if not config.curve:
        return named, []
    radii = _radii(threat.epsilon, config.epsilons, attacks["pgd"].ball, image_shape)
    return named, [
        Job("pgd", attacks["pgd"], radius, costs["pgd"])
        for radius in radii
        if radius > 0
    ]


def run_clean(victim: Victim, batch) -> dict[str, np.ndarray]:
    """Returns "ids", "labels" and "predictions" of a batch's real rows, int32 [V]."""
    valid = batch["valid"].numpy()
    return {
        "ids": batch["ids"].numpy()[valid],
        "labels": batch["labels"].numpy()[valid],
        "predictions": victim.predictions(batch["images"])[valid],
    }


def run_attack(
    victim: Victim, job: Job, batch, seed: int, pictures: int
) -> dict[str, np.ndarray]:
    """Attacks a batch; padded rows are dropped from what it returns.

    Args:
        victim: The model.
        job: The attack.
        batch: What `evaluation_batches` yields.
        seed: Seed of the random starts.
        pictures: How many examples to keep as pictures, fooled ones first.

    Returns:
        "predictions" int32 [V], "norms" float32 [V], "seconds" of wall time, and of the
        pictures: "rows" int [P], "clean" and "adversarial" float32 [P, H, W, C].

    Raises:
        RuntimeError: If the attack leaves its ball or the range [0, 1].
    """
    started = time.perf_counter()
    images, labels, valid = (
        batch[key].numpy() for key in ("images", "labels", "valid")
    )
    keys = fold_in(example_keys(seed, 0, batch["ids"]), job.name)
    adversarial = job.attack(
        batch["images"], labels, victim.model, epsilon=job.epsilon, keys=keys
    )
    norms = job.attack.ball.norm(adversarial - images).numpy()
    predictions = victim.predictions(adversarial)
    adversarial = adversarial.numpy()
    seconds = time.perf_counter() - started
    _check_inside(job, norms, adversarial)
    fooled = (predictions != labels) & (norms > 0)
    rows = np.argsort(~fooled[valid], kind="stable")[:pictures]
    return {
        "predictions": predictions[valid],
        "norms": norms[valid],
        "seconds": np.array(seconds),
        "rows": rows,
        "clean": images[valid][rows],
        "adversarial": adversarial[valid][rows],
    }


def _make_attack(name: str, threat: AttackConfig, config) -> Attack:
    """Returns the evaluation form of an attack: it spares misclassified examples."""
    options: dict[str, Any] = {
        "norm": threat.norm,
        "keep": "best",
        "skip_misclassified": True,
    }
    if name not in _ONE_STEP:
        options["steps"] = config.steps
    if name == "pgd":
        options["restarts"] = config.restarts
    return ATTACKS[name](threat.epsilon, **options)


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
