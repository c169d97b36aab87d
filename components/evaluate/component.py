"""Specification of `Evaluate`."""

from ..artifacts import Examples, RobustnessReport, TaskModel
from ..base import Component, ComponentSpec
from .executor import EvaluateExecutor


class Evaluate(Component):
    """Attacks a model and writes the report with masking diagnostics.

    Inputs:
        examples: `Examples`, clean ones.
        model: `TaskModel`.

    Outputs:
        report: `RobustnessReport`.
    """

    NAME = "evaluate"
    SPEC = ComponentSpec(
        INPUTS={"examples": Examples, "model": TaskModel},
        OUTPUTS={"report": RobustnessReport},
        PARAMETERS=(
            *("method", "evaluate.", "represent.", "diversity.", "attack."),
            *("run.mixed_precision", "data.label_fraction", "data.label_seed"),
        ),
    )
    EXECUTOR = EvaluateExecutor
