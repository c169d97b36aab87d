"""Images and labels: data sets, splits, augmentation and batches."""

from kerobust.data.augmentations import AUGMENTATIONS
from kerobust.data.datasets import DataConfig, DataSource, load
from kerobust.data.splits import Split
from kerobust.data.stratify import labelled_subset
from kerobust.data.views import evaluation_batches, training_batches

__all__ = [
    "AUGMENTATIONS",
    "DataConfig",
    "DataSource",
    "Split",
    "evaluation_batches",
    "labelled_subset",
    "load",
    "training_batches",
]
