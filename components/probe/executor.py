"""Trains a classifier on an encoder."""

from kerobust import workflows

from ..base import Executor
from ..execution import finish, settings


class ProbeExecutor(Executor):
    """Calls the workflow of the command `probe` with the stage finetune."""

    def Do(self, inputs, outputs, exec_properties):
        (encoder,), (model,) = inputs["encoder"], outputs["model"]
        config = settings(
            exec_properties,
            model.uri,
            stages=("finetune",),
            init_from=encoder.bundle,
            examples=inputs["examples"],
        )
        finish(workflows.run(config))
