"""Attacks on the embedded network against what the original implementations found."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import FGSM, PGD, CrossEntropy, MomentumPGD
from tests.attacks.victims import convnet, digits, golden

OPTIONS = {"step_size": 0.05, "random_start": False}
L2 = {"norm": "l2", "step_size": 0.125, "random_start": False}
LINF_NAME, L2_NAME = "pgd_linf_eps0.2_alpha0.05", "pgd_l2_eps0.5_alpha0.125"


@pytest.fixture(scope="module")
def reference():
    return golden("attacks_reference")


@pytest.fixture(scope="module")
def network():
    return convnet()


def test_logits_and_losses_agree(reference, network):
    images, labels = digits()
    objective = CrossEntropy(network)

    outputs = objective.outputs(tf.constant(images))

    np.testing.assert_allclose(outputs, reference["logits"], atol=1e-4)
    values = objective.values(outputs, tf.constant(labels))
    np.testing.assert_allclose(values, reference["loss_ce"], atol=1e-4)


def test_input_gradients_agree(reference, network):
    images, labels = digits()
    images = tf.constant(images)

    with tf.GradientTape() as tape:
        tape.watch(images)
        values = CrossEntropy(network)(images, tf.constant(labels))
    gradient = tape.gradient(values, images)

    np.testing.assert_allclose(gradient, reference["grad_ce"], atol=1e-4)


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (FGSM(0.2), "fgsm_linf_eps0.2"),
        *(
            (PGD(0.2, steps=n, **OPTIONS), f"{LINF_NAME}_steps{n}_norand")
            for n in (1, 5, 10, 20)
        ),
        *(
            (PGD(0.5, steps=n, **L2), f"{L2_NAME}_steps{n}_norand")
            for n in (1, 5, 10, 20)
        ),
        (
            MomentumPGD(0.2, steps=10, decay=1.0, **OPTIONS),
            "mifgsm_linf_eps0.2_alpha0.05_decay1_steps10",
        ),
    ],
)
def test_adversarial_images_agree(reference, network, attack, name):
    images, labels = digits()

    adversarial = attack(images, labels, network).numpy()

    difference = np.abs(adversarial - reference[name]).max(axis=(1, 2, 3))
    assert (difference <= 1e-4).mean() >= 0.99
    correct = network(adversarial).numpy().argmax(axis=1) == labels
    assert (correct == reference[f"{name}__flags"]).mean() >= 0.99
