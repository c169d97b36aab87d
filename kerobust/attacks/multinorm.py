"""Robustness to several norms at once."""

import dataclasses
import os
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from kerobust.attacks.attempts import Attempt
from kerobust.attacks.autoattack import AutoAttack
from kerobust.attacks.checks import check_count
from kerobust.attacks.msd import MSD
from kerobust.attacks.objectives import CrossEntropy
from kerobust.attacks.suite import Suite, gathered
from kerobust.attacks.suite_report import AutoAttackReport
from kerobust.attacks.union_ball import UnionBall

_MSD = "msd"


class MultiNorm:
    """Evaluation in the union of several norm balls: AutoAttack in each, and MSD.

    An example is robust if it withstands everything. An attacker who may choose the
    norm is what the union is about; the average over norms hides the weakest.

    Args:
        radii: Norm -> radius above 0, pixel units of images in [0, 1].
        version: Of AutoAttack.
        seed: Seed of all randomness.
        msd_steps: Steps of the search through the union (`MSD`).
        **options: More of `AutoAttack`: attacks, steps, queries.

    Raises:
        ValueError: For arguments out of range.

    Example:
        union = MultiNorm({"linf": 8 / 255, "l2": 0.5, "l1": 12.0})
        report = union.evaluate(model, images, labels)
        print(report.union_accuracy, report.accuracies)

    References:
        Tramer & Boneh, 2019, arXiv:1904.13000, section 2 (max and average); Maini et
        al., 2020, arXiv:1909.04068 (MSD).
    """

    def __init__(
        self,
        radii: Mapping[str, float],
        version: str = "standard",
        seed: int = 0,
        *,
        msd_steps: int = 50,
        **options,
    ):
        check_count("msd_steps", msd_steps)
        self.radii = UnionBall(radii).radii
        self.suites: dict[str, Suite] = {
            norm: AutoAttack(radius, norm, version, seed, **options)
            for norm, radius in self.radii.items()
        }
        self.suites[_MSD] = _MsdSuite(self.radii, int(msd_steps), seed)

    def evaluate(
        self,
        model: Callable[[tf.Tensor], tf.Tensor],
        images,
        labels=None,
        *,
        state_dir: str | os.PathLike | None = None,
        **options,
    ) -> "MultiNormReport":
        """Returns what the model withstands in every norm and in all of them.

        Args:
            model, images, labels: See `Suite.evaluate`; a dataset must fit into memory.
            state_dir: Where finished batches are kept, a folder per norm.
            **options: More of `Suite.evaluate`.
        """
        images, labels = gathered(images, labels)
        reports = {}
        for name, suite in self.suites.items():
            folder = None if state_dir is None else os.path.join(state_dir, name)
            if name == _MSD:  # What would it see that the others have not seen?
                options = {**options, "diagnose": False}
            reports[name] = suite.evaluate(
                model, images, labels, state_dir=folder, **options
            )
        return MultiNormReport(self.radii, reports)


class _MsdSuite(Suite):
    """One search through the union of all balls.

    Args:
        radii: Norm -> radius.
        steps: Of the search.
        seed: Seed of its randomness.
    """

    def __init__(self, radii: dict[str, float], steps: int, seed: int):
        super().__init__(1.0, UnionBall.name, seed)
        self.radii, self.steps = radii, steps
        attack = MSD(radii, steps=steps, stop_when_fooled=True)
        cost = (3.0 + len(radii)) * steps
        self._attempts = [Attempt(_MSD, attack, CrossEntropy, cost=cost)]

    def attempts(self, classes: int) -> list[Attempt]:
        return self._attempts

    def describe(self) -> dict:
        return {"radii": self.radii, "steps": self.steps, "seed": self.seed}


@dataclasses.dataclass
class MultiNormReport:
    """Results in every norm and in their union.

    Attributes:
        radii: Norm -> radius.
        reports: Norm, and "msd", -> `AutoAttackReport`.
    """

    radii: dict[str, float]
    reports: dict[str, AutoAttackReport]

    @property
    def robust(self) -> np.ndarray:
        """Right without attack and under everything, bool [N]."""
        return np.all([report.robust for report in self.reports.values()], axis=0)

    @property
    def accuracies(self) -> dict[str, float]:
        """Robust accuracy by norm, and under MSD."""
        return {name: each.robust_accuracy for name, each in self.reports.items()}

    @property
    def union_accuracy(self) -> float:
        """Share of examples that withstand everything ("max")."""
        return float(self.robust.mean())

    @property
    def average_accuracy(self) -> float:
        """Mean of the norms' robust accuracies ("average"); MSD is no norm."""
        return float(np.mean([self.accuracies[norm] for norm in self.radii]))

    def to_dict(self) -> dict:
        """Returns everything but the images as values that JSON can hold."""
        return {
            "radii": self.radii,
            "accuracies": self.accuracies,
            "union_accuracy": self.union_accuracy,
            "average_accuracy": self.average_accuracy,
            "robust": self.robust.astype(int).tolist(),
            "reports": {name: each.to_dict() for name, each in self.reports.items()},
        }
