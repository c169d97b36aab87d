"""The pipelines on Kubeflow Pipelines: compiled to YAML, or run here in subprocesses.

    python -m components.kfp --pipeline=mimir --flagfile=... --kfp.output=mimir.yaml

Every component runs in an image that has kerobust. Kubeflow keeps lineage and cache
itself, so there is no last blessed model: name one by `--validate.baseline`.
"""

import dataclasses
import json
import pathlib
import sys
from typing import Any

from kerobust import flags
from kerobust.config import Config, UserError, setting
from kerobust.experiment import ExperimentConfig

from .pipelines import PIPELINES, Node, Pipeline, named, prepared
from .run import PipelineSettings, expanded


def kfp_pipeline(pipeline: Pipeline, config: ExperimentConfig, image: str) -> Any:
    """Returns the pipeline as Kubeflow knows it, with these flags inside.

    Args:
        pipeline: The pipeline.
        config: The settings.
        image: Container image that has kerobust and its components.
    """
    from kfp import dsl

    config = prepared(pipeline, config)
    steps = {node.name: _step(node, image) for node in pipeline.nodes}

    def graph():
        tasks: dict[str, Any] = {}
        for node in pipeline.nodes:
            tasks[node.name] = steps[node.name](
                kind=node.component.__name__,
                flags=json.dumps(node.component.properties(config)),
                **node.connected(tasks),
            )

    return dsl.pipeline(graph, name=f"kerobust-{pipeline.name}")


def _step(node: Node, image: str) -> Any:
    from kfp import dsl

    from . import kfp_steps

    starts = node.name == "pretrain" and "start" in node.inputs
    function = kfp_steps.STEPS["pretrain_from" if starts else node.name]
    return dsl.component(function, base_image=image, install_kfp_package=False)


@dataclasses.dataclass(frozen=True)
class KfpConfig(Config):
    """What becomes of a pipeline for Kubeflow."""

    SECTION = "kfp"

    output: str = setting("pipeline.yaml", "File that the pipeline is compiled to.")
    image: str = setting(
        "kerobust:latest", "Container image that has kerobust and its components."
    )
    run: bool = setting(
        False,
        "Also run it here, a subprocess per component, artifacts in --pipeline.root.",
    )


@dataclasses.dataclass(frozen=True)
class KfpSettings(PipelineSettings):
    """The settings of a pipeline, and those of the engine."""

    kfp: KfpConfig = KfpConfig()


def run(config: KfpSettings, dry_run: bool = False) -> int:
    """Compiles the pipeline, and runs it if asked to; returns the exit code.

    Raises:
        UserError: If Kubeflow Pipelines is not installed, or a component failed.
    """
    try:
        from kfp import compiler, local
    except ImportError as error:
        raise UserError(
            "`components.kfp` needs Kubeflow Pipelines, which is an extra. Received: "
            f"no package kfp ({error}). Install it: pip install 'kerobust[kfp]'."
        ) from error
    chosen = config.kfp
    made = kfp_pipeline(named(config.pipeline.name), config, chosen.image)
    if dry_run:
        return 0
    compiler.Compiler().compile(made, chosen.output)
    print(f"compiled: {chosen.output}", flush=True)
    if chosen.run:
        root = pathlib.Path(config.pipeline.root).absolute()
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root))
        made()
    return 0


def main(argv: list[str]) -> int:
    """Runs the command line `argv`; returns the exit code."""
    about = "Compiles a pipeline for Kubeflow: " + ", ".join(PIPELINES) + "."
    return flags.run(expanded(argv), run, about, settings=KfpSettings)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
