"""Attacks a model."""

from kerobust import workflows

from ..base import Executor
from ..execution import finish, settings


class EvaluateExecutor(Executor):
    """Calls the workflow of the command `evaluate`."""

    def Do(self, inputs, outputs, exec_properties):
        (model,), (report,) = inputs["model"], outputs["report"]
        config = settings(
            exec_properties,
            report.uri,
            stages=("evaluate",),
            init_from=model.bundle,
            examples=inputs["examples"],
        )
        finish(workflows.run(config))
