"""Specification of `AdversarialGen`."""

from ..artifacts import AdversarialExamples, Examples, TaskModel
from ..base import Component, ComponentSpec
from .executor import AdversarialGenExecutor


class AdversarialGen(Component):
    """Attacks the images of `--perturb.splits`; what comes out can be trained on.

    Inputs:
        examples: `Examples`.
        model: `TaskModel`, what is attacked.

    Outputs:
        adversarial: `AdversarialExamples`.
    """

    NAME = "adversarial_gen"
    SPEC = ComponentSpec(
        INPUTS={"examples": Examples, "model": TaskModel},
        OUTPUTS={"adversarial": AdversarialExamples},
        PARAMETERS=("method", "attack.", "perturb.", "run.mixed_precision"),
    )
    EXECUTOR = AdversarialGenExecutor
