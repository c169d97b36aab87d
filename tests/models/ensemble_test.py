"""Tests of kerobust.models.ensemble."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.models import (
    Classifier,
    ClassifierHead,
    ConvNet,
    Ensemble,
    load_bundle,
    save_bundle,
)

IMAGES = np.random.default_rng(0).uniform(size=[4, 8, 8, 3]).astype(np.float32)


class Says(tf.keras.Model):
    """Says the same logits, float32 [B, K], whatever it sees."""

    def __init__(self, logits):
        super().__init__()
        self.logits = tf.constant(logits, tf.float32)

    def call(self, images, training=None, keys=None):
        return self.logits


def member(seed):
    tf.keras.utils.set_random_seed(seed)
    encoder = ConvNet((8, 8), hidden=(9, 7), kernel_size=3, padding="same")
    return Classifier(encoder, ClassifierHead(5, pooling="cls", norm=False))


def test_probabilities_are_averaged():
    first = [[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]]
    second = [[1.0, 1.0, 1.0], [0.0, 0.0, 4.0]]

    answer = Ensemble([Says(first), Says(second)])(IMAGES)

    mean = (tf.nn.softmax(first) + tf.nn.softmax(second)) / 2
    np.testing.assert_allclose(answer, np.log(mean), rtol=1e-6)


def test_probabilities_below_the_smallest_float_stay_finite():
    far = [[0.0, 200.0]]

    answer = Ensemble([Says(far), Says(far)])(IMAGES)

    np.testing.assert_allclose(answer, [[-200.0, 0.0]], rtol=1e-6)


def test_logits_are_averaged():
    both = [Says([[0.0, 2.0]]), Says([[4.0, 0.0]])]

    np.testing.assert_array_equal(Ensemble(both, combine="logits")(IMAGES), [[2, 1]])


def test_votes_are_counted():
    three = [Says([[0.0, 2.0]]), Says([[9.0, 0.0]]), Says([[0.0, 0.1]])]

    found = Ensemble(three, combine="votes")(IMAGES)

    np.testing.assert_allclose(found, [[1 / 3, 2 / 3]], rtol=1e-6)


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
def test_equal_members_answer_as_one(combine):
    alone = tf.nn.log_softmax(member(0)(IMAGES))

    found = Ensemble([member(0), member(0), member(0)], combine=combine)(IMAGES)

    np.testing.assert_allclose(tf.nn.log_softmax(found), alone, rtol=1e-5, atol=1e-6)


def test_a_member_alone_answers_by_itself():
    alone = member(0)

    np.testing.assert_array_equal(Ensemble([alone])(IMAGES), alone(IMAGES))


class Bare(tf.keras.Model):
    """Means of two channels as logits; takes images and nothing else."""

    def call(self, images):
        return tf.reduce_mean(images, axis=[1, 2])[:, :2]


def test_members_are_spared_the_arguments_that_they_do_not_take():
    tf.keras.utils.set_random_seed(0)
    layers = [tf.keras.layers.Flatten(), tf.keras.layers.Dropout(0.5)]
    plain = tf.keras.Sequential([*layers, tf.keras.layers.Dense(2)])  # No keys.
    ensemble = Ensemble([plain, Bare()], combine="logits")

    resting = ensemble(IMAGES, training=False, keys=None)
    training = ensemble(IMAGES, training=True)

    mean = (plain(IMAGES, training=False) + Bare()(IMAGES)) / 2
    np.testing.assert_allclose(resting, mean, rtol=1e-6)
    assert np.abs(training - mean).max() > 0.01  # Dropout.


def test_order_changes_nothing():
    there = Ensemble([member(0), member(1)])(IMAGES)
    back = Ensemble([member(1), member(0)])(IMAGES)

    np.testing.assert_allclose(there, back, rtol=1e-6)


def test_a_bundle_brings_it_back(tmp_path):
    ensemble = Ensemble([member(0), member(1)], combine="logits")

    save_bundle(ensemble, tmp_path / "ensemble", {})
    again = load_bundle(tmp_path / "ensemble")

    assert again.combine == "logits"
    np.testing.assert_array_equal(again(IMAGES), ensemble(IMAGES))


@pytest.mark.parametrize(
    ("members", "options", "message"),
    [
        ([], {}, "`members` must hold a model"),
        ([None], {"combine": "mean"}, "`combine` must be one of"),
    ],
)
def test_impossible_ensembles_are_refused(members, options, message):
    with pytest.raises(UserError, match=message):
        Ensemble(members, **options)
