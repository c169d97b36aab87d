"""MORA: the members of an ensemble attacked in five mixtures, one after the other."""

import functools

from kerobust.attacks.attempts import Attempt
from kerobust.attacks.balls import canonical_norm
from kerobust.attacks.base import Attack
from kerobust.attacks.checks import check_count, check_radius
from kerobust.attacks.gradient import DecayingPGD
from kerobust.attacks.reweighted import ReweightedEnsemble, check_ensemble
from kerobust.attacks.suite import Suite

BALANCES = (0.5, 0.0, 0.25, 0.75, 1.0)  # In the order of the original.
# The same objects always: an attack compiles once for each.
_KINDS = {
    balance: functools.partial(ReweightedEnsemble, balance=balance)
    for balance in BALANCES
}


class Mora(Suite):
    """The attack on ensembles that masked gradients and votes do not stop.

    `evaluate` says what a `kerobust.models.Ensemble` withstands, see `Suite`. Five
    searches with `ReweightedEnsemble`, one for each of `BALANCES`, on what still
    stands. Success is that of the ensemble's own answer.

    Args:
        epsilon: Radius of the ball, pixel units of images in [0, 1].
        norm: "linf", "l2" or "l1".
        seed: Seed of all randomness.
        steps: Gradient steps of each search.

    Example:
        report = Mora(8 / 255).evaluate(ensemble, images, labels)
        print(report.robust_accuracy, report.members["mora-0.5"])

    References:
        Yu, Gao & Xu, 2022, arXiv:2211.08008 (MORA).

    Differences:
        See `ReweightedEnsemble`. The targeted search that the original adds for some
        of its tables is left out.
    """

    def __init__(
        self, epsilon: float, norm: str = "linf", seed: int = 0, *, steps: int = 100
    ):
        norm = canonical_norm(norm)
        check_radius("epsilon", epsilon, 1.0 if norm == "linf" else None, norm)
        check_count("steps", steps)
        super().__init__(epsilon, norm, seed)
        self.steps = int(steps)
        attack = DecayingPGD(epsilon, norm=norm, steps=steps, stop_when_fooled=True)
        self._attempts = mora_attempts(attack, 3 * self.steps)

    def attempts(self, classes: int) -> list[Attempt]:
        return self._attempts

    def check_model(self, model) -> None:
        check_ensemble("model", model)

    def describe(self) -> dict:
        return {"version": "mora", "steps": self.steps, "seed": self.seed}


def mora_attempts(attack: Attack, cost: float = 1.0) -> list[Attempt]:
    """Returns one attempt for each of `BALANCES`.

    Args:
        attack: What searches: `DecayingPGD`, as in the original. The objective's values
            may fall while the ensemble comes to do worse, since gaps are divided out,
            so that `AutoPGD` halves its steps too early: on three networks for the
            digits, 20 steps, ten ensembles and radii, up to 1.5 % of the images more
            withstood it, and none fewer; up to 2.5 % more withstood `PGD`.
        cost: Forwards of one example in one attempt, a backward counted as two.
    """
    return [
        Attempt(f"mora-{balance:g}", attack, kind, cost=cost)
        for balance, kind in _KINDS.items()
    ]
