"""How strong attacks are: on the embedded network and in comparison."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import PGD, CrossEntropy, FeatureDistance, LogitMargin
from kerobust.randomness import example_keys
from tests.attacks.victims import convnet, digits

EPSILON = {"linf": 0.15, "l2": 0.6, "l1": 2.0}


@pytest.fixture(scope="module")
def network():
    return convnet()


def robust(network, attack, images, labels, **options):
    adversarial = attack(
        images,
        labels,
        network,
        keys=example_keys(1, 0, tf.range(len(labels))),
        **options,
    )
    return network(adversarial).numpy().argmax(axis=1) == labels


def test_robustness_falls_with_steps_per_example(network):
    images, labels = digits()
    options = {"step_size": 0.04, "keep": "best"}

    masks = [
        robust(network, PGD(0.15, steps=steps, **options), images, labels)
        for steps in (1, 3, 12)
    ]

    for fewer, more in zip(masks, masks[1:], strict=False):
        assert not (more & ~fewer).any()
    assert masks[-1].sum() < masks[0].sum()


def test_robustness_falls_with_restarts_per_example(network):
    images, labels = digits()

    masks = [
        robust(network, PGD(0.18, steps=3, restarts=n, keep="best"), images, labels)
        for n in (1, 2, 6)
    ]

    for fewer, more in zip(masks, masks[1:], strict=False):
        assert not (more & ~fewer).any()
    assert masks[-1].sum() < masks[0].sum()


@pytest.mark.parametrize("norm", sorted(EPSILON))
def test_robust_accuracy_falls_with_epsilon(network, norm):
    images, labels = digits()
    attack = PGD(EPSILON[norm], norm=norm, keep="best")
    factors = (0.0, 0.5, 1.0, 2.0, 4.0)

    accuracy = [
        robust(network, attack, images, labels, epsilon=f * EPSILON[norm]).mean()
        for f in factors
    ]

    assert accuracy == sorted(accuracy, reverse=True)
    assert accuracy[0] == 0.98 and accuracy[-1] < 0.2


def test_keep_best_returns_the_best_iterate(network):
    images, labels = digits(50)
    # Steps of epsilon overshoot: the last iterate is often not the best.
    options = {"steps": 5, "step_size": 0.2, "random_start": False}
    runs = [
        PGD(0.2, **{**options, "steps": steps}, keep="last")(
            images, labels, network, return_info=True
        )[1]
        for steps in range(1, 6)
    ]
    clean = CrossEntropy(network)(tf.constant(images), tf.constant(labels))
    wrong = network(images).numpy().argmax(1) != labels
    values = np.stack([clean, *(run.loss for run in runs)])
    fooled = np.stack([wrong, *(run.success for run in runs)])

    _, info = PGD(0.2, **options, keep="best")(
        images, labels, network, return_info=True
    )

    # Fooled first, then the largest value: shift the values of the fooled above all.
    rank = (values + 1000 * fooled).argmax(axis=0)
    np.testing.assert_array_equal(info.steps_used, rank)
    np.testing.assert_array_equal(info.success, fooled.any(axis=0))
    np.testing.assert_allclose(info.loss, values[rank, range(50)], atol=1e-4)
    assert (rank < 5).any()


def test_a_sign_flipped_objective_weakens_the_victim_less(network):
    class Flipped(CrossEntropy):
        def values(self, outputs, targets):
            return -super().values(outputs, targets)

    images, labels = digits()
    attack = PGD(0.2, seed=0)

    accuracy = [
        (network(attack(images, labels, victim)).numpy().argmax(1) == labels).mean()
        for victim in (network, Flipped(network))
    ]

    # The flipped objective makes the network surer of the label than it was (0.98).
    assert accuracy[0] < 0.6 and accuracy[1] > 0.98


def test_margin_and_cross_entropy_fool_about_as_many(network):
    images, labels = digits()
    attack = PGD(0.15, seed=0, keep="best")

    counts = [
        attack(images, labels, victim, return_info=True)[1].success.numpy().sum()
        for victim in (CrossEntropy(network), LogitMargin(network))
    ]

    assert abs(counts[0] - counts[1]) <= 10


def test_logit_shift_changes_nothing(network):
    images, labels = digits(20)
    attack = PGD(0.15, seed=0)

    shifted = attack(images, labels, lambda images: network(images) + 7.0)

    plain = attack(images, labels, network)
    np.testing.assert_allclose(shifted, plain, atol=1e-4)


def test_feature_distance_grows_from_a_random_start(network):
    images, _ = digits(10)
    features = network(images)
    objective = FeatureDistance(network)

    adversarial, info = PGD(0.1, seed=0)(images, features, objective, return_info=True)

    noise = PGD(0.1, steps=1, step_size=0, seed=0)(images, features, objective)
    assert (info.loss > 2 * objective(noise, features)).numpy().all()
    assert not info.success.numpy().any()
