"""Specification of `Validate`."""

from ..artifacts import Blessing, Examples, RobustnessReport, TaskModel
from ..base import Component, ComponentSpec
from .executor import ValidateExecutor


class Validate(Component):
    """Blesses a model whose report keeps to `--validate.`.

    Inputs:
        examples: `Examples` of the report.
        model: `TaskModel` of the report.
        report: `RobustnessReport`.
        baseline: `RobustnessReport` of the model that was blessed last; optional.

    Outputs:
        blessing: `Blessing`.
    """

    NAME = "validate"
    SPEC = ComponentSpec(
        INPUTS={
            "examples": Examples,
            "model": TaskModel,
            "report": RobustnessReport,
            "baseline": RobustnessReport,
        },
        OUTPUTS={"blessing": Blessing},
        PARAMETERS=("method", "validate."),
        OPTIONAL=("baseline",),
    )
    EXECUTOR = ValidateExecutor
