"""The members of AutoAttack, and the sequences of attempts that its versions are."""

from collections.abc import Callable
from typing import NamedTuple

from kerobust.attacks.attempts import Attempt
from kerobust.attacks.autopgd import AutoPGD
from kerobust.attacks.balls import canonical_norm
from kerobust.attacks.fab import FAB
from kerobust.attacks.margins import DLR, TargetedDLR, TargetedMargin
from kerobust.attacks.objectives import CrossEntropy, LogitMargin, LogitObjective
from kerobust.attacks.square import Square
from kerobust.config import check_name

LARGER = (3.0, 2.0, 1.0)  # Radii of Auto-PGD in the l1 ball.
STEPS, QUERIES, GOALS, DRAWS = 100, 5000, 9, 20


class Member(NamedTuple):
    """An attack of the suite.

    Attributes:
        make: (epsilon, norm, restart, steps, queries) -> attack.
        objective: Kind of objective that it climbs.
        goals: Most wrong classes that it tries one by one; 0: none in particular.
        cost: (steps, queries, classes) -> forwards of one attempt on one example, a
            backward counted as two.
    """

    make: Callable
    objective: type[LogitObjective]
    goals: int
    cost: Callable[[int, int, int], float]


def _auto_pgd(epsilon, norm, restart, steps, queries):
    radii = LARGER if norm == "l1" else (1.0,)
    return AutoPGD(epsilon, norm=norm, steps=steps, radii=radii, stop_when_fooled=True)


def _fab(epsilon, norm, restart, steps, queries):
    again = restart > 0  # The first try starts at the image.
    return FAB(
        epsilon, norm=norm, steps=steps, random_start=again, stop_when_fooled=True
    )


def _square(epsilon, norm, restart, steps, queries):
    return Square(epsilon, norm=norm, queries=queries, stop_when_fooled=True)


MEMBERS = {
    "apgd-ce": Member(_auto_pgd, CrossEntropy, 0, lambda s, q, k: 3 * s),
    "apgd-dlr": Member(_auto_pgd, DLR, 0, lambda s, q, k: 3 * s),
    "apgd-t": Member(_auto_pgd, TargetedDLR, GOALS, lambda s, q, k: 3 * s),
    "fab": Member(_fab, LogitMargin, 0, lambda s, q, k: 2 * k * s),
    "fab-t": Member(_fab, TargetedMargin, GOALS, lambda s, q, k: 4 * s),
    "square": Member(_square, LogitMargin, 0, lambda s, q, k: q),
}

# Version -> member -> restarts. The order is that of the original code.
VERSIONS = {
    "standard": {"apgd-ce": 1, "apgd-t": 1, "fab-t": 1, "square": 1},
    "plus": {
        **{"apgd-ce": 5, "apgd-dlr": 5, "fab": 5, "square": 1},
        **{"apgd-t": 1, "fab-t": 1},
    },
    "rand": {"apgd-ce": 1, "apgd-dlr": 1},
}


def make_attempts(
    names: dict[str, int],
    epsilon: float,
    norm: str,
    classes: int,
    *,
    steps: int = STEPS,
    queries: int = QUERIES,
) -> list[Attempt]:
    """Returns all attempts of some members, in order.

    Attempts of one member share one attack as far as they can, and with it what is
    compiled.

    Args:
        names: Member -> restarts, at least 1.
        epsilon: Radius, pixel units.
        norm: "linf", "l2" or "l1".
        classes: Number of classes, at least 2; there are at most `classes` - 1 goals.
        steps: Of the iterative members.
        queries: Of Square.
    """
    norm = canonical_norm(norm)
    attempts = []
    for name, restarts in names.items():
        check_name("attacks", name, MEMBERS)
        member = MEMBERS[name]
        goals = min(_goals(name, norm), classes - 1)
        made = [member.make(epsilon, norm, again, steps, queries) for again in (0, 1)]
        cost = member.cost(steps, queries, classes)
        attempts += [
            Attempt(name, made[restart > 0], member.objective, goal, restart, cost)
            for goal in (range(1, goals + 1) if goals else (0,))
            for restart in range(restarts)
        ]
    return attempts


def restarts_of(version: str, norm: str) -> dict[str, int]:
    """Returns member -> restarts of a version of the suite in a norm."""
    members = dict(VERSIONS[version])
    if version == "standard" and norm == "l1":
        members["apgd-ce"] = 5
    return members


def remarks(names: dict[str, int], norm: str, classes: int) -> list[str]:
    """Returns sentences on how a suite was adapted to the number of classes."""
    found = []
    for name in names:
        goals = _goals(name, norm)
        if goals > classes - 1:
            found.append(
                f"{name} tries all {classes - 1} wrong classes instead of {goals}: "
                f"there are {classes} classes."
            )
    needed = {"apgd-dlr": 3, "apgd-t": 4}
    for name in names:
        if classes < needed.get(name, 0):
            instead = "the margin of the logits" if classes == 2 else "z_1 - z_3 below"
            found.append(
                f"{name} climbs {instead}: its ratio of logits needs {needed[name]} "
                f"classes, and there are {classes}."
            )
    return found


def _goals(name: str, norm: str) -> int:
    return 5 if (name, norm) == ("apgd-t", "l1") else MEMBERS[name].goals
