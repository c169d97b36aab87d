"""Specification of `Probe`."""

from ..artifacts import EncoderModel, Examples, TaskModel
from ..base import Component, ComponentSpec
from .executor import ProbeExecutor


class Probe(Component):
    """Trains a classifier on an encoder, frozen or not, as `--finetune.` says.

    Inputs:
        examples: `Examples`.
        encoder: `EncoderModel`.

    Outputs:
        model: `TaskModel`.
    """

    NAME = "probe"
    SPEC = ComponentSpec(
        INPUTS={"examples": Examples, "encoder": EncoderModel},
        OUTPUTS={"model": TaskModel},
        PARAMETERS=(
            *("finetune.", "attack.", "run.seed", "run.mixed_precision"),
            *("data.label_fraction", "data.label_seed"),
        ),
    )
    EXECUTOR = ProbeExecutor
