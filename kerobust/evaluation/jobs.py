"""The pieces of an evaluation: one attack, at one epsilon, on one batch."""

import math
import time
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from kerobust.attacks import ATTACKS, AttackConfig, CrossEntropy
from kerobust.attacks.attempts import Attempt, run_attempts
from kerobust.attacks.autoattack import AutoAttack
from kerobust.attacks.balls import BALLS, NormBall, canonical_norm
from kerobust.attacks.base import Attack
from kerobust.attacks.embedding import EmbeddingDistance
from kerobust.attacks.members import MEMBERS
from kerobust.attacks.mora import mora_attempts
from kerobust.attacks.victim import Victim
from kerobust.config import UserError
from kerobust.evaluation.config import EMBED, MORA, SUITES

_ONE_STEP = ("fgsm",)


class Job(NamedTuple):
    """One attack, or suite of attacks, at one epsilon.

    Attributes:
        name: Name of the attack.
        epsilon: Radius of the ball.
        ball: `NormBall`.
        attempts: What is tried, one after the other, on what still stands.
    """

    name: str
    epsilon: float
    ball: NormBall
    attempts: list[Attempt]

    @property
    def cost(self) -> float:
        """Most forwards per example, a backward counted as two."""
        return sum(attempt.cost for attempt in self.attempts)

    @property
    def key(self) -> str:
        """Name under which its results are kept."""
        return f"{self.name}@{self.epsilon!r}"


def make_attacks(threat: AttackConfig, config) -> dict[str, Attack | AutoAttack]:
    """Returns what `EvaluateConfig` names for the threat and for curves.

    Suites and their members keep the steps and queries of AutoAttack.
    """
    attacks: dict[str, Attack | AutoAttack] = {}
    for name in {*config.attacks, *config.curve_attacks}:
        if name in SUITES or name in MEMBERS:
            version = SUITES.get(name, "custom")
            only = [name] if version == "custom" else None
            given = (threat.epsilon, threat.norm, version, config.seed)
            attacks[name] = AutoAttack(*given, attacks=only)
            continue
        options: dict[str, Any] = {"norm": threat.norm}
        if name == EMBED:
            options |= {"steps": config.steps, "random_start": True}
            attacks[name] = ATTACKS["pgd"](threat.epsilon, **options)
            continue
        options["stop_when_fooled"] = True
        if name not in _ONE_STEP:
            options["steps"] = config.steps
        kind = ATTACKS["decaying_pgd" if name == MORA else name]
        attacks[name] = kind(threat.epsilon, **options)
    return attacks


def make_jobs(
    attacks: dict[str, Attack | AutoAttack],
    threat: AttackConfig,
    config,
    image_shape,
    classes: int,
) -> tuple[list[Job], list[Job]]:
    """Returns the named attacks, and those of the curves at radii above 0, if any.

    Args:
        attacks: What `make_attacks` returns.
        threat: Norm and epsilon of the named attacks.
        config: `EvaluateConfig`.
        image_shape: (H, W, C).
        classes: Number of classes.
    """
    ball = BALLS[canonical_norm(threat.norm)]

    def job(name: str, epsilon: float) -> Job:
        attack = attacks[name]
        if isinstance(attack, AutoAttack):
            return Job(name, float(epsilon), ball, attack.attempts(classes))
        restarts = config.restarts if name == "pgd" else 1
        cost = 3 * (1 if name in _ONE_STEP else config.steps)
        if name == MORA:
            return Job(name, float(epsilon), ball, mora_attempts(attack, cost))
        objective = EmbeddingDistance if name == EMBED else CrossEntropy
        attempts = [
            Attempt(name, attack, objective, restart=restart, cost=cost)
            for restart in range(restarts)
        ]
        return Job(name, float(epsilon), ball, attempts)

    named = [job(name, threat.epsilon) for name in config.attacks]
    if not config.curve:
        return named, []
    radii = _radii(threat.epsilon, config.epsilons, ball, image_shape)
    wanted = [(name, radius) for name in config.curve_attacks for radius in radii]
    return named, [job(name, radius) for name, radius in wanted if radius > 0]


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
    """Attacks what a batch's real rows have right; the rest is left alone.

    Args:
        victim: The model.
        job: The attack.
        batch: What `evaluation_batches` yields.
        seed: Seed of the random starts.
        pictures: How many examples to keep as pictures, fooled ones first.

    Returns:
        "predictions" int32 [V], "norms" float32 [V], "broken_by" and "spent" as in
        `Outcome`, "seconds" of wall time, and of the pictures: "rows" int [P], "clean"
        and "adversarial" float32 [P, H, W, C].
    """
    started = time.perf_counter()
    valid = batch["valid"].numpy()
    images, labels, ids = (
        batch[name].numpy()[valid] for name in ("images", "labels", "ids")
    )
    outcome = run_attempts(job.attempts, victim, images, labels, ids, seed, job.epsilon)
    adversarial = outcome.adversarial
    norms = job.ball.norm(tf.constant(adversarial - images)).numpy()
    seconds = time.perf_counter() - started
    fooled = (outcome.predictions != labels) & (norms > 0)
    rows = np.argsort(~fooled, kind="stable")[:pictures]
    return {
        "predictions": outcome.predictions,
        "norms": norms,
        "broken_by": outcome.broken_by,
        "spent": outcome.spent,
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
