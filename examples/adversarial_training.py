"""Adversarial training and AutoAttack for a Keras model that knows nothing of kerobust.

A convolutional network is trained on 1,100 digits with `model.fit`, once as it is and
once on attacked images, and AutoAttack says what either withstands. Runs in a minute:

    python examples/adversarial_training.py
"""

import argparse

import tensorflow as tf

from kerobust.attacks import PGD, AutoAttack
from kerobust.data import DataConfig, load

EPSILON = 0.1


def network() -> tf.keras.Model:
    """Returns any Keras model from images in [0, 1] to logits: here, a small one."""
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            tf.keras.Input([8, 8, 3]),
            layers.Rescaling(2.0, offset=-1.0),  # Normalisation belongs into the model.
            layers.Conv2D(32, 3, activation="relu"),
            layers.Conv2D(32, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


class Adversarial(tf.keras.Model):
    """Trains a network on images that were attacked a moment before.

    Args:
        network: Images -> logits.
        attack: `Attack`.
    """

    def __init__(self, network: tf.keras.Model, attack: tf.keras.layers.Layer):
        super().__init__()
        self.network = network
        self.attack = attack

    def call(self, images, training=None):
        return self.network(images, training=training)

    def train_step(self, data):
        images, labels = data
        images = self.attack(images, labels, self.network)  # Before the tape.
        return super().train_step((images, labels))


def trained(model: tf.keras.Model, split, epochs: int) -> tf.keras.Model:
    """Returns the model after some epochs of the usual `fit`."""
    model.compile(
        optimizer=tf.keras.optimizers.Adam(2e-3),
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    images, labels = split.arrays()
    model.fit(images, labels, batch_size=64, epochs=epochs, verbose=0)
    return model


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Trains both networks; prints and returns their robust accuracies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30, help="of each training")
    parser.add_argument("--count", type=int, default=200, help="test images")
    options = parser.parse_args(argv)

    tf.keras.utils.set_random_seed(0)
    splits = load(DataConfig()).splits
    images, labels = splits["test"].thinned(options.count).arrays()
    plain = trained(network(), splits["train"], options.epochs)
    attack = PGD(EPSILON, steps=5)
    wrapped = Adversarial(network(), attack)
    robust = trained(wrapped, splits["train"], options.epochs).network

    suite, found = AutoAttack(EPSILON), {}
    for name, model in {"plain": plain, "adversarially trained": robust}.items():
        report = suite.evaluate(model, images, labels)
        found[name] = report.robust_accuracy
        print(
            f"{name}: {report.clean_accuracy:.1%} clean, "
            f"{report.robust_accuracy:.1%} under AutoAttack"
        )
        print(*report.findings, sep="\n")
    return found


if __name__ == "__main__":
    main()
