"""The start of every stage: devices, precision and data."""

import dataclasses
import functools
import pathlib

import tensorflow as tf

from kerobust.data import datasets
from kerobust.distribute import start
from kerobust.experiment import ExperimentConfig


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A prepared experiment: settings, data and the folder it writes to."""

    config: ExperimentConfig
    source: datasets.DataSource
    workdir: pathlib.Path

    @functools.cached_property
    def unlabelled(self) -> datasets.Split:
        """The images that pretraining sees; it reads no labels."""
        splits = self.source.splits
        if not self.config.data.pretrain_validation:
            return splits["train"]
        return splits["train"].joined(splits["validation"])

    @functools.cached_property
    def labelled(self) -> datasets.Split:
        """The labelled training images that fine-tuning may use."""
        data, train = self.config.data, self.source.splits["train"]
        return datasets.labelled_subset(train, data.label_fraction, data.label_seed)


def prepare(config: ExperimentConfig) -> Experiment:
    """Sets up devices, workers and precision and loads the data; writes nothing."""
    workers = start(config.run.devices)
    _check_shares(config, workers.place.count)
    if config.run.deterministic:
        tf.config.experimental.enable_op_determinism()
    tf.keras.mixed_precision.set_global_policy(config.run.mixed_precision)
    # What one worker downloads, the next ones may find.
    load = workers.in_turn if config.data.download else lambda work: work()
    source = load(lambda: datasets.load(config.data))
    return Experiment(config, source, pathlib.Path(config.run.workdir))


def _check_shares(config: ExperimentConfig, workers: int) -> None:
    """Refuses trainings whose steps these workers and devices cannot share."""
    stages, devices = set(config.run.stages), config.run.devices
    trained = {
        "start": config.start,
        "pretrain": config.pretrain,
        "finetune": config.finetune,
        "baselines": config.finetune,
    }
    for name in trained.keys() & stages:
        trained[name].check_shares(workers, devices)
    config.run.require(
        workers == 1 or not config.run.jit_compile,
        "jit_compile",
        f"must be false with {workers} workers",
        "XLA cannot compile a step that is shared by several devices.",
    )
