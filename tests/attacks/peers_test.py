"""The same deterministic PGD in Foolbox and ART on the embedded network."""

import warnings

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import PGD
from tests.attacks.victims import convnet, digits

# (norm, epsilon, step size, steps)
CASES = [("linf", 0.1, 0.02, 10), ("linf", 0.15, 0.05, 20), ("l2", 0.6, 0.1, 15)]

pytestmark = pytest.mark.slow


def robust_accuracy(network, adversarial, labels):
    return (network(adversarial).numpy().argmax(axis=1) == labels).mean()


def own(network, images, labels, norm, epsilon, step_size, steps):
    attack = PGD(
        epsilon, norm=norm, step_size=step_size, steps=steps, random_start=False
    )
    return robust_accuracy(network, attack(images, labels, network), labels)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.filterwarnings("ignore")  # Of imports in a library that we do not ship.
def test_foolbox_agrees_within_half_a_point(case):
    foolbox = pytest.importorskip("foolbox")
    norm, epsilon, step_size, steps = case
    images, labels = digits()
    network = convnet()
    kinds = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}
    attack = kinds[norm](abs_stepsize=step_size, steps=steps, random_start=False)
    model = foolbox.TensorFlowModel(network, bounds=(0, 1))

    _, adversarial, _ = attack(
        model, tf.constant(images), tf.constant(labels), epsilons=epsilon
    )

    theirs = robust_accuracy(network, adversarial, labels)
    assert abs(own(network, images, labels, *case) - theirs) <= 0.005 + 1e-9
    assert 0.05 < theirs < 0.95


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.filterwarnings("ignore")  # Of imports in a library that we do not ship.
def test_art_agrees_within_half_a_point(case):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evasion = pytest.importorskip("art.attacks.evasion")
        estimators = pytest.importorskip("art.estimators.classification")
    norm, epsilon, step_size, steps = case
    images, labels = digits()
    network = convnet()
    classifier = estimators.TensorFlowV2Classifier(
        model=network,
        nb_classes=10,
        input_shape=(8, 8, 1),
        loss_object=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        clip_values=(0, 1),
    )
    attack = evasion.ProjectedGradientDescent(
        classifier,
        norm={"linf": np.inf, "l2": 2}[norm],
        eps=epsilon,
        eps_step=step_size,
        max_iter=steps,
        num_random_init=0,
        batch_size=200,
        verbose=False,
    )

    adversarial = attack.generate(images, labels)

    theirs = robust_accuracy(network, adversarial, labels)
    assert abs(own(network, images, labels, *case) - theirs) <= 0.005 + 1e-9
    assert 0.05 < theirs < 0.95
