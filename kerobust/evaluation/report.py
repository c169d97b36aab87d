"""Reports: the same numbers as JSON, Markdown and one self-contained HTML page.

A report is a dict:

    title         str
    command       str, what was typed
    environment   dict, versions, devices, code state
    data          dict, name, digest, sizes
    threat        {"epsilon": float, "norm": str}
    settings      dict, effective settings, flag name -> text
    rows          [{"name", "natural": share, "robust": {attack: share}, "worst": share,
                    "norms": {attack: {"mean", "max", "limit"}},
                    "seconds": {attack: float}, "note": str, "protocol": str}], see
                    `row`
    comparisons   [{"first", "second", "on": "worst" | "clean", "only_first",
                    "only_second", "p_value", "difference", "low", "high"}], see
                    `compare`; difference = accuracy of first - second, in [-1, 1]
    suites        {row name: {suite: `AutoAttackReport.members`}}
    curves        {row name: `Evaluation.curve`}
    embed_curves  {row name: `Evaluation.embed_curve`}
    representation  {row name: what `Representation` returns}
    pictures      {row name: `Evaluation.pictures`}; the JSON file leaves all pixels out
    notes         [str]

`share` is {"accuracy", "low", "high", "correct", "total"}, accuracies in [0, 1] with
their 95 % Wilson interval. `title` and `rows` are required, `norms`, `seconds` and
`note` of a row too; the rest may be left out. The JSON file adds "schema_version".
"""

import json
import os
import pathlib

import numpy as np
from tabulate import tabulate

from kerobust.batch_state import write_atomically
from kerobust.evaluation import page
from kerobust.evaluation.metrics import mcnemar, paired_bootstrap
from kerobust.evaluation.parts import Section
from kerobust.evaluation.results import Evaluation, share
from kerobust.evaluation.sections import grid, json_value, sections

SCHEMA_VERSION = 1
_PIXELS = ("clean", "adversarial")


def row(name: str, evaluation: Evaluation, note: str = "", protocol: str = "") -> dict:
    """Returns one row of a report's table.

    Args:
        name: What was evaluated.
        evaluation: What was found.
        note: Anything a reader must know about this row.
        protocol: How labels were used: a word of `sections.PROTOCOLS`, a comma, and
            what the head reads; "" if unknown.
    """
    return {
        "name": name,
        "natural": share(evaluation.clean),
        "robust": {key: share(flags) for key, flags in evaluation.robust.items()},
        "worst": share(evaluation.worst),
        "norms": evaluation.norms,
        "seconds": evaluation.seconds,
        "note": note,
        "protocol": protocol,
    }


def compare(
    first_name: str,
    first: Evaluation,
    second_name: str,
    second: Evaluation,
    on: str = "worst",
) -> dict:
    """Returns one entry of a report's comparisons: the paired tests of two rows.

    Args:
        first_name: Name of the first row.
        first: Its evaluation.
        second_name: Name of the second row.
        second: Its evaluation, of the same examples.
        on: "worst" (correct under every attack) or "clean".

    Raises:
        ValueError: If the examples differ or `on` is unknown.
    """
    if on not in ("worst", "clean"):
        raise ValueError(f'`on` must be "worst" or "clean". Received: on={on}.')
    if not np.array_equal(first.ids, second.ids):
        raise ValueError(
            "`first` and `second` must be evaluations of the same examples. Received: "
            f"{len(first.ids)} and {len(second.ids)} examples with different ids."
        )
    flags = getattr(first, on), getattr(second, on)
    difference, low, high = paired_bootstrap(*flags)
    return {
        "first": first_name,
        "second": second_name,
        "on": on,
        **mcnemar(*flags)._asdict(),
        "difference": difference,
        "low": low,
        "high": high,
    }


def table(rows: list[dict]) -> str:
    """Returns the results as a Markdown table that also reads well on a console.

    Args:
        rows: The `rows` of a report.
    """
    headers, cells = grid(rows)
    cells = [[_plain(cell) for cell in line] for line in cells]
    return tabulate(cells, headers, tablefmt="github", disable_numparse=True)


def write_report(folder: str | os.PathLike, report: dict) -> dict[str, pathlib.Path]:
    """Writes report.json, report.md and report.html; each appears whole or not at all.

    Args:
        folder: Where to write; made if needed.
        report: See the head of this module.

    Returns:
        {"json", "md", "html"}: the paths.

    Raises:
        ValueError: If `title` or `rows` is missing or a number is not finite.
    """
    missing = [name for name in ("title", "rows") if not report.get(name)]
    if missing:
        raise ValueError(
            f"`report` must have {' and '.join(missing)}. "
            f"Received: report with {', '.join(report) or 'nothing'}."
        )
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = sections(report)
    texts = {
        "json": json.dumps(
            _storable(report), indent=1, allow_nan=False, default=json_value
        ),
        "md": _markdown(report["title"], parts),
        "html": page.render(report, parts),
    }
    paths = {kind: folder / f"report.{kind}" for kind in texts}
    for kind, path in paths.items():
        write_atomically(path, texts[kind].encode())
    return paths


def _plain(text: str) -> str:
    """Returns text that neither ends a cell nor starts a tag in Markdown."""
    text = text.replace("|", "\\|").replace("\n", " ")
    return text.replace("<", "&lt;")


def _markdown(title: str, contents: list[Section]) -> str:
    parts = [f"# {_plain(title)}"]
    for section in contents:
        parts.append(f"## {section.title}")
        parts += [_plain(paragraph) for paragraph in section.paragraphs]
        if section.cells:
            cells = [[_plain(cell) for cell in line] for line in section.cells]
            parts.append(
                tabulate(
                    cells, section.headers, tablefmt="github", disable_numparse=True
                )
            )
    return "\n\n".join(parts) + "\n"


def _storable(report: dict) -> dict:
    """Returns the report as it goes into the JSON file."""
    pictures = {
        name: {key: value for key, value in found.items() if key not in _PIXELS}
        for name, found in report.get("pictures", {}).items()
    }
    stored = {"schema_version": SCHEMA_VERSION, **report, "pictures": pictures}
    if "representation" in report:
        stored["representation"] = {
            name: {key: value for key, value in found.items() if key != "attention"}
            for name, found in report["representation"].items()
        }
    return stored
