"""Ensembles of planes whose members, and whose fall, are known."""

import numpy as np
import tensorflow as tf

from kerobust.models import Ensemble

EPSILON = 0.05


class Plane(tf.keras.Model):
    """Says factor * (1 + w . (x - 0.5), 0, -1) about images [B, 8, 8, 1]."""

    def __init__(self, weights, factor):
        super().__init__()
        self.weights_of_pixels = np.float32(weights)
        self.factor = factor

    def call(self, images, training=None, keys=None):
        flat = tf.reshape(images, [-1, 64]) - 0.5
        score = 1.0 + tf.linalg.matvec(flat, self.weights_of_pixels)
        none = tf.zeros_like(score)
        return self.factor * tf.stack([score, none, none - 1.0], axis=1)


def planes(combine: str, factor: float = 1e3) -> Ensemble:
    """Returns three saturated members that an epsilon of 0.05 takes far beyond 0.

    Each loses up to 0.05 * (about 64), three times its score of about 1 on grey images;
    random noise of that size changes it by about 0.26.
    """
    generator = np.random.default_rng(0)
    weights = 1.0 + 0.5 * generator.normal(size=[3, 64])
    return Ensemble([Plane(each, factor) for each in weights], combine=combine)


def grey(count: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Returns nearly grey images float32 [count, 8, 8, 1] and their labels, all 0."""
    noise = np.random.default_rng(1).uniform(-0.01, 0.01, [count, 8, 8, 1])
    return np.float32(0.5 + noise), np.zeros([count], np.int32)
