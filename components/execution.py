"""From the properties of an execution to the settings of a workflow."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from kerobust import flags
from kerobust.experiment import ExperimentConfig
from kerobust.workflows import Experiment, prepare

from .artifacts import Examples
from .base import Artifacts


def settings(
    exec_properties: Mapping[str, str],
    workdir: pathlib.Path,
    *,
    stages: Sequence[str] = (),
    init_from: pathlib.Path | None = None,
    examples: Sequence[Examples] = (),
) -> ExperimentConfig:
    """Returns the settings of one execution, from a command line of its own.

    Args:
        exec_properties: Flag name without dashes -> text.
        workdir: Run folder.
        stages: As in `--run.stages`.
        init_from: As in `--run.init_from`.
        examples: Data to use instead of `--data.name`; one artifact or none.

    Raises:
        UserError: As on the command line.
    """
    given = {**exec_properties, "run.workdir": str(workdir)}
    if stages:
        given["run.stages"] = ",".join(stages)
    if init_from is not None:
        given["run.init_from"] = str(init_from)
    for artifact in examples:
        given["data.name"] = f"examples:{artifact.folder}"
    lines = [f"--{name}={text}" for name, text in given.items()]
    return flags.parse(lines).config


def experiment(
    exec_properties: Mapping[str, str], workdir: pathlib.Path, **options
) -> Experiment:
    """Returns the prepared experiment of one execution; see `settings`."""
    return prepare(settings(exec_properties, workdir, **options))


def evaluated(exec_properties: Mapping[str, str], inputs: Artifacts) -> Experiment:
    """Returns the experiment whose run folder is the input `report`."""
    (report,) = inputs["report"]
    model: Any = inputs["model"][0]
    return experiment(
        exec_properties,
        report.uri,
        stages=("evaluate",),
        init_from=model.bundle,
        examples=inputs["examples"],
    )


def finish(code: int) -> None:
    """Raises unless a workflow ended with exit code 0.

    Raises:
        SystemExit: With that code, after a signal that stopped a training.
    """
    if code:
        raise SystemExit(code)
