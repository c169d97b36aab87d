"""What one evaluation found, and what in it should make a reader doubt."""

import dataclasses
import itertools

import numpy as np

from kerobust.attacks.masking.findings import Finding
from kerobust.attacks.suite_report import AutoAttackReport
from kerobust.config import format_number
from kerobust.evaluation.metrics import mcnemar, wilson

NEAR_ZERO = 0.05  # Accuracy that an attack without practical bound should reach.


def share(flags) -> dict:
    """Returns bool [N] as {"accuracy", "low", "high", "correct", "total"}.

    `low` and `high` bound the accuracy with 95 % confidence (Wilson).
    """
    correct, total = int(np.sum(flags)), len(flags)
    low, high = wilson(correct, total)
    return {
        "accuracy": correct / total,
        "low": low,
        "high": high,
        "correct": correct,
        "total": total,
    }


@dataclasses.dataclass
class Evaluation:
    """Results of one model on one split, example by example.

    Attributes:
        threat: {"epsilon", "norm"}: the ball of the attacks.
        settings: The fields of `EvaluateConfig`.
        ids: int32 [N], names of the examples.
        labels: int32 [N].
        clean: bool [N], classified correctly without attack.
        robust: Attack name -> bool [N], correct without and under the attack.
        norms: Attack name -> {"mean", "max", "limit"} of the perturbations of the
            attacked (clean-correct) examples, in the threat's norm.
        seconds: Attack name -> wall seconds, compilation included; "curve" = the
            points of the curve that no named attack had computed already.
        curve: [{"epsilon", "robust_accuracy", "interval", "correct"}] by growing
            epsilon, under PGD; the last is the radius at which every image can become
            grey.
        pictures: {"clean", "adversarial"} float32 [P, H, W, 3], {"labels",
            "clean_predictions", "adversarial_predictions"} int32 [P], "attack", "ids".
        notes: Findings that hint at masked gradients or a weak attack, and how suites
            were adapted to the model, in sentences.
        findings: What `kerobust.attacks.diagnostics` found, worst first.
        suites: Name -> report of each suite among the attacks.
        embed_curve: As `curve`, under the attack on the representation.
    """

    threat: dict
    settings: dict
    ids: np.ndarray
    labels: np.ndarray
    clean: np.ndarray
    robust: dict[str, np.ndarray]
    norms: dict[str, dict[str, float]]
    seconds: dict[str, float]
    curve: list[dict]
    pictures: dict
    notes: list[str]
    findings: list[Finding] = dataclasses.field(default_factory=list)
    suites: dict[str, AutoAttackReport] = dataclasses.field(default_factory=dict)
    embed_curve: list[dict] = dataclasses.field(default_factory=list)

    @property
    def worst(self) -> np.ndarray:
        """Correct without attack and under every attack, bool [N]."""
        return self.clean & np.all(list(self.robust.values()), axis=0)

    def to_dict(self) -> dict:
        """Returns everything but the pictures as values that JSON can hold."""
        return {
            "threat": self.threat,
            "settings": self.settings,
            "natural": share(self.clean),
            "robust": {name: share(flags) for name, flags in self.robust.items()},
            "worst": share(self.worst),
            "norms": self.norms,
            "seconds": self.seconds,
            "curve": self.curve,
            "embed_curve": self.embed_curve,
            "notes": self.notes,
            "findings": [finding.to_dict() for finding in self.findings],
            "suites": {name: suite.to_dict() for name, suite in self.suites.items()},
            "examples": {
                "ids": self.ids.tolist(),
                "labels": self.labels.tolist(),
                "clean": _digits(self.clean),
                "robust": {name: _digits(flags) for name, flags in self.robust.items()},
                "worst": _digits(self.worst),
            },
        }


def norm_stats(norms: np.ndarray, attacked: np.ndarray, limit: float) -> dict:
    """Returns {"mean", "max", "limit"} of the perturbations of attacked examples."""
    chosen = norms[attacked] if attacked.any() else np.zeros([1])
    return {
        "mean": float(chosen.mean(dtype=np.float64)),
        "max": float(chosen.max()),
        "limit": float(limit),
    }


def curve_point(epsilon: float, flags: np.ndarray) -> dict:
    """Returns one entry of `Evaluation.curve`."""
    found = share(flags)
    return {
        "epsilon": float(epsilon),
        "robust_accuracy": found["accuracy"],
        "interval": [found["low"], found["high"]],
        "correct": found["correct"],
    }


def doubts(
    curve: list[tuple[float, np.ndarray]], robust: dict[str, np.ndarray]
) -> list[str]:
    """Returns sentences about signs of masked gradients or of a weak attack.

    Args:
        curve: (epsilon, bool [N] robust) by growing epsilon.
        robust: Attack name -> bool [N].

    References:
        Athalye et al., 2018, arXiv:1802.00420, section 3.1; Carlini et al., 2019,
        arXiv:1902.06705, section 5.
    """
    notes = []
    for (small, before), (large, after) in itertools.pairwise(curve):
        if after.sum() > before.sum():
            notes.append(
                f"The epsilon curve is not monotone: robust accuracy rises from "
                f"{before.mean():.1%} at {format_number(small)} to {after.mean():.1%} "
                f"at {format_number(large)} ({_chance(before, after)}). A larger ball "
                "holds the smaller one, so the attack missed what it had found."
            )
    largest, flags = curve[-1] if curve else (0.0, np.zeros(1))
    if flags.mean() > NEAR_ZERO:
        notes.append(
            f"At epsilon {format_number(largest)}, where every image can become plain "
            f"grey, PGD still leaves {flags.mean():.1%} of the examples. Gradients may "
            "be masked or the attack too weak: do not trust the robust accuracies."
        )
    one, many = robust.get("fgsm"), robust.get("pgd")
    if one is not None and many is not None and one.sum() < many.sum():
        notes.append(
            f"One step of FGSM does more harm than PGD ({one.mean():.1%} against "
            f"{many.mean():.1%}, {_chance(one, many)}): gradients may be masked."
        )
    return notes


def _chance(first: np.ndarray, second: np.ndarray) -> str:
    test = mcnemar(first, second)
    verdict = "within chance" if test.p_value >= 0.05 else "beyond chance"
    return f"{verdict}, McNemar p = {test.p_value:.2g}"


def _digits(flags: np.ndarray) -> list[int]:
    return flags.astype(int).tolist()
