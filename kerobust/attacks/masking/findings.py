"""What a diagnosis says, and when a share of examples is more than chance."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

SEVERITIES = ("error", "warning", "info")  # Worst first.
_CHANCE = 0.05  # One-sided level of `beyond_chance`.


class Finding(NamedTuple):
    """One sign that a robust accuracy may not mean what it seems to mean.

    Attributes:
        code: Stable name in kebab-case, such as "zero-gradients".
        severity: "error": numbers would be wrong; "warning": they may be; "info": good
            to know, no number suffers.
        value: What was measured.
        threshold: What `value` was compared with, same unit.
        advice: What was seen, why numbers may be wrong and what to do.
    """

    code: str
    severity: str
    value: float
    threshold: float
    advice: str

    def to_dict(self) -> dict[str, str | float]:
        """Returns the finding as values that JSON can hold."""
        return self._asdict()

    def __str__(self):
        return f"[{self.severity}] {self.code}: {self.advice}"


class MaskingError(RuntimeError):
    """A strict diagnosis found errors or warnings.

    Args:
        findings: Those errors and warnings, worst first.
    """

    def __init__(self, findings: list[Finding]):
        super().__init__(findings)
        self.findings = findings

    def __str__(self):
        lines = "\n".join(str(finding) for finding in self.findings)
        return f"Robust accuracies of this victim cannot be trusted as it is:\n{lines}"


def worst_first(findings: Iterable[Finding | None]) -> list[Finding]:
    """Returns the findings there are, errors first, else in the order given."""
    found = [finding for finding in findings if finding is not None]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def beyond_chance(count: int, total: int, share: float) -> bool:
    """Returns whether `count` of `total` is too many for a probability of `share`.

    Too many means that independent events of that probability are so frequent in less
    than 5 % of all cases: the exact one-sided binomial test. With share 0 one event is
    enough, with share 1 no number is.

    Args:
        count: Number of events, 0 to `total`.
        total: Number of trials.
        share: Probability of the event, 0 to 1.
    """
    if count <= total * share:
        return False
    if share <= 0:
        return True
    fewer = sum(_binomial(number, total, share) for number in range(count))
    return 1 - fewer < _CHANCE


def _binomial(count: int, total: int, share: float) -> float:
    """Returns the probability of exactly `count` events."""
    # Logarithms: the powers leave the range of floats from some thousand trials on.
    ways = math.lgamma(total + 1) - math.lgamma(count + 1)
    ways -= math.lgamma(total - count + 1)
    kept = (total - count) * math.log1p(-share)
    return math.exp(ways + count * math.log(share) + kept)


def too_many(flags, share: float, least: int = 1) -> bool:
    """Returns whether more than `share` of bool [N] are True, beyond chance.

    Args:
        flags: bool [N].
        share: What is normal, 0 to 1.
        least: So many must be True in any case.
    """
    flags = np.asarray(flags, bool)
    count = int(flags.sum())
    return count >= least and beyond_chance(count, flags.size, share)


def mean(flags) -> float:
    """Returns the share of True in bool [N], 0 for none at all."""
    flags = np.asarray(flags, bool)
    return float(flags.mean()) if flags.size else 0.0
