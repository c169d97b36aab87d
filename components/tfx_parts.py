"""Artifacts, specifications and the executor of the pipelines in TFX's own classes.

The standard artifacts of TFX cannot be made with its light SDK: these are types of
their own, with names of their own.
"""

from typing import Any

from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact, channel_utils, component_spec

from .pipelines import Node
from .step import execute


class Examples(artifact.Artifact):
    """See `artifacts.Examples`."""

    TYPE_NAME = "KerobustExamples"


class AdversarialExamples(artifact.Artifact):
    """See `artifacts.AdversarialExamples`."""

    TYPE_NAME = "KerobustAdversarialExamples"


class EncoderModel(artifact.Artifact):
    """See `artifacts.EncoderModel`."""

    TYPE_NAME = "KerobustEncoderModel"


class TaskModel(artifact.Artifact):
    """See `artifacts.TaskModel`."""

    TYPE_NAME = "KerobustTaskModel"


class RobustnessReport(artifact.Artifact):
    """See `artifacts.RobustnessReport`."""

    TYPE_NAME = "KerobustRobustnessReport"


class Blessing(artifact.Artifact):
    """See `artifacts.Blessing`."""

    TYPE_NAME = "KerobustBlessing"


class PushedModel(artifact.Artifact):
    """See `artifacts.PushedModel`."""

    TYPE_NAME = "KerobustPushedModel"


TYPES = {
    kind.__name__: kind
    for kind in (
        *(Examples, AdversarialExamples, EncoderModel, TaskModel),
        *(RobustnessReport, Blessing, PushedModel),
    )
}


class StepExecutor(base_executor.BaseExecutor):
    """Runs the executor of one of the components."""

    def Do(self, input_dict, output_dict, exec_properties):
        """See `BaseExecutor`; properties are `kind` and `flags` of `step.execute`."""
        folders = [
            {name: artifacts[0].uri for name, artifacts in part.items()}
            for part in (input_dict, output_dict)
        ]
        execute(exec_properties["kind"], exec_properties["flags"], *folders)


def tfx_component(node: Node, channels: dict[str, Any], flags: str) -> Any:
    """Returns a component of TFX.

    Args:
        node: What it does.
        channels: Input -> channel of an earlier component.
        flags: Flag name without dashes -> text, as JSON.
    """
    component = node.component
    outputs = {name: TYPES[k.TYPE_NAME] for name, k in component.SPEC.OUTPUTS.items()}
    spec = type(
        f"{component.__name__}Spec",
        (component_spec.ComponentSpec,),
        {
            "PARAMETERS": {
                name: component_spec.ExecutionParameter(type=str)
                for name in ("kind", "flags")
            },
            "INPUTS": {
                name: component_spec.ChannelParameter(type=channel.type)
                for name, channel in channels.items()
            },
            "OUTPUTS": {
                name: component_spec.ChannelParameter(type=kind)
                for name, kind in outputs.items()
            },
        },
    )
    made = type(
        component.__name__,
        (base_component.BaseComponent,),
        {
            "SPEC_CLASS": spec,
            "EXECUTOR_SPEC": executor_spec.ExecutorClassSpec(StepExecutor),
            "__doc__": component.__doc__,
        },
    )
    fresh = {name: channel_utils.as_channel([kind()]) for name, kind in outputs.items()}
    given = {"kind": component.__name__, "flags": flags}
    return made(spec(**channels, **fresh, **given)).with_id(node.name)
