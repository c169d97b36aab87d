"""Specifications of `Start` and `StartEnsemble`."""

from ..artifacts import EncoderModel, Examples, TaskModel
from ..base import Component, ComponentSpec
from .executor import StartExecutor

_PARAMETERS = (
    *("method", "model.", "conv.", "start.", "views.", "dino.", "ensemble."),
    *("run.seed", "run.mixed_precision"),
    *("data.label_fraction", "data.label_seed", "data.pretrain_validation"),
)


class Start(Component):
    """Trains the encoder that `--method` starts from, such as DeACL's teacher.

    Inputs:
        examples: `Examples`.

    Outputs:
        model: `EncoderModel`.
    """

    NAME = "start"
    SPEC = ComponentSpec(
        INPUTS={"examples": Examples},
        OUTPUTS={"model": EncoderModel},
        PARAMETERS=_PARAMETERS,
    )
    EXECUTOR = StartExecutor


class StartEnsemble(Start):
    """Trains the natural ensemble that `dverge` starts from.

    Inputs:
        examples: `Examples`.

    Outputs:
        model: `TaskModel`.
    """

    SPEC = ComponentSpec(
        INPUTS={"examples": Examples},
        OUTPUTS={"model": TaskModel},
        PARAMETERS=_PARAMETERS,
    )
