"""One self-contained HTML page: no script, no link, pictures inside."""

import base64
import html

from kerobust.evaluation import plots
from kerobust.evaluation.sections import Section

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
    title = html.escape(report["title"])
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{title}</h1>",
    ]
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        parts += [f"<p>{html.escape(text)}</p>" for text in section.paragraphs]
        parts += _figures(report, section.figure)
        if section.cells:
            parts.append(_table(section))
    return "\n".join([*parts, "</body></html>", ""])


def _table(section: Section) -> str:
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
        return [_figure(plots.bars(report["rows"]), caption)]
    if kind == "curves":
        caption = "Robust accuracy under PGD; bands are 95 % intervals."
        points = dict(report.get("curves", {}))
        for name, curve in report.get("embed_curves", {}).items():
            points[f"{name}, embed"] = curve
        return [_figure(plots.curves(points), caption)]
    if kind == "pictures":
        return [
            _figure(plots.encode(_panel(found)), f"{name}, {found['attack']}: {_ROWS}")
            for name, found in report["pictures"].items()
        ]
    return []


_ROWS = (
    "clean images, attacked images, perturbations (amplified, grey = unchanged); "
    "images on which the attack succeeded come first."
)


def _panel(found: dict):
    clean, adversarial = found["clean"], found["adversarial"]
    change = plots.amplify(clean, adversarial)
    return plots.panel({"clean": clean, "attacked": adversarial, "change": change})


def _figure(png: bytes, caption: str) -> str:
    caption = html.escape(caption)
    data = base64.b64encode(png).decode()
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
