"""Two updates of any method: what devices and workers must agree on."""

import functools

import numpy as np
import tensorflow as tf

from kerobust.attacks import AttackConfig
from kerobust.data import datasets
from kerobust.data.views import training_batches
from kerobust.distribute import strategy, workers
from kerobust.methods import METHODS
from kerobust.methods.finetune import Finetune, FinetuneConfig
from kerobust.tasks import Classification
from tests.methods.tiny import tiny_classifier, tiny_pretraining

BATCH = 16
WHITENED = "multi_whitened"
NAMES = (*METHODS, WHITENED, "natural", "fast", "pgd", "trades")


def make_method(name: str):
    if name == WHITENED:
        # Much shrinkage: else rounding is magnified with the smallest directions.
        given = {"distance": "whitened", "shrinkage": 10.0}
        return tiny_pretraining("multi", multi=given)
    if name in METHODS:
        return tiny_pretraining(name, mi_batch=BATCH // 2)
    config = FinetuneConfig(attack=name, attack_steps=2, drop_path=0.5)
    return Finetune(
        tiny_classifier(drop_path=0.5), Classification(10), config, AttackConfig(), 4
    )


@functools.cache
def weights_on_one_device(name: str) -> list[np.ndarray]:
    return weights_after_two_steps(name)


def weights_after_two_steps(
    name: str, devices: int = 1, accumulation_steps: int = 1, wrap=lambda given: given
) -> list[np.ndarray]:
    split = datasets.load(datasets.DataConfig()).splits["train"]
    with strategy(devices).scope():
        tf.keras.utils.set_random_seed(0)
        method = make_method(name)
        method.compile(optimizer=wrap(tf.keras.optimizers.SGD(0.1)))
        method.accumulation_steps = accumulation_steps
    method.study(split)
    batches = training_batches(
        split,
        batch_size=BATCH,
        steps=2,
        seed=3,
        views=method.view_maker,
        partners=method.PARTNERS,
        shares=workers().shares,
    )
    batches = workers().distributed(batches)
    method.fit(batches, epochs=1, steps_per_epoch=2, verbose=0)
    return [variable.numpy() for variable in method.trained_variables()]
