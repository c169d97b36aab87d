"""Victims with known answers, and the embedded network that others attacked too."""

import hashlib
import pathlib

import numpy as np
import tensorflow as tf

from kerobust.attacks import Objective
from kerobust.distribute import ensure_logical_cpus

ensure_logical_cpus(2)

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
DIGESTS = {
    "attacks_data": "3e718793fbc1c7696ecbd4f4f658347a700f435f09e839c73ad6fa83b4618f5a",
    "attacks_weights": (
        "7ea486b0f82ee4c79922fede85de4e197076b47fffd5aeb3d8cc99a3cbad1c7a"
    ),
    "attacks_reference": (
        "2f3084afff4667b2c5fdf529b3645af5bc3719bbe1b6948e2d91de2bded39dab"
    ),
    "attacks_suite": (
        "6b550087539c0d501f6ed0f701dfe8dd4f9ceadf900db0b7fb40eaab3f3c7184"
    ),
}

# Settings with which sweeps over ATTACKS take seconds.
CHEAP = {"autopgd": {"steps": 10}, "fab": {"steps": 8}, "square": {"queries": 60}}


def golden(name: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a golden file after checking its digest."""
    path = GOLDENS / f"{name}.npz"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == DIGESTS[name]
    with np.load(path) as arrays:
        return {key: arrays[key] for key in arrays.files}


def digits(count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first images float32 [count, 8, 8, 1] and labels int64 [count]."""
    data = golden("attacks_data")
    return data["images"][:count], data["labels"][:count]


def convnet() -> tf.keras.Model:
    """Returns the adversarially trained network of the goldens."""
    layers = tf.keras.layers
    network = tf.keras.Sequential(
        [
            tf.keras.Input([8, 8, 1]),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )
    network.set_weights(list(golden("attacks_weights").values()))
    return network


def small_network(classes: int = 3) -> tf.keras.Model:
    """Returns an untrained network on [2, 2, 1] with batch norm and dropout."""
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            tf.keras.Input([2, 2, 1]),
            layers.Flatten(),
            layers.Dense(8),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(classes),
        ]
    )


def small_batch(rows: int = 4) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns images float32 [rows, 2, 2, 1] and labels int32 [rows] in 0..2."""
    generator = np.random.default_rng(7)
    images = generator.uniform(0.2, 0.8, [rows, 2, 2, 1]).astype(np.float32)
    return tf.constant(images), tf.constant(np.arange(rows) % 3, tf.int32)


class Linear(Objective):
    """w.x per example: its maximum in a ball is epsilon times the dual norm of w."""

    def __init__(self, weights):
        self.weights = np.asarray(weights, np.float32)

    def outputs(self, images):
        return tf.linalg.matvec(
            tf.reshape(images, [-1, self.weights.size]), self.weights
        )

    def values(self, outputs, targets):
        return outputs


class Counting(Objective):
    """Counts how often it is asked for outputs, inside compiled code too."""

    def __init__(self, inner: Objective):
        self.inner = inner
        self.forwards = tf.Variable(0)
        self.traces = 0

    def outputs(self, images):
        self.traces += 1
        self.forwards.assign_add(1)
        return self.inner.outputs(images)

    def values(self, outputs, targets):
        return self.inner.values(outputs, targets)

    def fooled(self, outputs, targets):
        return self.inner.fooled(outputs, targets)

    def predictions(self, outputs):
        return self.inner.predictions(outputs)


class LinearLogits:
    """Maps images to x . W + b: boundaries are planes."""

    def __init__(self, weights, bias):
        self.weights, self.bias = np.float32(weights), np.float32(bias)

    def __call__(self, images):
        return tf.reshape(images, [-1, len(self.weights)]) @ self.weights + self.bias


def wheel(classes=3):
    """Returns a linear victim on [2, 2, 1] whose regions all meet at the grey image."""
    weights = np.random.default_rng(classes).normal(size=[4, classes])
    return LinearLogits(weights, -0.5 * weights.sum(axis=0))


class Counted:
    """Counts the calls of a victim, in the graph and when traced."""

    def __init__(self, victim):
        self.victim, self.forwards, self.traces = victim, tf.Variable(0), 0

    def __call__(self, images):
        self.traces += 1
        self.forwards.assign_add(1)
        return self.victim(images)
