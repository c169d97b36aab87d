"""Writes the sections of docs/results.md from the run folders of `make experiments`."""

import numpy as np
from tabulate import tabulate

from benchmarks._pages import ROOT, replace_section
from benchmarks.experiments.pictures import draw
from benchmarks.experiments.running import spent
from benchmarks.experiments.tables import MAIN, Table
from kerobust.evaluation.metrics import mcnemar, paired_bootstrap, wilson


def flags(result: dict, kind: str) -> np.ndarray:
    """Returns bool [N]: which test images are right, `clean` or in the `worst` case."""
    return np.asarray(result["examples"][kind], bool)


def write(table: Table, seeds: range, machine: str, extra: list[str]) -> None:
    """Rewrites the section of one table.

    Args:
        table: The table.
        seeds: Which seeds it shows.
        machine: Description of the machine.
        extra: Flags that were added to every run.
    """
    found = [table.results(seed) for seed in seeds]
    arms = list(found[0])
    parts = [
        _setting(table, found, f"{machine}; {spent(table.workdirs(seeds))}", extra),
        "## Accuracy" + (", mean over seeds" if len(found) > 1 else ", one seed"),
        _table(_mean_row(arm, found) for arm in arms),
        table.beside,
        "## Every seed",
        "Natural / worst case in %, with 95 % Wilson intervals of the worst case.",
        _every_seed(arms, found),
        f"## {MAIN} against each other arm",
        "Pairs are (seed, test image), all seeds together; the interval resamples "
        "pairs, so it does not cover the choice of seeds: read it beside the table "
        "above.",
        _table(_paired_row(arm, found) for arm in arms if arm != MAIN),
    ]
    if table.probe_labels:
        parts.append(f"## {table.probe_labels}-label linear probe, natural accuracy")
        parts.append(_probe_text([table.probes(seed) for seed in seeds]))
    parts += ["## Losses and reconstructions", draw(table)]
    replace_section(ROOT / "docs" / "results.md", table.title, "\n\n".join(parts))


def _setting(table: Table, found: list[dict], machine: str, extra: list[str]) -> str:
    result = found[0][MAIN]
    threat, attacks = result["threat"], ", ".join(result["robust"])
    command = " ".join(["python -m benchmarks.experiments", table.name, *extra])
    varied = "weights, data order"
    varied += " and the choice of labels" if table.labels_follow_seed else ""
    return (
        f"Command: `{command}`. Machine: {machine}. Seeds: {len(found)} ({varied}). "
        f"{result['natural']['total']} test images, {threat['norm']}, epsilon "
        f"{threat['epsilon']:.4g}; worst case per image over {attacks} "
        f"({result['settings']['steps']} steps, {result['settings']['restarts']} "
        f"restarts of pgd). Settings: {table.flagfile}, chosen on the validation split "
        "(docs/tuning.md). No run is left out."
    )


def _table(rows) -> str:
    return tabulate(
        list(rows), headers="keys", tablefmt="github", disable_numparse=True
    )


def _mean_row(arm: str, seeds: list[dict]) -> dict:
    row = {"arm": arm}
    for kind, title in (("clean", "natural %"), ("worst", "worst case %")):
        values = [100 * flags(seed[arm], kind).mean() for seed in seeds]
        row[title] = f"{np.mean(values):.1f}"
        if len(values) > 1:
            row[title] += f" ± {np.std(values, ddof=1):.1f}"
    return row


def _every_seed(arms: list[str], found: list[dict]) -> str:
    def cell(result):
        natural = 100 * flags(result, "clean").mean()
        worst = flags(result, "worst")
        low, high = (100 * x for x in wilson(int(worst.sum()), worst.size))
        return f"{natural:.1f} / {100 * worst.mean():.1f} [{low:.1f}, {high:.1f}]"

    return _table(
        {"arm": arm, **{f"seed {i}": cell(seed[arm]) for i, seed in enumerate(found)}}
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
