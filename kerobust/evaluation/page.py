"""One self-contained HTML page: no script, no link, pictures inside."""

import base64
import html

from kerobust.config import format_number
from kerobust.evaluation import plots
from kerobust.evaluation.parts import Section

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em;
       padding: 0 1em; color: #222; background: #fff; }
table { border-collapse: collapse; margin: 1em 0; display: block; overflow-x: auto; }
th, td { border: 1px solid #ccc; padding: .3em .7em; text-align: left; }
th { background: #f2f2f2; }
td { overflow-wrap: anywhere; }
img { max-width: 100%; }
figure { margin: 1em 0; }
figcaption { color: #555; }
"""


def render(report: dict, sections: list[Section]) -> str:
    """Returns the page; all text in it is escaped.

    Args:
        report: See `kerobust.evaluation.report`.
        sections: Its text and tables.
    """
    parts = []
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        parts += [f"<p>{html.escape(text)}</p>" for text in section.paragraphs]
        parts += _figures(report, section.figure)
        if section.cells:
            parts.append(table(section))
    return document(report["title"], parts)


def document(title: str, parts: list[str]) -> str:
    """Returns a page.

    Args:
        title: Plain text.
        parts: HTML, one block after the other.
    """
    title = html.escape(title)
    head = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{title}</h1>",
    ]
    return "\n".join([*head, *parts, "</body></html>", ""])


def table(section: Section) -> str:
    """Returns the table of a section; all text in it is escaped."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in section.headers)
    lines = [
        "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in line) + "</tr>"
        for line in section.cells
    ]
    body = "\n".join(lines)
    return f"<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"


def _figures(report: dict, kind: str) -> list[str]:
    if kind == "bars":
        caption = "Natural and robust accuracy; lines are 95 % intervals."
        return [figure(plots.bars(report["rows"]), caption)]
    if kind == "curves":
        caption = "Robust accuracy under PGD; bands are 95 % intervals."
        embed = report.get("embed_curves", {})
        if embed:
            caption += " Dashed: under the attack on the representation."
        return [figure(plots.curves(report.get("curves", {}), embed), caption)]
    if kind == "pictures":
        return [
            figure(plots.encode(_panel(found)), f"{name}, {found['attack']}: {_ROWS}")
            for name, found in report["pictures"].items()
        ]
    if kind == "drift":
        return _drifts(report["representation"])
    if kind == "transfer":
        return [
            figure(plots.heat_map(found["transfer"]["success"]), f"{name}: {_CARRIED}")
            for name, found in report["diversity"].items()
        ]
    if kind == "attention":
        return [
            figure(plots.encode(found["attention"]), f"{name}: {_HEADS}")
            for name, found in report["representation"].items()
            if found["attention"] is not None
        ]
    return []


def _drifts(found: dict[str, dict]) -> list[str]:
    """Returns a histogram of all models for the largest radius of each norm."""
    figures = []
    largest: dict[str, float] = {}
    for entry in next(iter(found.values()))["drift"]:
        largest[entry["norm"]] = max(entry["epsilon"], largest.get(entry["norm"], 0.0))
    for radius in largest.items():
        values = {
            name: entry["values"]
            for name, item in found.items()
            for entry in item["drift"]
            if (entry["norm"], entry["epsilon"]) == radius
        }
        where = f"{radius[0]}, epsilon {format_number(radius[1])}"
        caption = f"1 - cosine of attacked and clean class token, {where}; 100 bins."
        figures.append(figure(plots.drift(values), caption))
    return figures


_CARRIED = "share of images that were right and are fooled, in %."

_HEADS = "image and heads of the last block; pairs of rows, clean above attacked."


_ROWS = (
    "clean images, attacked images, perturbations (amplified, grey = unchanged); "
    "images on which the attack succeeded come first."
)


def _panel(found: dict):
    clean, adversarial = found["clean"], found["adversarial"]
    change = plots.amplify(clean, adversarial)
    return plots.panel({"clean": clean, "attacked": adversarial, "change": change})


def figure(png: bytes, caption: str) -> str:
    """Returns a picture inside the page."""
    caption = html.escape(caption)
    data = base64.b64encode(png).decode()
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
