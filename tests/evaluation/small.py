"""A classifier and splits small enough to attack in a test."""

import functools

import numpy as np
import tensorflow as tf

from kerobust.attacks import BALLS, AttackConfig
from kerobust.data import DataConfig, Split, load
from kerobust.data.arrays import Memory
from kerobust.evaluation import EvaluateConfig, fit_linear
from kerobust.randomness import uniform

THREAT = AttackConfig(epsilon=0.05)
QUICK = EvaluateConfig(
    steps=3, restarts=1, batch_size=25, epsilons=(0.05,), diagnose=False
)
ONE = QUICK.replace(attacks=("pgd",))


@functools.cache
def digits():
    """Returns the embedded digits."""
    return load(DataConfig())


def small_split(size: int = 60) -> Split:
    """Returns the first test images of the embedded digits."""
    return digits().splits["test"].subset(np.arange(size))


def relabelled(split: Split, labels, images=None) -> Split:
    """Returns the split with other labels, and other images if given."""
    images = split.arrays()[0] if images is None else images
    return Split(Memory(images), np.arange(split.size), labels, split.ids)


def linear_model(scale: float = 1.0) -> tf.keras.Model:
    """Returns a linear classifier of the digits, about 91 % right; logits * scale."""
    kernel, bias = _fitted()
    dense = tf.keras.layers.Dense(10)
    layers = [tf.keras.layers.Flatten(), tf.keras.layers.Dropout(0.5), dense]
    model = tf.keras.Sequential([tf.keras.layers.Input((8, 8, 3)), *layers])
    dense.set_weights([scale * kernel, scale * bias])
    return model


@functools.cache
def _fitted():
    images, labels = digits().splits["train"].arrays()
    return fit_linear(images.reshape(len(images), -1), labels, 10)


class Noise:
    """A stand-in for an attack that needs no compiling: noise of the right size."""

    ball = BALLS["linf"]

    def __init__(self, epsilon, **options):
        pass

    def __call__(self, images, labels, victim, *, epsilon, keys):
        signs = tf.sign(uniform(keys, images.shape[1:], -1.0, 1.0))
        return tf.clip_by_value(images + epsilon * signs, 0.0, 1.0)


def assert_same(first, second):
    """Asserts that two evaluations found the same, example by example."""
    np.testing.assert_array_equal(first.ids, second.ids)
    np.testing.assert_array_equal(first.clean, second.clean)
    assert first.robust.keys() == second.robust.keys()
    for name, flags in first.robust.items():
        np.testing.assert_array_equal(flags, second.robust[name], name)
    assert first.curve == second.curve
