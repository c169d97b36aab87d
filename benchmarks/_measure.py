"""Timings that a busy machine does not spoil, and a record of where they were taken.

Every contender runs once per round, in an order that rotates, and a ratio is formed
within each round before the median over rounds is taken: what slows a whole round down
cancels. Every second round runs backwards: rotation alone would leave each contender
behind the same other one, and what that one leaves behind would not cancel.
"""

import argparse
import datetime
import gc
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from tabulate import tabulate

from benchmarks._pages import ROOT, replace_section
from kerobust.run_folder import git_state

FOLDER = ROOT / "runs" / "benchmarks"
_PACKAGES = ("tensorflow", "keras", "numpy")
_SETTINGS = re.compile("^(TF|OMP|XLA|CUDA|KMP)_")

Contenders = Mapping[str, Callable[[], object]]


def parser(about: str, rounds: int | None = 7) -> argparse.ArgumentParser:
    """Returns a parser with the flags of every benchmark.

    Args:
        about: Docstring of the script; its first line is shown.
        rounds: Default of `--rounds`; None = the script has no rounds.
    """
    result = argparse.ArgumentParser(
        description=about.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    if rounds is not None:
        result.add_argument(
            "--rounds", type=int, default=rounds, help="rounds of all contenders"
        )
    result.add_argument(
        "--document",
        action="store_true",
        help="rewrite a section of docs/benchmarks.md",
    )
    result.add_argument(
        "--output", type=pathlib.Path, default=FOLDER, help="folder of the JSON file"
    )
    return result


class Progress:
    """Says how far a benchmark is and about how long the rest will take.

    Args:
        title: Begins every line.
        total: Number of equally long pieces of work.
        quiet: Least seconds between two lines.
    """

    def __init__(self, title: str, total: int, quiet: float = 0.0):
        self.title, self.total, self.quiet = title, total, quiet
        self.done, self.started, self.said = 0, time.perf_counter(), float("-inf")

    def advance(self) -> None:
        """Counts one piece of work as done and prints a line if it is time to."""
        self.done += 1
        now = time.perf_counter()
        if now - self.said < self.quiet and self.done < self.total:
            return
        self.said = now
        left = (now - self.started) / self.done * (self.total - self.done)
        print(f"{self.title}: {self.done}/{self.total}, {left:.0f} s left", flush=True)


def interleave(
    contenders: Contenders, rounds: int, title: str
) -> dict[str, list[float]]:
    """Returns the seconds that each contender took in each round.

    Contenders must be warmed up: the first round counts like the others.

    Args:
        contenders: Name -> callable; tensors that it returns are waited for.
        rounds: Number of rounds.
        title: Begins the lines of progress.
    """
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    progress = Progress(title, rounds)
    for index in range(rounds):
        first = index % len(names)
        gc.collect()
        order = names[first:] + names[:first]
        for name in reversed(order) if index % 2 else order:
            seconds[name].append(timed(contenders[name]))
        progress.advance()
    return seconds


def timed(run: Callable[[], object]) -> float:
    """Returns how many seconds `run` needs until its result exists."""
    started = time.perf_counter()
    for value in tf.nest.flatten(run()):
        if tf.is_tensor(value):
            value.numpy()
    return time.perf_counter() - started


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Returns the ratio of two contenders in each round."""
    return [top / bottom for top, bottom in zip(above, below, strict=True)]


def spread(values: Iterable[float]) -> dict[str, float]:
    """Returns the median and the quartiles of one number per round."""
    low, median, high = np.percentile(list(values), [25, 50, 75]).tolist()
    return {"median": median, "low": low, "high": high}


def show(values: Iterable[float], digits: int = 2) -> str:
    """Returns the median and, in brackets, the quartiles as text."""
    found = {key: f"{value:.{digits}f}" for key, value in spread(values).items()}
    return f"{found['median']} [{found['low']}, {found['high']}]"


def table(rows: Iterable[Mapping[str, str]]) -> str:
    """Returns rows of equal keys as a GitHub table."""
    return tabulate(
        list(rows), headers="keys", tablefmt="github", disable_numparse=True
    )


def machine(packages: Sequence[str] = ()) -> dict:
    """Returns what a reader must know about where numbers come from.

    Args:
        packages: Distributions whose versions matter beside TensorFlow's.
    """
    return {
        "processor": _first_line("/proc/cpuinfo", r"model name\s*:\s*(.+)")
        or platform.machine(),
        "cores": _cores(),
        "memory": _first_line("/proc/meminfo", r"MemTotal:\s*(.+)"),
        "gpus": len(tf.config.list_physical_devices("GPU")),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {
            name: importlib.metadata.version(name) for name in (*_PACKAGES, *packages)
        },
        "settings": {
            name: text for name, text in os.environ.items() if _SETTINGS.match(name)
        },
        "load": os.getloadavg()[0],
    }


def place() -> str:
    """Returns processor, cores and memory in a few words."""
    about = machine()
    return (
        f"{about['processor']}, {about['cores']} cores, {about['gpus']} GPUs, "
        f"{about['memory']}"
    )


def write(name: str, folder: pathlib.Path, about: dict, results: dict) -> pathlib.Path:
    """Writes the JSON file of a benchmark and returns its path.

    Args:
        name: Name of the script.
        folder: Where to; it is made.
        about: What `machine` returned before the measurements.
        results: Settings, raw rounds and summaries.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "benchmark": name,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds"),
        "arguments": sys.argv[1:],
        "commit": git_state(),
        "machine": about | {"load_after": os.getloadavg()[0]},
        **results,
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def report(
    name: str,
    chosen: argparse.Namespace,
    about: dict,
    sentence: str,
    rows: Iterable[Mapping[str, str]],
    results: dict,
    *,
    further: Iterable[tuple[str, Iterable[Mapping[str, str]]]] = (),
) -> None:
    """Prints what was measured, writes the JSON file and, if asked, the page.

    Args:
        name: Name of the script.
        chosen: Settings of the command line, with those of `parser`.
        about: What `machine` returned before the measurements.
        sentence: What the numbers mean.
        rows: Rows of the table.
        results: For the JSON file.
        further: Sentences and rows of more tables.
    """
    text = headline(about)
    for words, lines in ((sentence, rows), *further):
        text += f"\n\n{words}\n\n{table(lines)}"
    print(f"\n{text}")
    print(f"Raw rounds: {write(name, chosen.output, about, results)}")
    if chosen.document:
        command = " ".join(["python -m", f"benchmarks.{name}", *sys.argv[1:]])
        date = datetime.date.today().isoformat()
        text = f"Command: `{command}`, {date}.\n\n{text}"
        replace_section(ROOT / "docs" / "benchmarks.md", name, text)


def headline(about: dict) -> str:
    """Returns the machine in one line, for above a table."""
    versions = ", ".join(f"{name} {text}" for name, text in about["versions"].items())
    return (
        f"{about['processor']}, {about['cores']} cores, {about['gpus']} GPUs, load "
        f"{about['load']:.1f} before the start; Python {about['python']}, {versions}"
    )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _first_line(path: str, pattern: str) -> str | None:
    try:
        found = re.search(pattern, pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError:
        return None
    return found.group(1).strip() if found else None
