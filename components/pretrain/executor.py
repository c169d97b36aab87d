"""Trains by `--method`."""

from kerobust import workflows

from ..base import Executor
from ..execution import finish, settings


class PretrainExecutor(Executor):
    """Calls the workflow of the command `train` with the stage pretrain."""

    def Do(self, inputs, outputs, exec_properties):
        (model,) = outputs["model"]
        start = inputs.get("start")
        config = settings(
            exec_properties,
            model.uri,
            stages=("pretrain",),
            init_from=start[0].bundle if start else None,
            examples=inputs["examples"],
        )
        finish(workflows.run(config))
