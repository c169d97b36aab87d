"""Attacks examples in a model."""

from kerobust.workflows.perturbing import perturb

from ..base import Executor
from ..execution import experiment


class AdversarialGenExecutor(Executor):
    """Calls the workflow `perturb`."""

    def Do(self, inputs, outputs, exec_properties):
        (model,), (adversarial,) = inputs["model"], outputs["adversarial"]
        perturb(
            experiment(
                exec_properties,
                adversarial.uri,
                stages=("perturb",),
                init_from=model.bundle,
                examples=inputs["examples"],
            )
        )
