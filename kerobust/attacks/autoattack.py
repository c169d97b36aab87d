"""AutoAttack: an ensemble without settings, on everything the model has right."""

from collections.abc import Iterable

from kerobust.attacks.attempts import Attempt
from kerobust.attacks.balls import canonical_norm
from kerobust.attacks.checks import check_count, check_radius
from kerobust.attacks.members import (
    DRAWS,
    MEMBERS,
    QUERIES,
    STEPS,
    VERSIONS,
    make_attempts,
    remarks,
    restarts_of,
)
from kerobust.attacks.suite import Suite
from kerobust.config import check_name


class AutoAttack(Suite):
    """The evaluation with Auto-PGD, FAB and Square that robust accuracies are told by.

    `evaluate` says what a model withstands, see `Suite`.

    Args:
        epsilon: Radius of the ball, pixel units of images in [0, 1].
        norm: "linf", "l2" or "l1".
        version: "standard" (Auto-PGD on cross-entropy, targeted Auto-PGD, targeted FAB,
            Square); "plus" (more restarts, untargeted FAB, Auto-PGD on DLR); "rand" for
            random models (expectation over 20 forwards); "custom": `attacks`.
        seed: Seed of all randomness.
        attacks: For "custom": names out of `MEMBERS` in order, or name -> restarts.
        steps: Gradient steps of Auto-PGD and FAB.
        queries: Queries of Square.

    Example:
        report = AutoAttack(8 / 255).evaluate(model, images, labels)
        print(report.robust_accuracy, report.findings)

    References:
        Croce & Hein, 2020, arXiv:2003.01690; l1: Croce & Hein, 2021, arXiv:2103.01208.

    Differences:
        Targets are ranked among the classes beside the label; any number of classes
        from 2 on works (`AutoAttackReport.notes` says what was adapted). An example
        leaves a search as soon as it is fooled. "plus" in l1 uses the larger radii too.
        With "rand" success is decided by the mean of 20 logits, not by the last.
    """

    def __init__(
        self,
        epsilon: float,
        norm: str = "linf",
        version: str = "standard",
        seed: int = 0,
        *,
        attacks: Iterable[str] | None = None,
        steps: int = STEPS,
        queries: int = QUERIES,
    ):
        norm = canonical_norm(norm)
        check_radius("epsilon", epsilon, 1.0 if norm == "linf" else None, norm)
        check_name("version", version, (*VERSIONS, "custom"))
        if (version == "custom") != (attacks is not None):
            raise ValueError(
                '`attacks` must be given with version="custom", and only then. '
                f"Received: version={version}, attacks={attacks}."
            )
        check_count("steps", steps)
        check_count("queries", queries)
        super().__init__(epsilon, norm, seed, DRAWS if version == "rand" else 1)
        self.version = version
        self.steps, self.queries = int(steps), int(queries)
        if attacks is None:
            self.members = restarts_of(version, self.norm)
        else:
            given = attacks if isinstance(attacks, dict) else dict.fromkeys(attacks, 1)
            self.members = {name: int(restarts) for name, restarts in given.items()}
        for name, restarts in self.members.items():
            check_name("attacks", name, MEMBERS)
            check_count("attacks", restarts)
        self._attempts: dict[int, list[Attempt]] = {}

    @property
    def is_standard(self) -> bool:
        """Whether the numbers may be called those of standard AutoAttack."""
        usual = (self.steps, self.queries) == (STEPS, QUERIES)
        return self.version == "standard" and usual

    def attempts(self, classes: int) -> list[Attempt]:
        if classes not in self._attempts:
            self._attempts[classes] = make_attempts(
                self.members,
                self.epsilon,
                self.norm,
                classes,
                steps=self.steps,
                queries=self.queries,
            )
        return self._attempts[classes]

    def describe(self) -> dict:
        own = ("version", "members", "steps", "queries", "seed")
        return {name: getattr(self, name) for name in own} | {
            "standard": self.is_standard
        }

    def notes(self, classes: int) -> list[str]:
        return remarks(self.members, self.norm, classes)
