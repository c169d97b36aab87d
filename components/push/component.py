"""Specification of `Push`."""

from ..artifacts import Blessing, Examples, PushedModel, RobustnessReport, TaskModel
from ..base import Component, ComponentSpec
from .executor import PushExecutor


class Push(Component):
    """Writes a blessed model as the next version in `--push.dir`.

    Inputs:
        examples, model, report: What the blessing is about.
        blessing: `Blessing`.

    Outputs:
        pushed: `PushedModel`.
    """

    NAME = "push"
    SPEC = ComponentSpec(
        INPUTS={
            "examples": Examples,
            "model": TaskModel,
            "report": RobustnessReport,
            "blessing": Blessing,
        },
        OUTPUTS={"pushed": PushedModel},
        PARAMETERS=("method", "push.", "evaluate.split", "evaluate.seed"),
    )
    EXECUTOR = PushExecutor
