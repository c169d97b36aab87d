"""The same PGD from several libraries, each called the way its documentation says.

To add a contender write a function from `Problem` to a callable and name it in
`CONTENDERS`. The callable makes one attack and returns the attacked images.
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from kerobust.attacks import PGD

BOUND, OWN, HALF = "bound", "kerobust", "kerobust bfloat16"
PACKAGES = ("cleverhans", "foolbox", "adversarial-robustness-toolbox")


@dataclasses.dataclass(frozen=True)
class Problem:
    """What every contender attacks, and how.

    Attributes:
        network: Keras model, images to logits.
        images: float32 [B, H, W, C] in [0, 1].
        labels: int32 [B].
        steps: Gradient steps from a random start.
        epsilon: Linf radius, pixel units.
        step_size: Length of a step, pixel units.
    """

    network: tf.keras.Model
    images: tf.Tensor
    labels: tf.Tensor
    steps: int = 10
    epsilon: float = 8 / 255
    step_size: float = 2 / 255


def bound(problem: Problem) -> Callable:
    """Makes the passes of the attack and nothing else: forward and input gradient."""

    @tf.function(autograph=False)
    def gradient(images, labels):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            logits = problem.network(images, training=False)
            values = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        return tape.gradient(values, images)

    def run():
        for _ in range(problem.steps):
            result = gradient(problem.images, problem.labels)
        return result

    return run


def kerobust(problem: Problem) -> Callable:
    """Makes the attack of this library."""
    return _own(problem, "float32")


def kerobust_bfloat16(problem: Problem) -> Callable:
    """Makes the attack of this library with the victim in bfloat16."""
    return _own(problem, "bfloat16")


def cleverhans(problem: Problem) -> Callable:
    """Makes the attack of CleverHans, without its sanity checks."""
    with _quiet():
        from cleverhans.tf2.attacks.projected_gradient_descent import (
            projected_gradient_descent,
        )

    return lambda: projected_gradient_descent(
        problem.network,
        problem.images,
        problem.epsilon,
        problem.step_size,
        problem.steps,
        np.inf,
        clip_min=0.0,
        clip_max=1.0,
        y=problem.labels,
        rand_init=True,
        sanity_checks=False,
    )


def foolbox(problem: Problem) -> Callable:
    """Makes the attack of Foolbox through `run`, which judges no results."""
    with _quiet():
        import foolbox as library

    device = problem.images.device  # Else it looks for GPUs in a deprecated way.
    model = library.TensorFlowModel(problem.network, bounds=(0, 1), device=device)
    attack = library.attacks.LinfPGD(
        abs_stepsize=problem.step_size, steps=problem.steps, random_start=True
    )
    return lambda: attack.run(
        model, problem.images, problem.labels, epsilon=problem.epsilon
    )


def art_tensorflow(problem: Problem) -> Callable:
    """Makes the TensorFlow attack of ART, from and to arrays."""
    return _art("ProjectedGradientDescentTensorFlowV2", problem)


def art_numpy(problem: Problem) -> Callable:
    """Makes the framework-independent attack of ART, from and to arrays."""
    return _art("ProjectedGradientDescentNumpy", problem)


CONTENDERS: dict[str, Callable[[Problem], Callable]] = {
    BOUND: bound,
    OWN: kerobust,
    HALF: kerobust_bfloat16,
    "CleverHans": cleverhans,
    "Foolbox": foolbox,
    "ART TensorFlow": art_tensorflow,
    "ART NumPy": art_numpy,
}


def strength(problem: Problem, attacked) -> dict[str, float]:
    """Returns how far attacked images [B, H, W, C] moved and what that did.

    Returns:
        dict: "distance" (largest change of a pixel), "outside" (how far pixels leave
        [0, 1]), "cross_entropy" (mean) and "fooled" (share of the images).
    """
    attacked = tf.convert_to_tensor(attacked)
    logits = problem.network(attacked, training=False)
    values = tf.nn.sparse_softmax_cross_entropy_with_logits(problem.labels, logits)
    found = tf.argmax(logits, axis=1, output_type=tf.int32)
    outside = tf.maximum(tf.reduce_max(attacked) - 1.0, -tf.reduce_min(attacked))
    return {
        "distance": float(tf.reduce_max(tf.abs(attacked - problem.images))),
        "outside": max(0.0, float(outside)),
        "cross_entropy": float(tf.reduce_mean(values)),
        "fooled": float(np.mean(found != problem.labels)),
    }


def _own(problem: Problem, precision: str) -> Callable:
    attack = PGD(
        problem.epsilon,
        steps=problem.steps,
        step_size=problem.step_size,
        precision=precision,
    )
    return lambda: attack(problem.images, problem.labels, problem.network)


def _art(name: str, problem: Problem) -> Callable:
    with _quiet():
        from art.attacks import evasion
        from art.estimators.classification import TensorFlowV2Classifier

    logits = problem.network(problem.images[:1], training=False)
    classifier = TensorFlowV2Classifier(
        model=problem.network,
        nb_classes=int(logits.shape[-1]),
        input_shape=tuple(problem.images.shape[1:]),
        loss_object=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        clip_values=(0, 1),
    )
    attack = getattr(evasion, name)(
        classifier,
        norm=np.inf,
        eps=problem.epsilon,
        eps_step=problem.step_size,
        max_iter=problem.steps,
        num_random_init=1,
        batch_size=len(problem.images),
        verbose=False,
    )
    images, labels = problem.images.numpy(), problem.labels.numpy()
    return lambda: attack.generate(images, labels)


@contextlib.contextmanager
def _quiet():
    """Ignores what importing the peers warns of; none of it concerns the attacks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
