"""Cells of the tables: accuracies and what surrounds them."""

import numpy as np

from kerobust.evaluation.metrics import paired_bootstrap, wilson


def flags(result: dict, kind: str) -> np.ndarray:
    """Returns bool [N]: which test images are right under `kind`.

    Args:
        result: A results.json of an evaluation.
        kind: "clean", "worst" or the name of an attack.
    """
    examples = result["examples"]
    return np.asarray(examples["robust"].get(kind, examples.get(kind)), bool)


def accuracy(seeds: list[np.ndarray]) -> str:
    """Returns accuracy in %: of one seed with its interval, of several with deviation.

    Args:
        seeds: bool [N] of every seed.
    """
    if len(seeds) == 1:
        low, high = (100 * x for x in wilson(int(seeds[0].sum()), seeds[0].size))
        return f"{100 * seeds[0].mean():.1f} [{low:.1f}, {high:.1f}]"
    return spread([100 * each.mean() for each in seeds])


def mean(seeds: list[np.ndarray]) -> str:
    """Returns a mean in %: of one seed with its interval, of several with deviation.

    Args:
        seeds: float [N] of every seed, a share of each image.
    """
    if len(seeds) == 1:
        bounds = paired_bootstrap(seeds[0], np.zeros_like(seeds[0]))
        value, low, high = (100 * x for x in bounds)
        return f"{value:.1f} [{low:.1f}, {high:.1f}]"
    return spread([100 * each.mean() for each in seeds])


def spread(values: list[float]) -> str:
    """Returns mean and standard deviation."""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"
