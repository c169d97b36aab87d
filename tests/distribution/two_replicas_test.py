"""The same update on one device and on two, for every method."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import AttackConfig
from kerobust.data import datasets
from kerobust.data.views import training_batches
from kerobust.distribute import strategy
from kerobust.methods import METHODS
from kerobust.methods.finetune import Finetune, FinetuneConfig
from kerobust.tasks import Classification
from tests.methods.tiny import tiny_classifier, tiny_pretraining

BATCH = 16
FAST = ("mimir", "natural")  # What the others do differently is little.
ROWS = [
    pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST))
    for name in (*METHODS, "natural", "fast", "pgd", "trades")
]


def make_method(name: str):
    if name in METHODS:
        return tiny_pretraining(name, mi_batch=BATCH // 2)
    config = FinetuneConfig(attack=name, attack_steps=2, drop_path=0.5)
    return Finetune(
        tiny_classifier(drop_path=0.5), Classification(10), config, AttackConfig(), 4
    )


def weights_after_two_steps(name: str, devices: int) -> list[np.ndarray]:
    split = datasets.load(datasets.DataConfig()).splits["train"]
    scope = strategy(devices)
    with scope.scope():
        tf.keras.utils.set_random_seed(0)
        method = make_method(name)
        method.compile(optimizer=tf.keras.optimizers.SGD(0.1))
    given = {"views": method.view_maker, "partners": method.PARTNERS}
    batches = training_batches(split, batch_size=BATCH, steps=2, seed=3, **given)
    method.fit(batches, epochs=1, steps_per_epoch=2, verbose=0)
    return [variable.numpy() for variable in method.trained_variables()]


@pytest.mark.parametrize("name", ROWS)
def test_two_devices_make_the_update_of_one(name):
    one = weights_after_two_steps(name, 1)
    two = weights_after_two_steps(name, 2)

    for first, second in zip(one, two, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-6, atol=1e-6)
