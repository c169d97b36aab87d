"""Trains what `--method` starts from."""

from kerobust import workflows

from ..base import Executor
from ..execution import finish, settings


class StartExecutor(Executor):
    """Calls the workflow of the command `train` with the stage start."""

    def Do(self, inputs, outputs, exec_properties):
        (model,) = outputs["model"]
        config = settings(
            exec_properties, model.uri, stages=("start",), examples=inputs["examples"]
        )
        finish(workflows.run(config))
