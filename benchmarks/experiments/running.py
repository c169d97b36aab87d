"""Runs one arm of an experiment through the command line that users type."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time

from benchmarks._pages import ROOT

RUNS = ROOT / "runs" / "experiments"
_USAGE = "usage.jsonl"  # One line per start of the command.


@dataclasses.dataclass(frozen=True)
class Folders:
    """Base of tables: where their runs lie.

    Attributes:
        name: Of the run folders.
        title: Of the section in docs/results.md.
    """

    name: str
    title: str

    def workdir(self, arm: str, seed: int) -> pathlib.Path:
        """Returns the run folder of one arm of one seed."""
        return self.folder / f"seed-{seed}" / arm

    @property
    def folder(self) -> pathlib.Path:
        """The folder of all runs."""
        return RUNS / self.name


def run(workdir: pathlib.Path, flagfile: str, stages: str, *flags: str) -> pathlib.Path:
    """Runs stages in a process of their own and returns the run folder.

    What is finished is read and what was interrupted goes on; a complete folder costs
    nothing. Time and peak memory of every start are kept beside the results.

    Args:
        workdir: Run folder.
        flagfile: Below the root of the project.
        stages: As in `--run.stages`.
        *flags: More flags.
    """
    arguments = [
        *("-m", "kerobust.train", f"--flagfile={flagfile}"),
        *(f"--run.workdir={workdir}", f"--run.stages={stages}", *flags),
    ]
    usage = workdir / _USAGE
    if usage.exists():
        ends = [json.loads(line) for line in usage.read_text().splitlines()]
        if ends[-1]["code"] == 0 and ends[-1]["arguments"] == arguments:
            return workdir
    print("python " + " ".join(arguments), flush=True)
    started = time.perf_counter()
    child = subprocess.Popen([sys.executable, *arguments], cwd=ROOT)
    interrupted = False
    try:
        _, status, used = os.wait4(child.pid, 0)
    except KeyboardInterrupt:  # The child got it too and is saving.
        interrupted = True
        _, status, used = os.wait4(child.pid, 0)
    code = child.returncode = os.waitstatus_to_exitcode(status)
    workdir.mkdir(parents=True, exist_ok=True)
    end = {
        "arguments": arguments,
        "code": code,
        "seconds": time.perf_counter() - started,
        "peak_megabytes": used.ru_maxrss / 1024,  # Linux counts kilobytes.
    }
    with usage.open("a") as lines:
        lines.write(json.dumps(end) + "\n")
    if interrupted:
        raise KeyboardInterrupt
    if code:
        raise subprocess.CalledProcessError(code, arguments)
    return workdir


def spent(workdirs: list[pathlib.Path]) -> str:
    """Returns the day of the newest run and what all of them cost, as far as recorded.

    Time adds up over all starts of all runs; memory is that of the largest process.
    """
    texts = [(folder / "environment.json").read_text() for folder in workdirs]
    date = max(json.loads(text)["time"] for text in texts)[:10]
    ends = [
        json.loads(line)
        for workdir in workdirs
        if (workdir / _USAGE).exists()
        for line in (workdir / _USAGE).read_text().splitlines()
    ]
    if not ends:
        return f"{date}; time and memory were not recorded"
    minutes = sum(end["seconds"] for end in ends) / 60
    gigabytes = max(end["peak_megabytes"] for end in ends) / 1000
    return (
        f"{date}; {minutes:.0f} minutes recorded, at most {gigabytes:.1f} GB of memory"
    )
