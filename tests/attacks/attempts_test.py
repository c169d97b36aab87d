"""Attempts: success is what the model says, inside the ball, by noise of its own."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import BALLS, CrossEntropy, TargetedDLR
from kerobust.attacks.attempts import Attempt, run_attempts
from kerobust.attacks.victim import Victim
from tests.attacks.victims import convnet, digits


@pytest.fixture(scope="module")
def network():
    return convnet()


def test_a_success_that_the_model_does_not_confirm_counts_for_nothing(network):
    class Boaster:
        ball = BALLS["linf"]

        def __call__(self, images, targets, victim, *, epsilon, keys):
            return images

    images, labels = digits(8)
    attempts = [Attempt("boaster", Boaster(), CrossEntropy)]

    found = run_attempts(
        attempts, Victim(network), images, labels, np.arange(8), 0, 0.1
    )

    assert (found.broken_by < 0).all()


def test_every_attempt_has_noise_of_its_own(network):
    seen = []

    class Recorder:
        ball = BALLS["linf"]

        def __call__(self, images, targets, victim, *, epsilon, keys):
            seen.append(keys.numpy())
            return images

    images, labels = digits(3)
    one = Attempt("one", Recorder(), CrossEntropy)
    other = one._replace(name="other", objective=TargetedDLR)
    attempts = [
        *(one, one._replace(restart=1), other._replace(goal=1)),
        other._replace(goal=2),
    ]

    run_attempts(attempts, Victim(network), images, labels, np.arange(3), 0, 0.1)

    # Four attempts on three examples: twelve different keys.
    assert len(np.unique(np.concatenate(seen), axis=0)) == 12


def test_an_attack_that_leaves_its_ball_is_void(network):
    class Cheat:
        ball = BALLS["linf"]

        def __call__(self, images, targets, victim, *, epsilon, keys):
            return tf.clip_by_value(images + 2 * epsilon, 0, 1)

    images, labels = digits(8)
    attempts = [Attempt("cheat", Cheat(), CrossEntropy)]

    with pytest.raises(RuntimeError, match="`cheat` must stay in its ball.*norm 0.2"):
        run_attempts(attempts, Victim(network), images, labels, np.arange(8), 0, 0.1)
