"""The start of every stage: devices, data and the run folder."""

import dataclasses
import functools
import pathlib

import tensorflow as tf

from kerobust import run_folder
from kerobust.data import datasets
from kerobust.distribute import ensure_logical_cpus
from kerobust.experiment import ExperimentConfig


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A prepared experiment: settings, data and the folder it writes to."""

    config: ExperimentConfig
    source: datasets.DataSource
    workdir: pathlib.Path

    @functools.cached_property
    def labelled(self) -> datasets.Split:
        """The labelled training images that fine-tuning may use."""
        data, train = self.config.data, self.source.splits["train"]
        return datasets.labelled_subset(train, data.label_fraction, data.label_seed)


def prepare(config: ExperimentConfig, *, claim: bool = True) -> Experiment:
    """Sets up devices and precision, loads the data and claims the run folder."""
    ensure_logical_cpus(config.run.devices)
    if config.run.deterministic:
        tf.config.experimental.enable_op_determinism()
    tf.keras.mixed_precision.set_global_policy(config.run.mixed_precision)
    source = datasets.load(config.data)
    folder = pathlib.Path(config.run.workdir)
    if claim:
        run_folder.claim(config, source.digest)
    return Experiment(config, source, folder)
