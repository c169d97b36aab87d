"""Robust encoders on three tasks: class, mask and depth of the rendered scenes.

The arm `dino` is trained first, every other arm starts from its encoder and costs about
as many gradients. Then one command fits the same linear heads on all of them and
attacks them side by side.
"""

import dataclasses
import json

import numpy as np
from tabulate import tabulate

from benchmarks._pages import ROOT, replace_section
from benchmarks.experiments.running import Folders, run, usage

TEACHER = "dino"
_COLUMNS = ("clean", "embed", "task", "output_suite", "embedding_suite", "worst")
_FACTOR = {"accuracy": 100, "mean_iou": 100, "rmse": 1}


@dataclasses.dataclass(frozen=True)
class Tasks(Folders):
    """One table of encoders across tasks.

    Attributes:
        name: Of its run folders.
        title: Of its section in docs/results.md.
        flagfile: Settings of the arm `dino`.
        benchmark: Settings of the evaluation.
        shared: Flags of every other arm.
        arms: Name -> its own flags; `dino` first.
        seeds: How many seeds the published table has.
        beside: What a reader must know.
    """

    flagfile: str
    benchmark: str
    shared: tuple[str, ...]
    arms: dict[str, tuple[str, ...]]
    seeds: int
    beside: str

    def run(self, seed: int, extra: list[str]) -> None:
        """Trains and evaluates what one seed lacks."""
        teacher = self.workdir(TEACHER, seed) / "encoder"
        for arm, own in self.arms.items():
            flags = [f"--run.seed={seed}", *own, *extra]
            if arm != TEACHER:
                started = f"--run.init_from={teacher}"
                flags = [*self.shared, *flags, started]
            run(self.workdir(arm, seed), self.flagfile, "pretrain", *flags)
        encoders = ",".join(
            f"{arm}={self.workdir(arm, seed) / 'encoder'}" for arm in self.arms
        )
        flags = [f"--benchmark.encoders={encoders}", f"--benchmark.seed={seed}", *extra]
        run(self.workdir("benchmark", seed), self.benchmark, "benchmark", *flags)

    def write(self, seeds: range, machine: str, extra: list[str]) -> None:
        """Rewrites the section of this table in docs/results.md."""
        found = [self._tasks(seed) for seed in seeds]
        folders = [
            self.workdir(each, seed)
            for seed in seeds
            for each in (*self.arms, "benchmark")
        ]
        cost = usage(folders)
        command = " ".join(["python -m benchmarks.experiments", self.name, *extra])
        parts = [
            f"Command: `{command}`. Machine: {machine}; {cost['seconds'] / 60:.0f} "
            f"minutes recorded. Seeds: {len(found)}. Settings: {self.flagfile}, "
            f"{self.benchmark}, benchmarks/experiments/tasks.py. No run is left out.",
            self.beside,
        ]
        for task in found[0]:
            rows = [each[task] for each in found]
            parts += [f"## {task}: {_about(rows)}", _values(rows)]
            parts += [
                "Worst case against the first row, paired over images; positive "
                "is better:",
                _against(rows),
            ]
        parts += ["## Made for one task, scored on all, mean over the seeds"]
        parts += [_carried(found)]
        replace_section(ROOT / "docs" / "results.md", self.title, "\n\n".join(parts))

    def _tasks(self, seed: int) -> dict:
        path = self.workdir("benchmark", seed) / "benchmark" / "report.json"
        (tasks,) = json.loads(path.read_text())["data"].values()
        return tasks


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


def _values(rows: list[dict]) -> str:
    """Returns a row per arm: its interval, or mean and values of several seeds."""
    lines = []
    for arm, first in rows[0]["encoders"].items():
        metric, line = first["metric"], {"arm": arm}
        for column in _COLUMNS:
            values = [row["encoders"][arm]["values"][column] for row in rows]
            line[column] = _cell(metric, values)
        lines.append(line)
    return tabulate(lines, headers="keys", tablefmt="github", disable_numparse=True)


def _cell(metric: str, values: list[dict]) -> str:
    if len(values) == 1:
        (only,) = values
        bounds = f"{_text(metric, only['low'])}, {_text(metric, only['high'])}"
        return f"{_text(metric, only['value'])} [{bounds}]"
    singly = [each["value"] for each in values]
    listed = ", ".join(_text(metric, value) for value in singly)
    return f"{_text(metric, np.mean(singly))} ({listed})"


def _against(rows: list[dict]) -> str:
    """Returns how much better than the first arm each other one is."""
    first, *others = rows[0]["encoders"]
    metric = rows[0]["encoders"][first]["metric"]
    lines = []
    for arm in others:
        gaps = [row["encoders"][first]["against"][arm] for row in rows]
        line = {"arm": arm}
        for seed, gap in enumerate(gaps):
            low, high = sorted((-gap["low"], -gap["high"]))
            bounds = f"[{_text(metric, low)}, {_text(metric, high)}]"
            line[f"seed {seed}"] = f"{_text(metric, -gap['difference'])} {bounds}"
        lines.append(line)
    return tabulate(lines, headers="keys", tablefmt="github", disable_numparse=True)


def _carried(found: list[dict]) -> str:
    lines = []
    for task, part in found[0].items():
        for arm, row in part["encoders"].items():
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
    return f"{_FACTOR[metric] * value:.{digits}f}"


def _tuned(method: str, *more: str) -> tuple[str, ...]:
    """Returns the flags that all methods share, under their own names."""
    return (
        f"--method={method}",
        f"--{method}.epsilon=8/255",
        f"--{method}.steps=5",
        f"--{method}.step_size=",
        *more,
    )


_FARE = "--pretrain.epochs=7"  # Six passes per step where the others make seven.
_MULTI = (
    "--multi.dual_width=64",
    "--multi.dual_rate=5e-3",
    "--multi.dual_every=1",
    "--multi.ema=0.98",
)
TASKS = {
    "tasks_scenes": Tasks(
        name="tasks_scenes",
        title="Robust encoders across tasks, rendered scenes",
        flagfile="configs/dino_scenes.flags",
        benchmark="configs/benchmark.flags",
        shared=(
            "--pretrain.epochs=6",
            "--pretrain.base_rate=2e-3",
            "--pretrain.warmup_epochs=0.5",
            "--pretrain.augment=crop4_flip",
            "--pretrain.weight_decay=0",
            "--pretrain.final_weight_decay=",
            "--pretrain.clip_norm=",
        ),
        arms={
            TEACHER: (),
            "deacl": _tuned("deacl"),
            "deacl_both": _tuned("deacl", "--deacl.tokens=both"),
            "fare": _tuned("fare", _FARE),
            "multi_cls": _tuned("multi", *_MULTI, "--multi.tokens=cls"),
            "multi_patches": _tuned("multi", *_MULTI, "--multi.tokens=patches"),
            "multi": _tuned("multi", *_MULTI),
            "multi_free": _tuned("multi", *_MULTI, "--multi.constraint=none"),
        },
        seeds=3,
        beside="",
    ),
}
