"""Tests of kerobust.attacks.curve."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import (
    FGSM,
    MSD,
    PGD,
    CrossEntropy,
    Objective,
    TargetedMargin,
    security_curve,
)
from kerobust.randomness import example_keys
from tests.attacks.victims import Counting, Linear, convnet, digits, small_batch

EPSILONS = [0.0, 0.02, 0.05, 0.08, 0.12, 0.16, 0.2, 0.3]


@pytest.fixture(scope="module")
def network():
    return convnet()


@pytest.fixture(scope="module")
def attack():
    return PGD(steps=4, stop_when_fooled=True)


class Rows(Counting):
    """Counts images instead of calls."""

    def outputs(self, images):
        self.traces += 1
        self.forwards.assign_add(tf.shape(images)[0])
        return self.inner.outputs(images)


def test_the_curve_of_a_linear_victim_is_its_distribution_of_margins():
    weights = np.float32([2.0, -1.0, 0.5, 0.5])
    generator = np.random.default_rng(0)
    images = generator.uniform(0.4, 0.6, [50, 2, 2, 1]).astype(np.float32)
    scores = (images.reshape(50, 4) - 0.5) @ weights
    labels = np.where(np.arange(50) % 5 == 0, scores < 0, scores > 0).astype(int)

    def victim(images):
        score = tf.linalg.matvec(tf.reshape(images, [-1, 4]) - 0.5, weights)
        return tf.stack([-score, score], axis=1)

    curve = security_curve(FGSM(), victim, images, labels, [0.05, 0, 0.02, 0.4, 0.02])

    np.testing.assert_array_equal(curve.epsilons, [0, 0.02, 0.05, 0.4])
    # One step takes epsilon |w|_1 = 4 epsilon from the margin; every fifth is wrong.
    right = np.arange(50) % 5 != 0
    expected = [right & (np.abs(scores) > 4 * radius) for radius in curve.epsilons]
    np.testing.assert_array_equal(curve.robust, expected)
    accuracy = curve.robust_accuracy
    assert accuracy[0] == 0.8 and 0 < accuracy[2] < accuracy[1] < 0.8
    assert accuracy[3] == 0 and curve.epsilons.dtype == np.float64


def test_it_equals_single_runs_with_the_same_keys_up_to_containment(network, attack):
    images, labels = digits(40)
    keys = example_keys(3, 0, tf.range(40))

    curve = security_curve(attack, network, images, labels, EPSILONS, seed=3)

    robust = network(images).numpy().argmax(axis=1) == labels
    for radius, found in zip(EPSILONS, curve.robust, strict=True):
        if radius > 0:
            options = {"epsilon": radius, "keys": keys, "return_info": True}
            robust &= ~attack(images, labels, network, **options)[1].success.numpy()
        np.testing.assert_array_equal(found, robust)
    assert (np.diff(curve.robust_accuracy) <= 0).all()
    assert curve.robust[0].sum() > curve.robust[3].sum() > curve.robust[-1].sum()


def test_what_fell_once_is_not_attacked_again_and_stays_fallen():
    class Bumpy(Objective):
        """Fooled by steps of 0.1 only."""

        def outputs(self, images):
            return images[:, 0, 0, 0]

        def values(self, outputs, targets):
            return outputs

        def fooled(self, outputs, targets):
            return tf.abs(outputs - targets - 0.1) < 0.01

    images = np.full([6, 1, 1, 1], 0.5, np.float32)
    targets = np.float32([0.5, 0.5, 0.6, 0.7, 0.4, 0.0])
    victim = Rows(Bumpy())

    curve = security_curve(FGSM(), victim, images, targets, [0.3, 0.1, 0, 0.2])

    # Steps of 0.1, 0.2, 0.3 fool targets 0.5, 0.6, 0.7; 0.4 is fooled as it is.
    expected = [[0, 0, 1, 1, 0, 1], [0, 0, 0, 1, 0, 1], [0, 0, 0, 0, 0, 1]]
    np.testing.assert_array_equal(curve.robust[1:], np.array(expected, bool))
    np.testing.assert_array_equal(curve.robust[0], targets != np.float32(0.4))
    # 6 as they are; then gradient and judgement of 5, 3 and 2.
    assert int(victim.forwards) == 6 + 2 * (5 + 3 + 2)


def test_more_radii_and_batches_do_not_compile_more(network):
    images, labels = digits(20)
    traces = []

    for epsilons, batch_size in ((EPSILONS[1:2], 20), (EPSILONS[1:], 20)):
        victim = Rows(CrossEntropy(network))
        security_curve(FGSM(), victim, images, labels, epsilons, batch_size=batch_size)
        traces.append(victim.traces)

    # One look at the images in eager code, one gradient, one judgement.
    assert traces == [3, 3]


def test_batches_change_nothing(network, attack):
    images, labels = digits(40)

    whole, parts = (
        security_curve(
            attack, network, images, labels, EPSILONS[::2], batch_size=size, seed=1
        )
        for size in (256, 7)
    )

    np.testing.assert_array_equal(whole.robust, parts.robust)


def test_other_rows_and_the_seed_matter_as_documented(network):
    images, labels = digits(40)
    attack = PGD(steps=1, step_size=0.0)  # Noise, and nothing else.

    curves = [
        security_curve(attack, network, images[:rows], labels[:rows], [0.3], seed=seed)
        for rows, seed in ((40, 0), (25, 0), (40, 1))
    ]

    np.testing.assert_array_equal(curves[0].robust[:, :25], curves[1].robust)
    assert (curves[0].robust != curves[2].robust).any()


def test_factors_of_a_union_make_a_curve_too(network):
    images, labels = digits(30)
    attack = MSD({"linf": 0.2, "l2": 0.8, "l1": 2.0}, steps=3)
    lines = []

    curve = security_curve(
        attack, network, images, labels, [0.25, 1.0], progress=lines.append
    )

    first, last = curve.robust.sum(axis=1)
    assert 30 > first > last
    assert lines == [
        f"epsilon 0.25: {first} of 30 withstand",
        f"epsilon 1: {last} of 30 withstand",
    ]


def test_targets_may_be_nested(network):
    images, labels = digits(12)
    logits = network(images).numpy()
    goals = np.argsort(logits, axis=1)[:, -2]
    targets = {"labels": labels, "goals": goals.astype(np.int64)}

    curve = security_curve(
        FGSM(), TargetedMargin(network), images, targets, [0.0, 0.4], batch_size=5
    )

    np.testing.assert_array_equal(curve.robust[0], logits.argmax(axis=1) == labels)
    assert curve.robust[1].sum() < curve.robust[0].sum()


def test_what_makes_no_curve_is_refused(network):
    images, labels = digits(4)
    given = (FGSM(), network, images, labels)
    with pytest.raises(ValueError, match="`epsilons` must hold at least one"):
        security_curve(*given, [])
    with pytest.raises(ValueError, match=r"`epsilons` must be at least 0.*\[-0.1\]"):
        security_curve(*given, [-0.1])
    with pytest.raises(ValueError, match="`epsilons` must be at most 1.*8/255"):
        security_curve(*given, [0.1, 8.0])
    with pytest.raises(ValueError, match="`batch_size` must be a whole number"):
        security_curve(*given, [0.1], batch_size=0)
    with pytest.raises(ValueError, match="`images` must hold at least one"):
        security_curve(FGSM(), network, images[:0], labels[:0], [0.1])
    with pytest.raises(ValueError, match=r"`images` must lie in \[0, 1\]"):
        security_curve(FGSM(), network, 255 * images, labels, [0.1])
    images, labels = small_batch()
    with pytest.raises(TypeError, match="`model` must know success.*`fooled` is None"):
        security_curve(FGSM(), Linear(np.ones(4)), images, labels, [0.1])
