"""`python -m components.run --pipeline=NAME`: runs a pipeline in this process."""

import dataclasses
import pathlib
import sys

from kerobust import flags
from kerobust.config import Config, setting
from kerobust.experiment import ExperimentConfig
from kerobust.training.fit import RunConfig

from .lineage_page import write_page
from .local_runner import LocalRunner
from .pipelines import PIPELINES, named, prepared

# What users type -> the flag behind it.
_SHORT = {"--pipeline": "--pipeline.name", "--nocache": "--pipeline.nocache"}


@dataclasses.dataclass(frozen=True)
class PipelineConfig(Config):
    """Which pipeline runs, and where it keeps what it makes."""

    SECTION = "pipeline"

    name: str = setting(
        "mimir", "Pipeline; also written --pipeline=NAME.", choices=tuple(PIPELINES)
    )
    root: str = setting("runs/pipelines", "Folder of artifacts and lineage.")
    nocache: bool = setting(
        False,
        "Run everything anew; also written --nocache.",
    )


@dataclasses.dataclass(frozen=True)
class PipelineSettings(ExperimentConfig):
    """The settings of an experiment, and those of the pipeline."""

    pipeline: PipelineConfig = PipelineConfig()


def run(config: PipelineSettings, dry_run: bool = False) -> int:
    """Runs the pipeline; returns the exit code.

    Args:
        config: The settings.
        dry_run: Check the settings and show the graph; run and write nothing.
    """
    chosen, pipeline = config.pipeline, named(config.pipeline.name)
    if dry_run:
        prepared(pipeline, config)
        for node in pipeline.nodes:
            print(f"[{node.name}] {dict(node.inputs)}")
        return 0
    ignored = [
        f"--run.{name}"
        for name in ("stages", "workdir")
        if getattr(config.run, name) != getattr(RunConfig(), name)
    ]
    if ignored:
        print(f"{' and '.join(ignored)}: decided by the components, not by the flag")
    runner = LocalRunner(pathlib.Path(chosen.root), caching=not chosen.nocache)
    results = runner.run(pipeline, config)
    print(f"page: {write_page(runner.root, pipeline, results, runner.store)}")
    return 0


def main(argv: list[str]) -> int:
    """Runs the command line `argv`; returns the exit code."""
    about = "Runs a pipeline of components: " + ", ".join(PIPELINES) + "."
    return flags.run(expanded(argv), run, about, settings=PipelineSettings)


def expanded(argv: list[str]) -> list[str]:
    """Returns a command line with the flags behind their short forms."""
    parts = [text.partition("=") for text in argv]
    return [_SHORT.get(name, name) + sign + value for name, sign, value in parts]


if __name__ == "__main__":
    sys.exit(main(sys.argv))
