"""Downstream tasks: head, loss, metrics and attacks of each."""

from kerobust.tasks.base import Effort, Task
from kerobust.tasks.classification import Classification
from kerobust.tasks.depth import Depth
from kerobust.tasks.segmentation import Segmentation

TASKS = {
    "classification": Classification,
    "segmentation": Segmentation,
    "depth": Depth,
}

__all__ = ["TASKS", "Classification", "Depth", "Effort", "Segmentation", "Task"]
