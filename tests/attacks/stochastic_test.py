"""Random victims and blunt defences."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import PGD, Averaged, Bpda, CrossEntropy, LogitMargin
from kerobust.attacks.differentiation import differentiate
from tests.attacks.victims import Counting, convnet, digits


class Alternating:
    """Logits whose slope is 1, 2, 3, ... in its 1st, 2nd, 3rd, ... call."""

    def __init__(self):
        self.calls = tf.Variable(0.0)

    def __call__(self, images):
        slope = self.calls.assign_add(1.0)
        score = slope * tf.reduce_sum(images, axis=[1, 2, 3])
        return tf.stack([tf.zeros_like(score), score], axis=1)


def one_pixel(value):
    return tf.reshape(tf.constant(value, tf.float32), [-1, 1, 1, 1])


def test_values_and_gradients_are_means_over_the_draws():
    images, labels = one_pixel([0.5, 0.25]), tf.constant([0, 0])
    objective = Averaged(LogitMargin(Alternating()), draws=4)

    gradient, values, fooled = tf.function(
        lambda images: differentiate(images, labels, objective), autograph=False
    )(images)

    # Slopes 1, 2, 3, 4 have the mean 2.5; a positive score fools class 0.
    np.testing.assert_allclose(tf.reshape(gradient, [-1]), [2.5, 2.5])
    np.testing.assert_allclose(values, [2.5 * 0.5, 2.5 * 0.25])
    np.testing.assert_array_equal(fooled, [True, True])


def test_outputs_are_judged_draw_by_draw():
    objective = Averaged(LogitMargin(Alternating()), draws=3)
    outputs = objective.outputs(one_pixel([1.0]))

    values = objective.values(outputs, tf.constant([0]))

    assert outputs.shape == [3, 1, 2]
    np.testing.assert_allclose(values, [2.0])
    np.testing.assert_array_equal(objective.predictions(outputs), [1])


@pytest.mark.parametrize(("right", "fooled"), [(3, False), (2, False), (1, True)])
def test_more_than_half_of_the_draws_must_be_fooled(right, fooled):
    objective = Averaged(LogitMargin(lambda images: images), draws=4)
    draws = [[[1.0, 0.0]]] * right + [[[0.0, 1.0]]] * (4 - right)

    found = objective.fooled(tf.constant(draws), tf.constant([0]))

    np.testing.assert_array_equal(found, [fooled])


def test_every_gradient_asks_as_often_as_there_are_draws():
    images, labels = digits(4)
    victim = Counting(CrossEntropy(convnet()))
    attack = PGD(0.1, steps=3, random_start=False)

    attack(images, labels, Averaged(victim, draws=5))

    assert victim.forwards.numpy() == 3 * 5 and victim.traces == 1


def test_averaging_finds_the_way_that_single_draws_lose():
    class Turning(Alternating):
        """Slopes 3, -1, 3, -1, ..."""

        def __call__(self, images):
            slope = 1.0 + 2.0 * tf.cos(np.pi * (self.calls.assign_add(1.0) - 1.0))
            score = slope * tf.reduce_sum(images, axis=[1, 2, 3])
            return tf.stack([tf.zeros_like(score), score], axis=1)

    images, labels = one_pixel([0.5]), tf.constant([0])
    attack = PGD(0.3, steps=4, step_size=0.05, random_start=False)

    found = [
        attack(images, labels, Averaged(LogitMargin(Turning()), draws))
        for draws in (1, 2)
    ]

    # One draw: up, down, up, down. Two draws have the mean slope 1: four times up.
    np.testing.assert_allclose(np.ravel(found), [0.5, 0.7], atol=1e-6)


@pytest.mark.parametrize("draws", [0, 1.5])
def test_a_number_of_draws_that_is_none_is_refused(draws):
    with pytest.raises(ValueError, match=f"`draws`.*Received: draws={draws}"):
        Averaged(CrossEntropy(convnet()), draws=draws)


def coarse(images):
    return tf.round(4.0 * images) / 4.0


def test_bpda_says_what_the_defended_model_says():
    images, _ = digits(10)
    network = convnet()

    logits = Bpda(coarse, network)(tf.constant(images))

    np.testing.assert_allclose(logits, network(coarse(images)), atol=1e-5)


def test_bpda_passes_the_gradient_that_rounding_stops():
    images, labels = digits(100)
    network = convnet()
    attack = PGD(0.2, steps=10, random_start=False, keep="best")

    def defended(images):
        return network(coarse(images))

    through = attack(images, labels, Bpda(coarse, network), return_info=True)[1].success

    # No gradient passes `tf.round`.
    with pytest.raises(ValueError, match="`victim` must be differentiable"):
        attack(images, labels, defended)
    wrong = defended(images).numpy().argmax(axis=1) != labels
    assert np.mean(through) > np.mean(wrong) + 0.2


def test_bpda_differentiates_a_given_substitute():
    images = one_pixel([0.3])
    victim = Bpda(tf.round, lambda x: tf.stack([x, -x], 1), lambda x: 3.0 * x)

    with tf.GradientTape() as tape:
        tape.watch(images)
        score = tf.reduce_sum(victim(images)[:, 0])

    # Value: round(0.3) = 0; slope: that of 3 x.
    assert float(score) == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(tf.reshape(tape.gradient(score, images), [-1]), [3.0])
