"""Searches that leave an example alone once it fools the victim."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import PGD, CrossEntropy, DecayingPGD, MomentumPGD
from kerobust.randomness import example_keys
from tests.attacks.victims import Counting, Linear, convnet, digits

EPSILON = 0.15  # Fools about half of the digits within 10 steps.


def both(kind, scale=1.0, **options):
    """Returns (images, info) for 64 digits without and with `stop_when_fooled`."""
    images, labels = digits(64)
    keys, victim = example_keys(3, 0, tf.range(64)), convnet()
    return [
        kind(EPSILON * scale, keep="best", steps=10, stop_when_fooled=stop, **options)(
            images, labels, victim, keys=keys, return_info=True
        )
        for stop in (False, True)
    ]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("kind", [PGD, MomentumPGD, DecayingPGD])
def test_the_same_examples_are_fooled(kind, norm):
    scale = {"linf": 1.0, "l2": 6.0, "l1": 20.0}[norm]

    (_, usual), (adversarial, info) = both(kind, scale, norm=norm)

    np.testing.assert_array_equal(info.success, usual.success)
    assert 0 < np.sum(info.success) < 64
    assert (info.norm <= EPSILON * scale * (1 + 1e-5)).numpy().all()
    assert (info.loss <= usual.loss + 1e-5).numpy().all()
    assert tf.reduce_min(adversarial) >= 0 and tf.reduce_max(adversarial) <= 1


def test_what_never_fools_is_searched_as_without():
    (expected, usual), (adversarial, info) = both(PGD)

    standing = ~info.success.numpy()
    assert standing.any()
    np.testing.assert_allclose(adversarial[standing], expected[standing], atol=1e-5)
    steps = info.steps_used[standing]
    np.testing.assert_array_equal(steps, usual.steps_used[standing])


def test_each_example_stops_at_its_first_point_that_fools():
    images, labels = digits(64)
    victim, keys = convnet(), example_keys(3, 0, tf.range(64))
    attack = PGD(EPSILON, steps=10, stop_when_fooled=True)
    step_size = 2.5 * EPSILON / 10

    _, info = attack(images, labels, victim, keys=keys, return_info=True)

    # The point after k steps is the end of a search of k steps of the same size.
    first = np.full(64, 10)
    for steps in reversed(range(1, 10)):
        search = PGD(EPSILON, steps=steps, step_size=step_size)
        adversarial = search(images, labels, victim, keys=keys)
        wrong = np.argmax(victim(adversarial), axis=1) != labels
        first[wrong] = steps
    late = info.success.numpy() & (info.steps_used.numpy() > 0)
    assert late.sum() > 5
    np.testing.assert_array_equal(info.steps_used[late], first[late])


def test_a_batch_that_is_fooled_at_once_ends_the_search():
    images = tf.fill([5, 2, 2, 1], 0.5)
    victim = Counting(CrossEntropy(lambda x: tf.reduce_sum(x, [2, 3])))
    attack = PGD(0.1, steps=50, random_start=False, stop_when_fooled=True)

    adversarial, info = attack(images, tf.ones([5], tf.int32), victim, return_info=True)

    # Both logits are equal, so that class 0 wins and the label is 1: fooled as it is.
    assert victim.forwards.numpy() == 1 and info.success.numpy().all()
    np.testing.assert_array_equal(adversarial, images)


def test_restarts_and_objectives_without_success_work_too():
    images, labels = digits(32)
    network = convnet()

    one = PGD(EPSILON, steps=5, stop_when_fooled=True, seed=0)
    three = PGD(EPSILON, steps=5, stop_when_fooled=True, seed=0, restarts=3)

    success = [
        attack(images, labels, network, return_info=True)[1].success.numpy()
        for attack in (one, three)
    ]
    assert (success[1] >= success[0]).all()
    target = Linear(np.float32([1.0, -2.0, 3.0]))
    found = one(tf.fill([2, 1, 1, 3], 0.5), tf.zeros([2]), target)
    expected = np.float32([0.5 + EPSILON, 0.5 - EPSILON, 0.5 + EPSILON])
    np.testing.assert_allclose(found, np.tile(expected, [2, 1, 1, 1]), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "received"),
    [
        ({"keep": "last"}, "keep=last"),
        ({"precision": "bfloat16"}, "precision=bfloat16"),
    ],
)
def test_what_would_weaken_the_search_is_refused(options, received):
    with pytest.raises(ValueError, match=f"`stop_when_fooled`.*Received.*{received}"):
        PGD(stop_when_fooled=True, **options)
