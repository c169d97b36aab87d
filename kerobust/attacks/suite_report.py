"""What a suite found: per example, per member, and in the words of others."""

import dataclasses

import numpy as np

from kerobust.attacks.attempts import UNBROKEN, WRONG, Attempt
from kerobust.attacks.diagnostics import black_box_helps
from kerobust.attacks.masking.findings import Finding
from kerobust.config import format_number

_BLACK_BOX = ("square",)


@dataclasses.dataclass
class AutoAttackReport:
    """Results of AutoAttack, or another suite, on one model, example by example.

    Attributes:
        threat: {"epsilon", "norm"}.
        suite: Its settings; of AutoAttack {"version", "members" (name -> restarts),
            "steps", "queries", "seed", "standard" (whether this is standard
            AutoAttack)}.
        classes: Number of classes.
        labels: int32 [N].
        clean: bool [N], right without attack.
        robust: bool [N], right without attack and after every attempt.
        predictions: int32 [N], on the image that fooled the model, else on the clean.
        broken_by: int32 [N], index into `attempts`; -1: nothing, -2: wrong unattacked.
        attempts: What every attempt was: member, goal, restart.
        norms: float32 [N], size of the perturbation that fooled; else 0.
        members: Name -> {"broken" (examples), "robust_accuracy" (after it), "forwards",
            "backwards" (images that passed), "seconds" (compilation included)}.
        findings: Signs of masked gradients or of a wrong set-up, worst first.
        notes: How the suite was adapted to the model, in sentences.
        adversarial: float32 [N, H, W, C] if it was asked for: what fooled the model,
            and the clean image where nothing did.
    """

    threat: dict
    suite: dict
    classes: int
    labels: np.ndarray
    clean: np.ndarray
    robust: np.ndarray
    predictions: np.ndarray
    broken_by: np.ndarray
    attempts: list[str]
    norms: np.ndarray
    members: dict[str, dict]
    findings: list[Finding]
    notes: list[str]
    adversarial: np.ndarray | None = None

    @property
    def clean_accuracy(self) -> float:
        """Share of all examples that are right without attack."""
        return float(self.clean.mean())

    @property
    def robust_accuracy(self) -> float:
        """Share of all examples that stay right."""
        return float(self.robust.mean())

    @property
    def seconds(self) -> float:
        """Wall time of all attempts, compilation included."""
        return sum(found["seconds"] for found in self.members.values())

    def __str__(self) -> str:
        """Returns accuracies, members, findings and notes as lines of text."""
        ball = f"{self.threat['norm']}, epsilon {self.threat['epsilon']:.4g}"
        lines = [
            f"{len(self.labels)} examples, {ball}: clean {self.clean_accuracy:.2%}, "
            f"robust {self.robust_accuracy:.2%}, {self.seconds:.0f} s"
        ]
        lines += [
            f"{name}: {found['robust_accuracy']:.2%} left, {found['broken']} broken"
            for name, found in self.members.items()
        ]
        return "\n".join([*lines, *map(str, self.findings), *self.notes])

    def breakers(self) -> list[str | None]:
        """Returns per example which attempt fooled the model, None if none did."""
        return [self.attempts[by] if by >= 0 else None for by in self.broken_by]

    def to_dict(self) -> dict:
        """Returns everything but the images as values that JSON can hold."""
        return {
            "threat": self.threat,
            "suite": self.suite,
            "classes": self.classes,
            "clean_accuracy": self.clean_accuracy,
            "robust_accuracy": self.robust_accuracy,
            "members": self.members,
            "findings": [finding.to_dict() for finding in self.findings],
            "notes": self.notes,
            "seconds": self.seconds,
            "attempts": self.attempts,
            "examples": {
                "labels": self.labels.tolist(),
                "predictions": self.predictions.tolist(),
                "clean": self.clean.astype(int).tolist(),
                "robust": self.robust.astype(int).tolist(),
                "broken_by": self.broken_by.tolist(),
                "norms": [round(float(norm), 7) for norm in self.norms],
            },
        }

    def model_info(self, **known) -> dict:
        """Returns the result with the fields of RobustBench's `model_info` files.

        `autoattack_acc` is filled only if the full standard suite ran.

        Args:
            **known: What only you know: name, authors, link, venue, architecture,
                dataset, additional_data, reported, ...

        References:
            Croce et al., 2021, arXiv:2010.09670; github.com/RobustBench/robustbench.
        """
        accuracy = f"{100 * self.robust_accuracy:.2f}"
        usual = {
            "link": "",
            "name": "",
            "authors": "",
            "additional_data": None,
            "number_forward_passes": 1,
            "dataset": "",
            "venue": "",
            "architecture": "",
            "eps": format_number(float(self.threat["epsilon"])),
            "clean_acc": f"{100 * self.clean_accuracy:.2f}",
            "reported": "",
            "autoattack_acc": accuracy if self.suite.get("standard") else "",
            "unreliable": any(finding.severity == "error" for finding in self.findings),
        }
        return usual | known


def assemble(
    suite, attempts: list[Attempt], found: list[dict], findings: list[Finding]
) -> AutoAttackReport:
    """Returns the report of a `Suite` from the arrays of all its batches."""
    names = ("labels", "predictions", "broken_by", "norms")
    merged = {name: np.concatenate([part[name] for part in found]) for name in names}
    broken_by, classes = merged["broken_by"], int(found[0]["classes"])
    spent = np.sum([part["spent"] for part in found], axis=0)
    members = _members(attempts, broken_by, spent)
    kept = "adversarial" in found[0]
    return AutoAttackReport(
        threat={"epsilon": suite.epsilon, "norm": suite.norm},
        suite=suite.describe(),
        classes=classes,
        clean=broken_by != WRONG,
        robust=broken_by == UNBROKEN,
        attempts=[str(attempt) for attempt in attempts],
        members=members,
        findings=findings + _black_box(attempts, broken_by),
        notes=suite.notes(classes),
        adversarial=np.concatenate([p["adversarial"] for p in found]) if kept else None,
        **merged,
    )


def _members(attempts: list[Attempt], broken_by: np.ndarray, spent: np.ndarray) -> dict:
    found: dict[str, dict] = {}
    standing, total = int(np.sum(broken_by != WRONG)), len(broken_by)
    for index, attempt in enumerate(attempts):
        own = found.setdefault(
            attempt.name,
            {"broken": 0, "forwards": 0, "backwards": 0, "seconds": 0.0},
        )
        broken = int(np.sum(broken_by == index))
        standing -= broken
        own["broken"] += broken
        own["robust_accuracy"] = standing / total
        own["forwards"] += int(spent[index, 0])
        own["backwards"] += int(spent[index, 1])
        own["seconds"] += float(spent[index, 2])
    return found


def _black_box(attempts: list[Attempt], broken_by: np.ndarray) -> list[Finding]:
    """Returns a finding if the black-box member broke what the others had left."""
    names = np.array([attempt.name for attempt in attempts])
    black = np.isin(names, _BLACK_BOX)
    if black.all() or not black.any():
        return []
    by_black = (broken_by >= 0) & black[np.maximum(broken_by, 0)]
    robust = broken_by == UNBROKEN
    finding = black_box_helps(robust | by_black, robust)
    return [finding] if finding else []
