"""Clean and robust nearest-neighbour accuracy of an encoder."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import PGD, AttackConfig, EmbedAttack
from kerobust.config import UserError
from kerobust.evaluation import OnlineKnn, OnlineLinear, knn_predict, linear_probe
from kerobust.models import VisionTransformer
from kerobust.randomness import example_keys, fold_in
from kerobust.types import Tokens
from tests.evaluation.small import digits, relabelled, small_split

BANK = digits().splits["train"].subset(np.arange(200))


def centred_pixels(images):
    """Features with class information, as cls and two patches."""
    flat = tf.reshape(images, [-1, 192]) - 0.3
    return Tokens(cls=flat, patches=tf.stack([flat, 2.0 * flat], axis=1))


def test_clean_accuracy_is_that_of_the_features():
    images, labels = small_split().arrays()
    bank, bank_labels = BANK.arrays()

    found = OnlineKnn(centred_pixels, BANK, small_split(), AttackConfig(0.1))(7)

    # Class token and mean patch hold the same directions as the pixels themselves.
    predictions = knn_predict(
        bank.reshape(200, -1) - 0.3, bank_labels, images.reshape(60, -1) - 0.3
    )
    assert found["knn/clean"] == pytest.approx(np.mean(predictions == labels))


def test_attack_lowers_accuracy_whatever_the_batch_size():
    threat = AttackConfig(epsilon=0.4)

    large, small = (
        OnlineKnn(centred_pixels, BANK, small_split(), threat, batch_size=size)()
        for size in (60, 7)
    )

    assert large == small
    assert large["knn/robust"] < large["knn/clean"] - 0.2


def test_epsilon_0_equals_clean():
    found = OnlineKnn(centred_pixels, BANK, small_split(), AttackConfig(0.0), 1)()

    assert found["knn/robust"] == found["knn/clean"]


def test_it_follows_the_encoder_and_leaves_it_untouched():
    encoder = tf.keras.Sequential(
        [tf.keras.layers.Input((8, 8, 3)), tf.keras.layers.Flatten()]
        + [tf.keras.layers.BatchNormalization(), tf.keras.layers.Dense(8)]
    )
    probe = OnlineKnn(encoder, BANK, small_split(), AttackConfig(0.02), steps=2)
    before = [weight.numpy() for weight in encoder.weights]

    first = probe()
    for weight, value in zip(encoder.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
    encoder.layers[-1].set_weights([np.zeros([192, 8]), np.ones([8])])
    second = probe()

    # A constant encoder sees the same neighbours everywhere: one class for all.
    assert first["knn/clean"] > 0.25
    assert second["knn/clean"] <= 0.2
    assert second["knn/robust"] == second["knn/clean"]


def test_unlabelled_examples_are_refused():
    unlabelled = relabelled(small_split(), np.r_[-1, np.zeros(59)])

    with pytest.raises(UserError, match="`queries` must.* 60 examples, 1 of them"):
        OnlineKnn(centred_pixels, BANK, unlabelled, AttackConfig(0.1))


def transformer():
    return VisionTransformer((8, 8), 4, 16, 1, 2)


@pytest.mark.slow
def test_linear_accuracies_are_those_of_a_direct_computation():
    encoder, queries = transformer(), small_split()
    online = OnlineLinear(encoder, BANK, queries, 10, AttackConfig(0.05), batch_size=7)

    found = online(3)

    probe = linear_probe(encoder, BANK, 10, "cls")
    images, labels = queries.arrays()
    keys = fold_in(example_keys(0, 0, queries.ids), "online linear")
    embed = EmbedAttack(0.05, steps=10)(images, None, encoder, keys=keys)
    pgd = PGD(0.05, steps=10, random_start=True)(images, labels, probe, keys=keys)
    clean, blind, aware = (
        np.argmax(probe(each), axis=1) == labels for each in (images, embed, pgd)
    )
    assert found == {
        "linear/clean": pytest.approx(np.mean(clean)),
        "linear/embed": pytest.approx(np.mean(clean & blind)),
        "linear/pgd": pytest.approx(np.mean(clean & aware)),
    }
    assert found["linear/clean"] > found["linear/embed"] > found["linear/pgd"]


def test_a_linear_probe_follows_the_encoder_untouched_and_compiles_once(monkeypatch):
    traces, call = [], VisionTransformer.call

    def counted(self, *arguments, **options):
        traces.append(not tf.executing_eagerly())
        return call(self, *arguments, **options)

    monkeypatch.setattr(VisionTransformer, "call", counted)
    encoder = transformer()
    online = OnlineLinear(encoder, BANK, small_split(), 10, AttackConfig(0.02), steps=1)
    before = encoder.get_weights()

    first, traced = online(), sum(traces)
    for weight, value in zip(encoder.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)
    encoder.set_weights([np.zeros_like(value) for value in before])
    second = online()

    # Without weights, all images look the same: one class for all.
    assert first["linear/clean"] > 0.4
    assert second["linear/clean"] == second["linear/pgd"] <= 0.2
    assert sum(traces) == traced > 0
