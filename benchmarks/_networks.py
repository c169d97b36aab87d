"""Untrained victims of usual shapes: good for speed and memory, not for robustness."""

import tensorflow as tf

from kerobust.models.heads import Classifier, ClassifierHead
from kerobust.models.vit import VitConfig

SHAPE = (32, 32, 3)
CLASSES = 10
# Filters and stride of each convolution; 0.28 million parameters.
_CONVOLUTIONS = ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1))


def convnet() -> tf.keras.Model:
    """Returns five batch-normed convolutions and a linear classifier."""
    layers = tf.keras.layers
    network = tf.keras.Sequential([tf.keras.Input(SHAPE)], name="convnet")
    for filters, stride in _CONVOLUTIONS:
        network.add(
            layers.Conv2D(filters, 3, stride, padding="same", use_bias=False),
        )
        # Without momentum, one forward sets the statistics: see `settle`.
        network.add(layers.BatchNormalization(momentum=0.0))
        network.add(layers.ReLU())
    network.add(layers.GlobalAveragePooling2D())
    network.add(layers.Dense(CLASSES))
    return network


def vit() -> tf.keras.Model:
    """Returns ViT-Tiny with patches of 4 pixels as fine-tuning has it, 5.36 M."""
    encoder = VitConfig(size="tiny", patch_size=4).build(
        SHAPE, final_norm=False, train_positions=True
    )
    return Classifier(encoder, ClassifierHead(CLASSES))


NETWORKS = {"convnet": convnet, "vit": vit}


def random_images(count: int, seed: int = 1) -> tf.Tensor:
    """Returns images float32 [count, 32, 32, 3] of uniform noise."""
    return tf.random.stateless_uniform([count, *SHAPE], [seed, 0])


def settle(network: tf.keras.Model, images: tf.Tensor) -> tf.Tensor:
    """Gives batch norm its statistics and returns the predictions, int32 [B].

    As labels, the predictions leave the attack as much to do as a trained victim would.
    """
    network(images, training=True)
    return tf.argmax(network(images, training=False), axis=1, output_type=tf.int32)
