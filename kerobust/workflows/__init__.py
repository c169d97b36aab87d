"""The stages of an experiment: the only places where pieces are put together."""

from kerobust.workflows.evaluating import evaluate
from kerobust.workflows.preparing import Experiment, prepare
from kerobust.workflows.running import run
from kerobust.workflows.training import baselines, finetune, pretrain

__all__ = [
    "Experiment",
    "baselines",
    "evaluate",
    "finetune",
    "prepare",
    "pretrain",
    "run",
]
