"""The tables of reports of the benchmark: encoders side by side, over seeds."""

import numpy as np
from tabulate import tabulate

COLUMNS = ("clean", "embed", "task", "output_suite", "embedding_suite", "worst")
_FACTOR = {"accuracy": 100, "mean_iou": 100, "rmse": 1}


def only(row: dict, arms: list[str]) -> dict:
    """Returns the part of a report on one task with these encoders alone."""
    return row | {"encoders": {arm: row["encoders"][arm] for arm in arms}}


def section(title: str, rows: list[dict], radius: float, subject: str) -> list[str]:
    """Returns the tables of one task.

    Args:
        title: What the task is, and of which data.
        rows: The part of the report on it, of each seed.
        radius: Of the ball of all columns that name no other.
        subject: The arm that is compared with every other one.
    """
    return [
        f"## {title}: {_about(rows)}",
        _values(rows, radius),
        f"How much better `{subject}` is, paired over images, in the worst case and "
        "clean:",
        _against(rows, subject),
        _signs(rows),
    ]


def _about(rows: list[dict]) -> str:
    first = next(iter(rows[0]["encoders"].values()))
    unit = {
        "accuracy": "accuracy in %",
        "mean_iou": "mean IoU in %",
        "rmse": "RMSE in m",
    }
    blind = rows[0].get("constant")
    floor = f", {blind['rmse']:.2f} for the mean depth" if blind else ""
    return f"{unit[first['metric']]} on {first['images']} images{floor}"


def _values(rows: list[dict], radius: float) -> str:
    """Returns a row per arm: its interval, or mean and values of several seeds."""
    lines = []
    for arm, first in rows[0]["encoders"].items():
        metric, line = first["metric"], {"arm": arm}
        every = [row["encoders"][arm]["clean of all images"][metric] for row in rows]
        line["clean, all"] = _text(metric, np.mean(every))
        for column in COLUMNS:
            values = [row["encoders"][arm]["values"][column] for row in rows]
            line[column] = _cell(metric, values)
        for attack, points in first["curves"].items():
            for i, point in enumerate(points):
                if point["epsilon"] not in (0, radius):
                    values = [row["encoders"][arm]["curves"][attack][i] for row in rows]
                    column = f"{attack} at {255 * point['epsilon']:g}/255"
                    line[column] = _cell(metric, values)
        lines.append(line)
    return tabulate(lines, headers="keys", tablefmt="github", disable_numparse=True)


def _cell(metric: str, values: list[dict]) -> str:
    if len(values) == 1:
        (one,) = values
        bounds = f"{_text(metric, one['low'])}, {_text(metric, one['high'])}"
        return f"{_text(metric, one['value'])} [{bounds}]"
    singly = [each["value"] for each in values]
    listed = ", ".join(_text(metric, value) for value in singly)
    return f"{_text(metric, np.mean(singly))} ({listed})"


def _against(rows: list[dict], subject: str) -> str:
    """Returns how much better an arm is than each other one, paired over images."""
    encoders = rows[0]["encoders"]
    lines = []
    for arm in encoders:
        if arm == subject:
            continue
        line = {"arm": arm}
        for column in ("worst", "clean"):
            for seed, row in enumerate(rows):
                gap = _gap(row["encoders"], subject, arm, column)
                line[f"{column}, seed {seed}"] = _text_of(encoders[arm]["metric"], gap)
        lines.append(line)
    return tabulate(lines, headers="keys", tablefmt="github", disable_numparse=True)


def _gap(encoders: dict, first: str, other: str, column: str) -> tuple:
    """Returns how much better the first is, (difference, low, high)."""
    found = encoders[first]["against"].get(other)
    if found is not None:
        return tuple(found[column][x] for x in ("difference", "low", "high"))
    turned = encoders[other]["against"][first][column]
    return tuple(-turned[x] for x in ("difference", "high", "low"))


def _text_of(metric: str, gap: tuple) -> str:
    value, low, high = (_text(metric, x) for x in gap)
    return f"{value} [{low}, {high}]"


def _signs(rows: list[dict]) -> str:
    """Returns the findings of the diagnosis, by arm."""
    found = sorted(
        f"{arm} ({finding['severity']}): {finding['code']} {finding['value']:.2g}"
        for row in rows
        for arm, part in row["encoders"].items()
        for finding in part["findings"]
    )
    return f"Signs of masked gradients: {'; '.join(found) or 'none'}."


def carried(found: list[dict], arms: list[str]) -> str:
    """Returns a row for every attack on every task: how right all tasks still are.

    Args:
        found: Of each seed, task -> its part of the report.
        arms: Of the encoders to show.
    """
    lines = []
    for task, part in found[0].items():
        for arm in arms:
            row = part["encoders"][arm]
            for attack, judges in row["carried over"].items():
                line = {"arm": arm, "made by": f"{attack} for {task}"}
                for judge in judges:
                    metric = found[0][judge]["encoders"][arm]["metric"]
                    values = [
                        each[task]["encoders"][arm]["carried over"][attack][judge]
                        for each in found
                    ]
                    line[judge] = _text(metric, np.mean(values))
                lines.append(line)
    return tabulate(lines, headers="keys", tablefmt="github", disable_numparse=True)


def _text(metric: str, value: float) -> str:
    digits = 1 if _FACTOR[metric] == 100 else 2
    rounded = round(_FACTOR[metric] * value, digits) + 0.0  # No minus before zero.
    return f"{rounded:.{digits}f}"
