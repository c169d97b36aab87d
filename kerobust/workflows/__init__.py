"""The stages of an experiment: the only places where pieces are put together."""

from kerobust.workflows.converting import ConvertConfig, convert
from kerobust.workflows.evaluating import evaluate
from kerobust.workflows.preparing import Experiment, prepare
from kerobust.workflows.running import run
from kerobust.workflows.training import baselines, finetune, pretrain

__all__ = [
    "ConvertConfig",
    "Experiment",
    "baselines",
    "convert",
    "evaluate",
    "finetune",
    "prepare",
    "pretrain",
    "run",
]
