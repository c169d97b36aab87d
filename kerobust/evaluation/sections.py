"""What a report says, as titles, sentences and tables of text.

Markdown and HTML are both made from these, so no number can differ between them.
"""

import json
import os

import numpy as np

from kerobust.config import format_number
from kerobust.evaluation.examined import examined_sections, shared_sections
from kerobust.evaluation.parts import Grid, Section, percent

# How a classifier on an encoder was trained on labels -> what that means.
PROTOCOLS = {
    "SLF": "linear head on the frozen encoder, clean images",
    "ALF": "linear head on the frozen encoder, adversarial images (TRADES)",
    "AFF": "head and encoder, adversarial images (TRADES)",
    "full": "head and encoder, clean images",
}


def sentence(comparison: dict) -> str:
    """Returns a comparison in plain words, whichever way it fell."""
    first, second = comparison["first"], comparison["second"]
    points, low, high = (100 * comparison[key] for key in ("difference", "low", "high"))
    where = "under attack (worst case)" if comparison["on"] == "worst" else "clean"
    relation = (
        "equals" if points == 0 else "exceeds" if points > 0 else "falls short of"
    )
    verdict = "may be chance" if comparison["p_value"] >= 0.05 else "is beyond chance"
    return (
        f"Accuracy {where}: {first} {relation} {second}, difference {points:+.1f} "
        f"points (95 % interval {low:+.1f} to {high:+.1f}). "
        f"{comparison['only_first']} images are right with {first} only, "
        f"{comparison['only_second']} with {second} only; the difference {verdict} "
        f"(exact McNemar p = {comparison['p_value']:.2g})."
    )


def grid(rows: list[dict]) -> Grid:
    """Returns the headers and the cells of the results table as text."""
    attacks = list(dict.fromkeys(name for item in rows for name in item["robust"]))
    named = any(item.get("protocol") for item in rows)
    headers = ["model", *["protocol"] * named, "natural %"]
    headers += [f"{name} %" for name in attacks]
    headers += ["worst case %", "seconds", "note"]
    cells = [
        [
            item["name"],
            *[item.get("protocol") or "-"] * named,
            percent(item["natural"]),
            *(percent(item["robust"].get(name)) for name in attacks),
            percent(item["worst"]),
            f"{sum(item['seconds'].values()):.1f}",
            item["note"],
        ]
        for item in rows
    ]
    return headers, cells


def sections(report: dict) -> list[Section]:
    """Returns what the report says as text and tables, once for all formats."""
    rows, threat = report["rows"], report.get("threat")
    intro = "Accuracies in % with their 95 % interval (Wilson). Worst case: correct "
    intro += "without attack and under every attack."
    if threat:
        radius = format_number(float(threat["epsilon"]))
        intro += f" Threat: {threat['norm']}, epsilon {radius}."
    intro += _protocols(rows)
    compared = [sentence(item) for item in report.get("comparisons", ())]
    parts = [
        Section("Results", [intro], *grid(rows), "bars"),
        Section("Comparisons", compared),
        Section("Members of the suites, each on what stood", [], *_suite_grid(report)),
        Section("Robust accuracy by epsilon", [], *_curve_grid(report), "curves"),
        *examined_sections(report.get("representation", {})),
        *shared_sections(report.get("diversity", {})),
        Section("Pictures", [], *_picture_grid(report), "pictures"),
        Section("Perturbation norms", [], *_norm_grid(rows)),
        Section("Seconds", [], *_seconds_grid(rows)),
        Section("Notes", list(report.get("notes", ()))),
        Section("Command", [report["command"]] if report.get("command") else []),
    ]
    for name in ("data", "environment", "settings"):
        cells = [[key, _text(value)] for key, value in report.get(name, {}).items()]
        parts.append(Section(name.capitalize(), [], ["name", "value"], cells))
    return [section for section in parts if section.paragraphs or section.cells]


def _protocols(rows: list[dict]) -> str:
    """Returns a sentence about every protocol among the rows."""
    words = [(item.get("protocol") or "").replace(",", " ").split() for item in rows]
    used = {word[0] for word in words if word}
    texts = [f"{key} = {text}" for key, text in PROTOCOLS.items() if key in used]
    if not texts:
        return ""
    return f" Protocols: {'; '.join(texts)}; then what the head reads."


def _suite_grid(report: dict) -> Grid:
    headers = ["model", "suite", "member", "broken", "accuracy after it %"]
    headers += ["forwards", "backwards", "seconds"]
    cells = [
        [
            *(name, suite, member, str(found["broken"])),
            f"{100 * found['robust_accuracy']:.1f}",
            *(f"{found[key]:,}" for key in ("forwards", "backwards")),
            f"{found['seconds']:.1f}",
        ]
        for name, suites in report.get("suites", {}).items()
        for suite, members in suites.items()
        for member, found in members.items()
    ]
    return headers, cells


def _curve_grid(report: dict) -> Grid:
    kinds = {"PGD %": "curves", "embed %": "embed_curves"}
    found = {head: report[key] for head, key in kinds.items() if report.get(key)}
    points: dict[tuple, dict] = {}  # (row name, epsilon) -> heading -> accuracy
    for head, curves in found.items():
        for name, curve in curves.items():
            for point in curve:
                cells = points.setdefault((name, float(point["epsilon"])), {})
                cells[head] = _point(point)
    rows = [
        [name, format_number(epsilon), *(cells.get(head, "-") for head in found)]
        for (name, epsilon), cells in points.items()
    ]
    return ["model", "epsilon", *found], rows


def _point(point: dict) -> str:
    low, high = point["interval"]
    return percent({"accuracy": point["robust_accuracy"], "low": low, "high": high})


def _picture_grid(report: dict) -> Grid:
    headers = ["model", "attack", "image", "label", "predicted", "under attack"]
    cells = []
    for name, found in report.get("pictures", {}).items():
        columns = ("ids", "labels", "clean_predictions", "adversarial_predictions")
        for values in zip(*(found[column] for column in columns), strict=True):
            cells.append(
                [name, found["attack"], *(str(int(value)) for value in values)]
            )
    return headers, cells


def _norm_grid(rows: list[dict]) -> Grid:
    cells = [
        [
            item["name"],
            attack,
            *(f"{found[key]:.4g}" for key in ("mean", "max", "limit")),
        ]
        for item in rows
        for attack, found in item["norms"].items()
    ]
    return ["model", "attack", "mean", "max", "epsilon"], cells


def _seconds_grid(rows: list[dict]) -> Grid:
    cells = [
        [item["name"], attack, f"{seconds:.1f}"]
        for item in rows
        for attack, seconds in item["seconds"].items()
    ]
    return ["model", "attack", "seconds"], cells


def _text(value) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=json_value)


def json_value(value):
    """Returns NumPy values and paths as JSON ones; the `default` of `json.dumps`."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"`report` must hold JSON values. Received: {type(value)}.")
