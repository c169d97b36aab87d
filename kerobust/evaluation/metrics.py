"""Exact counts turned into intervals and comparisons."""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

_CHUNK = 1 << 22  # Elements of one block of bootstrap draws.


class McNemar(NamedTuple):
    """Two classifiers on the same examples.

    Attributes:
        only_first: Examples that only the first classifier gets right.
        only_second: Examples that only the second classifier gets right.
        p_value: Probability of a split at least this uneven if both were equally good.
    """

    only_first: int
    only_second: int
    p_value: float


def wilson(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the Wilson score interval (low, high) of a proportion.

    Args:
        successes: Number of successes, 0 to `total`.
        total: Number of trials, at least 1.
        confidence: Coverage in (0, 1).

    Raises:
        ValueError: If an argument is out of range.

    References:
        Wilson, 1927, "Probable inference, the law of succession, and statistical
        inference".
    """
    if not 0 <= successes <= total or total < 1:
        raise ValueError(
            "`successes` must lie in [0, total] and `total` must be at least 1. "
            f"Received: successes={successes}, total={total}."
        )
    if not 0 < confidence < 1:
        raise ValueError(
            f"`confidence` must lie in (0, 1). Received: confidence={confidence}."
        )
    successes, total = int(successes), int(total)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    scale = 1 + z * z / total
    # The exact bounds of the extreme counts are 0 and 1; rounding may miss them.
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == total else (centre + spread) / scale
    return low, high


def mcnemar(first_correct, second_correct) -> McNemar:
    """Returns the exact two-sided McNemar test of two classifiers.

    Args:
        first_correct: bool [N].
        second_correct: bool [N], same examples in the same order.

    Raises:
        ValueError: If the shapes differ.

    References:
        McNemar, 1947; the exact form is a binomial test of the discordant pairs at 1/2.
    """
    first, second = _paired(first_correct, second_correct, bool)
    only_first = int(np.sum(first & ~second))
    only_second = int(np.sum(~first & second))
    total = only_first + only_second
    # Exact integers throughout: 2**total overflows a float from 1,024 pairs on.
    tail = ways = 1
    for count in range(min(only_first, only_second)):
        ways = ways * (total - count) // (count + 1)
        tail += ways
    return McNemar(only_first, only_second, min(1.0, 2 * tail / 2**total))


def paired_bootstrap(
    first, second, draws: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Returns (mean difference, low, high): the 95 % percentile interval of a mean.

    Examples are drawn with replacement; both values of an example stay together.

    Args:
        first: float or bool [N], one value per example.
        second: float or bool [N]; the difference is first - second.
        draws: Number of resamples, at least 1.
        seed: Seed of the resampling.

    Raises:
        ValueError: If the shapes differ, there is no example or `draws` is below 1.

    References:
        Efron & Tibshirani, 1993, "An introduction to the bootstrap", section 13.3.
    """
    first, second = _paired(first, second, np.float64)
    if not first.size or draws < 1:
        raise ValueError(
            "`first` must hold an example and `draws` must be at least 1. "
            f"Received: examples={first.size}, draws={draws}."
        )
    difference = first - second
    generator = np.random.default_rng(seed)
    block = max(1, _CHUNK // difference.size)
    means = [
        difference[
            generator.integers(difference.size, size=(size, difference.size))
        ].mean(axis=1)
        for size in _blocks(draws, block)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


def _blocks(total: int, block: int) -> list[int]:
    """Returns sizes of at most `block` that add up to `total`."""
    return [min(block, total - start) for start in range(0, total, block)]


def _paired(first, second, kind):
    first, second = np.asarray(first, kind), np.asarray(second, kind)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(
            "`first` and `second` must be vectors of one length. "
            f"Received: shapes {first.shape} and {second.shape}."
        )
    return first, second
