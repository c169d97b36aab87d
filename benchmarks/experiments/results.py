"""Writes docs/results.md from the run folders of `make experiments`."""

import datetime
import pathlib

import numpy as np
from tabulate import tabulate

from kerobust.evaluation.metrics import mcnemar, paired_bootstrap

MAIN = "mimir"


def flags(result: dict, kind: str) -> np.ndarray:
    """Returns bool [N]: which test images are right, `clean` or in the `worst` case."""
    return np.asarray(result["examples"][kind], bool)


def write(path: pathlib.Path, seeds: list[dict], probes: list[dict], machine: str):
    """Writes the page.

    Args:
        path: Where to.
        seeds: Per seed: arm -> results.json.
        probes: Per seed: encoder -> bool [N], what a 50-label linear probe gets right.
        machine: Description of the machine.
    """
    arms = list(seeds[0])
    settings = seeds[0][arms[0]]
    parts = [
        "# Results on the embedded digits",
        _setting(settings, machine, len(seeds)),
        "## Accuracy, mean over seeds",
        _table(_mean_row(arm, seeds) for arm in arms),
        "## Every seed",
        "Natural / worst case in %.",
        _every_seed(arms, seeds),
        f"## {MAIN} against each other arm",
        "Pairs are (seed, test image), all seeds together; the interval resamples "
        "pairs, so it does not cover the choice of seeds: read it beside the table "
        "above.",
        _table(_paired_row(arm, seeds) for arm in arms if arm != MAIN),
        "## 50-label linear probe, natural accuracy",
        _probe_text(probes),
    ]
    path.write_text("\n\n".join(parts) + "\n")


def _setting(result: dict, machine: str, count: int) -> str:
    threat, found = result["threat"], result["natural"]
    return (
        f"Command: `make experiments`. Machine: {machine}. "
        f"Date: {datetime.date.today().isoformat()}. Seeds: {count} (weights, data "
        f"order and the choice of labels). {found['total']} test images, "
        f"{threat['norm']}, epsilon {threat['epsilon']:g}; worst case per image over "
        f"{', '.join(result['robust'])} ({result['settings']['steps']} steps, "
        f"{result['settings']['restarts']} restarts of pgd). Settings: "
        "configs/mimir.flags, chosen on the validation split (docs/tuning.md). No run "
        "is left out."
    )


def _table(rows) -> str:
    return tabulate(
        list(rows), headers="keys", tablefmt="github", disable_numparse=True
    )


def _mean_row(arm: str, seeds: list[dict]) -> dict:
    row = {"arm": arm}
    for kind, title in (("clean", "natural %"), ("worst", "worst case %")):
        values = [100 * flags(seed[arm], kind).mean() for seed in seeds]
        spread = np.std(values, ddof=1) if len(values) > 1 else float("nan")
        row[title] = f"{np.mean(values):.1f} ± {spread:.1f}"
    return row


def _every_seed(arms: list[str], seeds: list[dict]) -> str:
    def cell(result):
        natural, worst = (
            100 * flags(result, kind).mean() for kind in ("clean", "worst")
        )
        return f"{natural:.1f} / {worst:.1f}"

    return _table(
        {"arm": arm, **{f"seed {i}": cell(seed[arm]) for i, seed in enumerate(seeds)}}
        for arm in arms
    )


def _paired_row(arm: str, seeds: list[dict]) -> dict:
    row = {"arm": arm}
    for kind, title in (("clean", "natural"), ("worst", "worst case")):
        first = np.concatenate([flags(seed[MAIN], kind) for seed in seeds])
        second = np.concatenate([flags(seed[arm], kind) for seed in seeds])
        difference, low, high = (100 * x for x in paired_bootstrap(first, second))
        p_value = mcnemar(first, second).p_value
        row[f"{title}: difference, points"] = (
            f"{difference:+.1f} [{low:+.1f}, {high:+.1f}]"
        )
        row[f"{title}: McNemar p"] = f"{p_value:.2g}" if p_value else "< 1e-300"
    return row


def _probe_text(probes: list[dict]) -> str:
    names = list(probes[0])
    rows = [
        {
            "features": name,
            **{
                f"seed {i}": f"{100 * seed[name].mean():.1f}"
                for i, seed in enumerate(probes)
            },
        }
        for name in names
    ]
    sentences = []
    for name in names:
        if name == MAIN:
            continue
        first = np.concatenate([seed[MAIN] for seed in probes])
        second = np.concatenate([seed[name] for seed in probes])
        difference, low, high = (100 * x for x in paired_bootstrap(first, second))
        sentences.append(
            f"{MAIN} minus {name}: {difference:+.1f} points, paired 95 % bootstrap "
            f"[{low:+.1f}, {high:+.1f}]."
        )
    return _table(rows) + "\n\n" + " ".join(sentences)
