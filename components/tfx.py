"""The pipelines in TFX itself, with its runner, its cache and its lineage.

    python -m components.tfx --pipeline=mimir --flagfile=...

TFX's light SDK (ml-pipelines-sdk) needs Python 3.10. TFX keeps lineage and cache
itself, so there is no last blessed model: name one by `--validate.baseline`.
"""

import json
import pathlib
import sys
from typing import Any

from kerobust import flags
from kerobust.config import UserError
from kerobust.experiment import ExperimentConfig

from .pipelines import PIPELINES, Pipeline, named, prepared
from .run import PipelineSettings, expanded


def tfx_pipeline(pipeline: Pipeline, config: ExperimentConfig, root: pathlib.Path):
    """Returns the pipeline as TFX knows it, with these flags inside.

    Args:
        pipeline: The pipeline.
        config: The settings.
        root: Folder of artifacts and of `tfx.sqlite`, made if needed.
    """
    from tfx.orchestration import metadata
    from tfx.orchestration.pipeline import Pipeline as TfxPipeline

    from .tfx_parts import tfx_component

    config = prepared(pipeline, config)
    made: dict[str, Any] = {}
    for node in pipeline.nodes:
        given = json.dumps(node.component.properties(config))
        made[node.name] = tfx_component(node, node.connected(made), given)
    root.mkdir(parents=True, exist_ok=True)
    return TfxPipeline(
        pipeline_name=f"kerobust-{pipeline.name}",
        pipeline_root=str(root),
        components=list(made.values()),
        enable_cache=True,
        metadata_connection_config=metadata.sqlite_metadata_connection_config(
            str(root / "tfx.sqlite")
        ),
    )


def run(config: PipelineSettings, dry_run: bool = False) -> int:
    """Runs the pipeline with TFX's local runner; returns the exit code.

    Raises:
        UserError: If TFX is not installed.
    """
    try:
        from tfx.orchestration.local.local_dag_runner import LocalDagRunner
    except ImportError as error:
        raise UserError(
            "`components.tfx` needs ml-pipelines-sdk, which is an extra for Python "
            f"3.10. Received: no package tfx ({error}). Install it there: "
            "pip install 'kerobust[tfx]'."
        ) from error
    root = pathlib.Path(config.pipeline.root).absolute()
    pipeline = tfx_pipeline(named(config.pipeline.name), config, root)
    if not dry_run:
        LocalDagRunner().run(pipeline)
    return 0


def main(argv: list[str]) -> int:
    """Runs the command line `argv`; returns the exit code."""
    about = "Runs a pipeline in TFX: " + ", ".join(PIPELINES) + "."
    return flags.run(expanded(argv), run, about, settings=PipelineSettings)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
