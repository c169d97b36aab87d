"""Tests of kerobust.attacks.gradient."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import (
    FGSM,
    PGD,
    CrossEntropy,
    DecayingPGD,
    MomentumPGD,
    Objective,
)
from tests.attacks.victims import Counting, Linear, convnet, digits

WEIGHTS = np.array([2.0, -3.0, 0.5], np.float32)


@pytest.fixture(scope="module")
def network():
    return convnet()


@pytest.mark.parametrize(
    ("norm", "dual"),
    [("linf", np.abs(WEIGHTS).sum()), ("l2", 13.25**0.5), ("l1", 3.0)],
)
@pytest.mark.parametrize(
    "attack",
    [
        FGSM(0.1),
        MomentumPGD(0.1),
        DecayingPGD(0.1),
        PGD(0.1, steps=40, step_size=0.05, seed=0),
        PGD(0.1, steps=40, step_size=0.05, seed=0, restarts=3),
    ],
    ids=["fgsm", "momentum", "decaying", "pgd", "restarts"],
)
def test_reaches_the_maximum_of_a_linear_objective(attack, norm, dual):
    images = tf.fill([4, 1, 1, 3], 0.5)
    attack = type(attack).from_config({**attack.get_config(), "norm": norm})

    _, info = attack(images, tf.zeros([4]), Linear(WEIGHTS), return_info=True)

    # The maximum of w.d over a ball of radius 0.1 is 0.1 times the dual norm of w.
    expected = 0.5 * WEIGHTS.sum() + 0.1 * dual
    np.testing.assert_allclose(info.loss, [expected] * 4, atol=1e-5)
    assert not info.success.numpy().any()


def test_the_maximiser_for_linf_is_the_sign_of_the_weights():
    images = tf.fill([4, 1, 1, 3], 0.5)

    adversarial = PGD(0.1)(images, tf.zeros([4]), Linear(WEIGHTS))

    expected = np.tile(0.5 + 0.1 * np.sign(WEIGHTS), [4, 1, 1, 1])
    np.testing.assert_allclose(adversarial, expected, atol=1e-6)


def test_l1_steps_are_projected_on_ball_and_box_at_once():
    images = tf.constant([0.9, 0.1], shape=[1, 1, 2, 1])
    attack = FGSM(0.5, norm="l1", step_size=2.0)

    change = attack(images, tf.zeros([1]), Linear([1.0, 1.0])) - images

    # Nearest to (1, 1) with 0.1 and 0.9 of room and sum 0.5; one after the other, ball
    # and box would give (0.1, 0.25).
    np.testing.assert_allclose(tf.reshape(change, [-1]), [0.1, 0.4], atol=1e-6)


@pytest.mark.parametrize(
    ("attack", "factor"),
    [
        (PGD(0.2, steps=10), 0.25),  # 2.5 epsilon / steps
        (PGD(0.2, steps=2), 1.0),  # the same, at most epsilon
        (MomentumPGD(0.2, steps=5), 0.5),
        (FGSM(0.2), 1.0),
        (FGSM(0.2, random_start=True), 1.25),
    ],
)
def test_default_step_size_follows_the_epsilon_of_the_call(attack, factor):
    epsilon = tf.constant([0.1, 0.3])

    step_size = attack._default_step_size(epsilon)

    np.testing.assert_allclose(step_size, factor * epsilon, rtol=1e-6)


def test_fast_fgsm_lands_a_step_of_epsilon_and_a_quarter_from_its_start():
    images = tf.fill([50, 1, 1, 3], 0.5)
    attack = FGSM(0.1, random_start=True, seed=0)

    change = attack(images, tf.zeros([50]), Linear(WEIGHTS), epsilon=0.2) - images

    # From U(-r, r), 1.25 r towards the sign, cut to r: all land in [0.25 r, r].
    along = (change * np.sign(WEIGHTS)).numpy().ravel() / 0.2
    assert along.min() >= 0.25 - 1e-4 and along.max() <= 1 + 1e-5
    assert 0.25 < along.min() < 0.4 and (along < 1 - 1e-5).mean() > 0.2


def test_momentum_remembers_gradients():
    class Turning(Objective):
        """Gradient 4 at first, -1 once the image has moved."""

        def outputs(self, images):
            return images[:, 0, 0, 0]

        def values(self, outputs, targets):
            return tf.where(outputs < 0.55, 4.0, -1.0) * outputs

    images = tf.fill([1, 1, 1, 1], 0.5)
    options = {"steps": 3, "step_size": 0.1, "random_start": False}

    results = [
        float(attack(images, tf.zeros([1]), Turning())[0, 0, 0, 0])
        for attack in (
            PGD(0.5, **options),
            MomentumPGD(0.5, decay=0.0, **options),
            MomentumPGD(0.5, decay=2.0, **options),
        )
    ]

    # Normalised gradients +1, -1, ...: without memory 0.5 -> 0.6 -> 0.5 -> 0.6; with
    # decay 2 the memory is 1, 2 - 1 = 1, 2 - 1 = 1 and the image goes on climbing.
    np.testing.assert_allclose(results, [0.6, 0.6, 0.8], atol=1e-6)


def test_momentum_survives_a_zero_gradient():
    images = tf.fill([1, 1, 1, 3], 0.5)

    adversarial = MomentumPGD(0.1)(images, tf.zeros([1]), Linear(np.zeros(3)))

    np.testing.assert_array_equal(adversarial, images)


@pytest.mark.parametrize(
    ("options", "targets", "extra"),
    [
        ({"keep": "last"}, "labels", 0),
        ({"keep": "best"}, "labels", 1),
        ({"keep": "last"}, None, 1),
        ({"keep": "last", "skip_misclassified": True}, "labels", 1),
        ({"keep": "last", "skip_misclassified": True}, None, 1),
    ],
)
def test_pgd_costs_one_forward_per_step_and_no_more_than_needed(
    network, options, targets, extra
):
    images, labels = digits(4)
    victim = Counting(CrossEntropy(network))

    PGD(0.1, steps=7, **options)(images, labels if targets else None, victim)

    assert int(victim.forwards) == 7 + extra


def test_restarts_search_once_more_each(network):
    images, labels = digits(4)
    victim = Counting(CrossEntropy(network))

    PGD(0.1, steps=2, restarts=5)(images, labels, victim)

    # Two steps and the look at the last point.
    assert int(victim.forwards) == 5 * (2 + 1)


def test_decaying_steps_follow_a_cosine_and_keep_a_quarter_of_the_last():
    class Recorder(Objective):
        def outputs(self, images):
            tf.py_function(lambda each: seen.append(each.numpy()), [images], [])
            return tf.reduce_sum(images, axis=[1, 2, 3])

        def values(self, outputs, targets):
            return outputs

    seen: list = []
    images = tf.zeros([1, 1, 1, 1])
    attack = DecayingPGD(1.0, steps=4, step_size=0.1, random_start=False, keep="best")

    attack(images, tf.zeros([1]), Recorder())

    # Shares 1, (1 + cos 45) / 2, 1 / 2, (1 - cos 45) / 2 of 0.1; from the second on
    # 3/4 of them and 1/4 of the last move.
    lengths, moves = 0.05 * (1 + np.cos(np.pi * np.arange(4) / 4)), [0.1]
    for length in lengths[1:]:
        moves.append(0.75 * length + 0.25 * moves[-1])
    np.testing.assert_allclose(
        np.ravel(seen), [0.0, *np.cumsum(moves)], rtol=1e-5, atol=1e-7
    )
