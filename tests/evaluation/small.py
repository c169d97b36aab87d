"""A classifier and splits small enough to attack in a test."""

import functools

import numpy as np
import tensorflow as tf

from kerobust.data import DataConfig, Split, load
from kerobust.data.arrays import Memory
from kerobust.evaluation import fit_linear


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
