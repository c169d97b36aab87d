"""Training: the loop, optimizer, schedules and checkpoints that all methods share."""

from kerobust.training.checkpoints import Checkpoints
from kerobust.training.fit import Fitted, RunConfig, fit
from kerobust.training.optimizers import AdamW, layer_rate_scales
from kerobust.training.schedules import Ramp, WarmupCosine, scaled_rate

__all__ = [
    "AdamW",
    "Checkpoints",
    "Fitted",
    "Ramp",
    "RunConfig",
    "WarmupCosine",
    "fit",
    "layer_rate_scales",
    "scaled_rate",
]
