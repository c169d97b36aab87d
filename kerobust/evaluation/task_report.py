"""The report of the benchmark across tasks: tables, curves and pictures."""

import html
import json
import pathlib

import numpy as np
from tabulate import tabulate

from kerobust.attacks.masking.findings import worst_first
from kerobust.batch_state import write_atomically
from kerobust.evaluation import page, plots
from kerobust.evaluation.parts import Section
from kerobust.evaluation.task_findings import contradictions
from kerobust.evaluation.task_results import ENCODER, TaskResults, bootstrap
from kerobust.tasks import Task
from kerobust.tasks.base import EMBED, TASK

_COLUMNS = {
    "clean": "clean",
    EMBED: "EmbedAttack",
    TASK: "task attack",
    "output_suite": "output suite",
    "embedding_suite": "embedding suite",
    "worst": "worst case",
}
_UNITS = {"accuracy": "accuracy, %", "mean_iou": "mean IoU, %", "rmse": "RMSE, m"}
_SHARES = ("accuracy", "mean_iou")
_METRICS = {
    "pixel_accuracy": "pixel accuracy %",
    "mean_recall": "mean recall %",
    "rmse_of_images": "mean RMSE of images, m",
    "relative_error": "AbsRel",
    "within_a_quarter": "delta < 1.25 %",
}
_COLOURS = np.array(
    [
        *((128, 128, 128), (205, 200, 175), (214, 39, 40), (44, 160, 44)),
        *((31, 119, 180), (255, 191, 0), (227, 119, 194), (23, 190, 207)),
        *((148, 103, 189), (140, 86, 75), (188, 189, 34), (255, 127, 14)),
    ],
    np.uint8,
)


def summary(results: TaskResults, task: str) -> dict:
    """Returns what is reported about one encoder on one task, ready for JSON."""
    kind = results.tasks[task]
    own = [
        job
        for job in results.jobs
        if job.task in (task, ENCODER) and job.epsilon == results.epsilon
    ]
    return {
        "metric": kind.MAIN,
        "images": len(results.clean[task]),
        "clean of all images": kind.metrics(results.everything[task]),
        "values": {
            name: results.value(task, records)
            for name, records in _columns(results, task, suites=len(own) > 2).items()
        },
        "attacks": {
            job.attempt.name: {
                **results.value(task, results.records[job.key][task]),
                "largest perturbation": results.norms[job.key],
                "seconds": results.seconds[job.key],
            }
            for job in own
        },
        "findings": [
            finding.to_dict()
            for finding in worst_first(
                [*results.diagnosis.get(task, ()), *contradictions(results, task)]
            )
        ],
        "curves": {name: _curve(results, task, name) for name in (EMBED, TASK)},
        "carried over": {
            name: {
                judge: float(other.main(_total(results.under(task, name, judge)))[0])
                for judge, other in results.tasks.items()
            }
            for name in (EMBED, TASK)
        },
    }


def _columns(results: TaskResults, task: str, suites: bool) -> dict[str, np.ndarray]:
    """Returns the records behind every column of the table."""
    found = {
        "clean": results.clean[task],
        EMBED: results.under(task, EMBED),
        TASK: results.under(task, TASK),
    }
    if suites:
        found["output_suite"] = results.worst(task, lambda x: not x.startswith(EMBED))
        found["embedding_suite"] = results.worst(task, lambda x: x.startswith(EMBED))
    return found | {"worst": results.worst(task)}


def difference(kind: Task, first: np.ndarray, other: np.ndarray) -> dict:
    """Returns how much better the first records are, with a paired interval.

    Positive = the first are better, whatever the direction of the metric.

    Args:
        kind: The task.
        first: Records [N, ...].
        other: Records [N, ...] of the same images.
    """
    sign = 1.0 if kind.HIGHER else -1.0
    values = [float(kind.main(_total(each))[0]) for each in (first, other)]
    draws = np.subtract(bootstrap(kind, first), bootstrap(kind, other))
    low, high = np.sort(sign * np.nanquantile(draws, [0.025, 0.975]))
    return {
        "difference": sign * (values[0] - values[1]),
        "low": float(low),
        "high": float(high),
    }


def compared(results: dict[str, TaskResults], task: str) -> dict[str, dict]:
    """Returns encoder -> {"against": later encoder -> column -> `difference`}.

    The columns are "worst" and "clean". An encoder is compared with those after it.
    """
    kind = next(iter(results.values())).tasks[task]
    columns = {
        "worst": {name: each.worst(task) for name, each in results.items()},
        "clean": {name: each.clean[task] for name, each in results.items()},
    }
    names = list(results)
    return {
        name: {
            "against": {
                other: {
                    column: difference(kind, records[name], records[other])
                    for column, records in columns.items()
                }
                for other in names[index + 1 :]
            }
        }
        for index, name in enumerate(names)
    }


def _total(records: np.ndarray) -> np.ndarray:
    """Returns the sum of records [N, ...] as the only one of several, [1, ...]."""
    return records.sum(axis=0, keepdims=True)


def tables(report: dict) -> list[Section]:
    """Returns a table per data set and task, and what holds across them.

    For masks and depths a second one holds their other metrics; per data set there is
    one of what is carried over, per task one across data sets.
    """
    found = []
    for data, tasks in report["data"].items():
        for task, part in tasks.items():
            rows = part["encoders"]
            first = next(iter(rows.values()))
            metric = first["metric"]
            columns = [name for name in _COLUMNS if name in first["values"]]
            cells = [
                [name, *(_text(metric, row["values"][x]) for x in columns)]
                for name, row in rows.items()
            ]
            title = f"{task} on {data}: {_UNITS[metric]}, {first['images']} images"
            headers = ["encoder", *(_COLUMNS[name] for name in columns)]
            found.append(Section(title, _remarks(part, metric), headers, cells))
            if len(first["values"]["clean"]["metrics"]) > 1:
                found.append(_further(f"{task} on {data}", rows))
        if len(tasks) > 1:
            found.append(_carried(data, tasks))
    if len(report["data"]) > 1:
        found += _across(report["data"])
    return found


def write_task_report(folder: pathlib.Path, report: dict, pictures: dict) -> None:
    """Writes report.json, report.md, report.html and the pictures.

    Args:
        folder: Where.
        report: "title", "command", "environment", "threat", "settings", "data": data
            set -> task -> {"encoders": encoder -> `summary`, ...}.
        pictures: Name of a file without its end -> PNG.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sections = tables(report)
    text = [f"# {report['title']}", *map(markdown, sections)]
    blocks = []
    for section in sections:
        blocks.append(f"<h2>{html.escape(section.title)}</h2>")
        blocks += [f"<p>{html.escape(each)}</p>" for each in section.paragraphs]
        blocks.append(page.table(section))
    for name, png in pictures.items():
        write_atomically(folder / f"{name}.png", png)
        blocks.append(page.figure(png, name))
    files = {
        "report.json": json.dumps(report, indent=1),
        "report.md": "\n\n".join(text) + "\n",
        "report.html": page.document(report["title"], blocks),
    }
    for name, content in files.items():
        write_atomically(folder / name, content.encode())


def markdown(section: Section) -> str:
    """Returns a section as Markdown."""
    table = tabulate(section.cells, section.headers, "github", disable_numparse=True)
    return "\n\n".join([f"## {section.title}", *section.paragraphs, table])


def curve_figure(part: dict, title: str) -> bytes:
    """Returns a PNG: the metric of each encoder against the radius of both attacks."""
    lines = {
        f"{name}, {_COLUMNS[attack]}": points
        for name, row in part["encoders"].items()
        for attack, points in row["curves"].items()
    }
    metric = next(iter(part["encoders"].values()))["metric"]
    factor = 100 if metric in _SHARES else 1
    return plots.lines(lines, f"{title}: {_UNITS[metric]}", factor)


def picture_of(found: dict, task: str, most: float) -> bytes:
    """Returns a PNG: images, truth, predictions without and with attack."""
    shown = {
        "images": found["images"],
        "truth": _drawn(found["targets"], task, most),
        "clean": _drawn(found["clean"], task, most),
        "attacked": found["attacked"],
        "attacked prediction": _drawn(found["adversarial"], task, most),
    }
    return plots.encode(plots.panel(shown))


def _drawn(maps: np.ndarray, task: str, most: float) -> np.ndarray:
    """Returns masks in colours, depths in greys, [P, H, W, 3 or 1]."""
    if task == "depth":
        return np.clip(maps / most, 0, 1)[..., np.newaxis].astype(np.float32)
    colours = _COLOURS[maps % len(_COLOURS)]
    return np.where((maps >= 0)[..., np.newaxis], colours, 0).astype(np.uint8)


def _curve(results: TaskResults, task: str, attack: str) -> list[dict]:
    jobs = [
        job for job in results.jobs if (job.task, job.attempt.name) == (task, attack)
    ]
    points = {0.0: results.clean[task]}
    points |= {job.epsilon: results.records[job.key][task] for job in jobs}
    return [
        {"epsilon": radius, **results.value(task, points[radius])}
        for radius in sorted(points)
    ]


def _remarks(part: dict, metric: str) -> list[str]:
    everything = ", ".join(
        f"{name} {_number(metric, row['clean of all images'][metric])}"
        for name, row in part["encoders"].items()
    )
    found = [f"Clean, all test images: {everything}."]
    if "constant" in part:
        value, rmse = part["constant"]["depth"], part["constant"]["rmse"]
        found.append(
            f"Always predicting {value:.2f} m, the mean of the training images, has an "
            f"RMSE of {rmse:.3f} m: beyond it nothing is left to lose."
        )
    for name, row in part["encoders"].items():
        found += [
            f"{name}: {finding['severity']}, {finding['code']}: {finding['advice']}"
            for finding in row["findings"]
        ]
    first = next(iter(part["encoders"]))
    against = part["encoders"][first].get("against", {})
    for other, columns in against.items():
        gaps = [
            _text(metric, {"value": columns[x]["difference"], **columns[x]})
            for x in ("worst", "clean")
        ]
        found.append(
            f"{first} better than {other} in the worst case by {gaps[0]}, clean by "
            f"{gaps[1]}."
        )
    return found


def _further(title: str, rows: dict) -> Section:
    """Returns the other metrics of encoders, without attack and in the worst case."""
    cells = []
    for name, row in rows.items():
        clean, worst = (row["values"][x]["metrics"] for x in ("clean", "worst"))
        pairs = [
            f"{_plain(metric, clean[metric])} / {_plain(metric, worst[metric])}"
            for metric in clean
            if metric != row["metric"]
        ]
        cells.append([name, *pairs])
    first = next(iter(rows.values()))
    headers = [
        _METRICS[metric]
        for metric in first["values"]["clean"]["metrics"]
        if metric != first["metric"]
    ]
    text = (
        "Clean / in the worst case, which is chosen by the metric of the table above."
    )
    return Section(f"{title}: further metrics", [text], ["encoder", *headers], cells)


def _across(data: dict) -> list[Section]:
    """Returns per task a table of the encoders on all data sets that have it."""
    found = []
    for task in dict.fromkeys(task for tasks in data.values() for task in tasks):
        parts = {name: tasks[task] for name, tasks in data.items() if task in tasks}
        if len(parts) < 2:
            continue
        metric = next(iter(next(iter(parts.values()))["encoders"].values()))["metric"]
        cells = [
            [
                encoder,
                *(
                    " / ".join(
                        _number(metric, part["encoders"][encoder]["values"][x]["value"])
                        for x in ("clean", "worst")
                    )
                    for part in parts.values()
                ),
            ]
            for encoder in next(iter(parts.values()))["encoders"]
        ]
        text = "Without attack / in the worst case. Heads are fitted on each data set."
        title = f"{task} across data sets: {_UNITS[metric]}"
        found.append(Section(title, [text], ["encoder", *parts], cells))
    return found


def _carried(data: str, tasks: dict) -> Section:
    """Returns what attacks made for one task do to the others."""
    judges = list(tasks)
    cells = []
    for task, part in tasks.items():
        for name, row in part["encoders"].items():
            for attack, found in row["carried over"].items():
                values = [
                    _number(tasks[j]["encoders"][name]["metric"], found[j])
                    for j in judges
                ]
                cells.append([name, f"{_COLUMNS[attack]} for {task}", *values])
    return Section(
        f"carried over on {data}",
        ["Perturbations made for one task, scored on all of them."],
        ["encoder", "made by", *judges],
        cells,
    )


def _text(metric: str, found: dict) -> str:
    low, high = (_number(metric, found[x]) for x in ("low", "high"))
    return f"{_number(metric, found['value'])} [{low}, {high}]"


def _plain(metric: str, value: float) -> str:
    """Returns one of `_METRICS` in its unit."""
    share = _METRICS[metric].endswith("%")
    return f"{100 * value:.1f}" if share else f"{value:.3f}"


def _number(metric: str, value: float) -> str:
    return f"{100 * value:.1f}" if metric in _SHARES else f"{value:.3f}"
