"""Specifications of `Pretrain` and `PretrainEnsemble`."""

from ..artifacts import EncoderModel, Examples, Model, TaskModel
from ..base import Component, ComponentSpec
from .executor import PretrainExecutor

_PARAMETERS = (
    *("method", "model.", "conv.", "attack.", "pretrain.", "views."),
    *("dino.", "rodino.", "deacl.", "fare.", "multi.", "mae.", "mimir."),
    *("ensemble.", "dverge."),
    *("run.seed", "run.mixed_precision", "run.init_from"),
    *("data.label_fraction", "data.label_seed", "data.pretrain_validation"),
)


class Pretrain(Component):
    """Trains an encoder by `--method`.

    Inputs:
        examples: `Examples`.
        start: What it starts from, such as a teacher; optional, `--run.init_from`
            names a bundle instead.

    Outputs:
        model: `EncoderModel`.
    """

    NAME = "pretrain"
    SPEC = ComponentSpec(
        INPUTS={"examples": Examples, "start": Model},
        OUTPUTS={"model": EncoderModel},
        PARAMETERS=_PARAMETERS,
        OPTIONAL=("start",),
    )
    EXECUTOR = PretrainExecutor


class PretrainEnsemble(Pretrain):
    """The same for methods that train classifiers: `ensemble`, `dverge`.

    Inputs:
        examples: `Examples`.
        start: Natural members; optional.

    Outputs:
        model: `TaskModel`.
    """

    SPEC = ComponentSpec(
        INPUTS={"examples": Examples, "start": Model},
        OUTPUTS={"model": TaskModel},
        PARAMETERS=_PARAMETERS,
        OPTIONAL=("start",),
    )
