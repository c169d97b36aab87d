"""The stages of an experiment: the only places where pieces are put together."""

from kerobust.workflows.evaluating import evaluate
from kerobust.workflows.preparing import Experiment, prepare
from kerobust.workflows.running import run
from kerobust.workflows.training import Stopped, baselines, finetune, pretrain
