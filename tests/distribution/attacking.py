"""An AutoAttack on a small random network: what workers must find together."""

import numpy as np
import tensorflow as tf

from kerobust.attacks.autoattack import AutoAttack
from kerobust.data import datasets

SIZE, BATCH = 26, 8  # The last batch is short, and one worker has one batch less.


def network(seed: int = 1) -> tf.keras.Model:
    tf.keras.utils.set_random_seed(seed)
    return tf.keras.Sequential(
        [
            tf.keras.layers.Flatten(input_shape=(8, 8, 3)),
            tf.keras.layers.Dense(16, "relu"),
            tf.keras.layers.Dense(10),
        ]
    )


def found(
    state_dir=None, version: str = "standard", seed: int = 1
) -> dict[str, np.ndarray]:
    """Returns what AutoAttack reports, example by example."""
    test = datasets.load(datasets.DataConfig()).splits["test"]
    images, _ = test.thinned(SIZE).arrays()
    model = network(seed)
    # Labels that the network has right, but for two.
    labels = model(images).numpy().argmax(1)
    labels[:2] = (labels[:2] + 1) % 10
    only = None if version == "standard" else ["apgd-ce", "square"]
    suite = AutoAttack(0.02, "linf", version, attacks=only)
    report = suite.evaluate(
        model,
        images,
        labels,
        batch_size=BATCH,
        state_dir=state_dir,
        diagnose=False,
        return_adversarial=True,
    )
    return {
        "robust": report.robust,
        "broken_by": report.broken_by,
        "adversarial": report.adversarial,
    }
