"""Ensembles attacked through their members: weights, mixture, and what falls."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import PGD, CrossEntropy, DecayingPGD, ReweightedEnsemble
from kerobust.attacks.mora import BALANCES
from kerobust.attacks.reweighted import TEMPERATURES
from kerobust.attacks.victim import Victim
from kerobust.config import UserError
from kerobust.models import Ensemble
from tests.attacks.ensembles import EPSILON, Plane, grey, planes

LABELS = tf.constant([0, 3, 1, 4])
COMBINATIONS = ("probabilities", "logits", "votes")


def said(scale=3.0, members=3, classes=5, rows=4):
    """Returns logits float32 [rows, members, classes]."""
    generator = np.random.default_rng(2)
    logits = scale * generator.normal(size=[rows, members, classes])
    return tf.constant(logits, tf.float32)


def objective(combine, **options):
    """Returns the objective on an ensemble that is never asked."""
    return ReweightedEnsemble(Ensemble([None], combine=combine), **options)


def softmax(logits):
    power = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return power / power.sum(axis=-1, keepdims=True)


def softened(logits):
    """Returns float64 logits over max(widest gap / 10, 1) of each example."""
    logits = np.float64(logits)
    ordered = np.sort(logits, axis=-1)
    widest = (ordered[..., -1] - ordered[..., -2]).max(axis=1)
    return logits / np.maximum(widest / 10, 1)[:, None, None]


def best_wrong(mean, label):
    return max((k for k in range(len(mean)) if k != label), key=lambda k: mean[k])


@pytest.mark.parametrize("scale", [1.0, 30.0, 3e4])
@pytest.mark.parametrize("combine", COMBINATIONS)
def test_weights_are_those_of_a_slow_loop(combine, scale):
    logits, temperature = said(scale), TEMPERATURES[combine]
    logits += 1.5 * scale * tf.one_hot(LABELS, 5)[:, tf.newaxis]

    found = objective(combine).weights(logits, LABELS).numpy()

    # Some are fooled, but nowhere all of them.
    assert ((found == 0).sum() > 0) == (combine != "logits")
    for row, label in enumerate(LABELS.numpy()):
        parts = softmax(softened(logits)[row] / temperature)
        mean = parts.mean(axis=0)
        wrong = best_wrong(mean, label)
        expected = []
        for part, own in zip(parts, logits[row].numpy(), strict=True):
            weight = part[label] / mean[label] + (1 - part[wrong]) / mean[wrong]
            counts = combine == "logits" or own.argmax() == label
            expected.append(counts * part[wrong] * weight)
        expected = np.array(expected) / np.sum(expected)
        np.testing.assert_allclose(found[row], expected, rtol=2e-4, atol=1e-6)


def test_weights_are_the_derivative_of_the_log_ratio_of_the_softened_mean():
    logits = said(20.0)
    # Every member right, so that nobody is left out.
    logits += 90.0 * tf.one_hot(LABELS, 5)[:, tf.newaxis]
    inside = tf.constant(softened(logits) / 5.0, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(inside)
        mean = tf.reduce_mean(tf.nn.softmax(inside), axis=1).numpy()
        wrong = [best_wrong(*each) for each in zip(mean, LABELS.numpy(), strict=True)]
        logs = tf.math.log(tf.reduce_mean(tf.nn.softmax(inside), axis=1))
        of_wrong = tf.gather(logs, wrong, batch_dims=1, axis=1)
        ratio = of_wrong - tf.gather(logs, LABELS, batch_dims=1, axis=1)
    slope = tape.gradient(ratio, inside).numpy()
    slope = slope[np.arange(4), :, wrong]

    found = objective("probabilities").weights(logits, LABELS)

    np.testing.assert_allclose(
        found, slope / slope.sum(axis=1, keepdims=True), rtol=1e-4
    )
    assert np.ptp(found, axis=1).min() > 0.01  # Not all the same.


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_fooled_members_count_for_nothing_unless_logits_are_averaged(combine):
    logits = tf.constant([[[4.0, 1.0, 0.0], [1.0, 4.0, 0.0], [3.0, 0.0, 2.0]]])

    found = objective(combine).weights(logits, tf.constant([0])).numpy()[0]

    assert (found[1] == 0) == (combine != "logits")
    assert found[0] > 0 and found[2] > 0
    np.testing.assert_allclose(found.sum(), 1, rtol=1e-6)


def test_an_ensemble_that_is_right_though_every_member_is_wrong_keeps_them_all():
    logits = tf.constant([[[2.0, 2.1, 0.0], [2.0, 0.0, 2.1]]])
    target = objective("probabilities")

    assert not target.fooled(logits, tf.constant([0])).numpy().any()
    found = target.weights(logits, tf.constant([0])).numpy()[0]

    assert (found > 0.2).all()


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("combine", COMBINATIONS)
def test_equal_members_weigh_the_same_and_are_attacked_as_one(combine, balance):
    one = said(members=1)
    one += 9.0 * tf.one_hot(LABELS, 5)[:, tf.newaxis]
    target = objective(combine, balance=balance)
    # Gaps by hand: what each part of the mixture divides the common logits by.
    ordered = np.sort(one.numpy()[:, 0], axis=1)
    gap = ordered[:, -1] - ordered[:, -2]
    factor = (1 - balance) / gap + balance / np.maximum(gap / 10, 1)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(one)
        values = target.values(tf.tile(one, [1, 3, 1]), LABELS)
        scaled = tf.constant(factor, tf.float32)[:, tf.newaxis] * one[:, 0]
        plain = CrossEntropy(None).values(scaled, LABELS)

    weights = target.weights(tf.tile(one, [1, 3, 1]), LABELS)

    np.testing.assert_allclose(weights, np.full([4, 3], 1 / 3), rtol=1e-5)
    np.testing.assert_allclose(values, plain, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        tape.gradient(values, one), tape.gradient(plain, one), rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
def test_balance_0_is_the_cross_entropy_of_the_answer_over_its_gap(combine):
    logits = said()
    target = objective(combine, balance=0.0)
    answer = target.ensemble.combined(tf.transpose(logits, [1, 0, 2])).numpy()
    ordered = np.sort(answer, axis=1)
    gap = (ordered[:, -1] - ordered[:, -2])[:, None]

    found = target.values(logits, LABELS)

    expected = -np.log(softmax(answer / gap))[np.arange(4), LABELS]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_behind_votes_stand_probabilities_of_logits_over_their_gaps():
    logits = said(30.0)
    target = objective("votes", balance=0.0)
    ordered = np.sort(logits, axis=-1)
    gaps = (ordered[..., -1] - ordered[..., -2])[..., None]
    answer = np.log(softmax(np.float64(logits) / gaps).mean(axis=1))
    ordered = np.sort(answer, axis=1)
    gap = (ordered[:, -1] - ordered[:, -2])[:, None]

    found = target.values(logits, LABELS)

    expected = -np.log(softmax(answer / gap))[np.arange(4), LABELS]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_the_scale_of_saturated_members_changes_nothing(combine):
    target = objective(combine, balance=1.0)
    logits = 100.0 * said()

    for power in (4, 10):
        found = target.values(2.0**power * logits, LABELS)

        np.testing.assert_allclose(found, target.values(logits, LABELS), rtol=1e-4)


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("combine", COMBINATIONS)
def test_values_and_gradients_stay_finite(combine, balance):
    far = np.sign(said().numpy()) * 1e4
    alone = np.full([4, 3, 5], -1e4)
    alone[:, 0, 0] = alone[:, 1, 1] = alone[:, 2, 2] = 1e4
    cases = [far, alone, np.zeros([4, 3, 5]), 1e4 * np.ones([4, 3, 5]), far[:, :1]]
    target = objective(combine, balance=balance)
    for case in cases:
        logits = tf.constant(case, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            values = target.values(logits, LABELS)

        assert np.isfinite(values).all()
        assert np.isfinite(tape.gradient(values, logits)).all()
        assert np.isfinite(target.weights(logits, LABELS)).all()


def test_no_gradient_goes_through_the_weights():
    logits = said() + 2.0 * tf.one_hot(LABELS, 5)[:, tf.newaxis]
    target = objective("probabilities", balance=1.0)
    weights = target.weights(logits, LABELS).numpy()
    with tf.GradientTape() as tape:
        tape.watch(logits)
        values = target.values(logits, LABELS)

    found = tape.gradient(values, logits)

    # Gaps are below 10, so that nothing is scaled: by hand, of a fixed mixture.
    mixed = (weights[:, :, None] * logits.numpy()).sum(axis=1)
    slope = softmax(mixed) - np.eye(5)[LABELS]
    expected = weights[:, :, None] * slope[:, None]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_fooled_is_what_the_ensemble_says_and_not_the_mixture():
    logits = tf.constant([[[8.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    target, labels = objective("votes"), tf.constant([0])

    # Two of three vote for the wrong class; the mixture holds the third one only.
    assert np.argmax(target.mixture(logits, labels)) == 0
    np.testing.assert_array_equal(target.fooled(logits, labels), [True])
    np.testing.assert_array_equal(target.predictions(logits), [1])


def test_any_attack_takes_it_without_an_evaluation():
    images, labels = grey()
    ensemble = planes("votes")
    victim = ReweightedEnsemble(ensemble, balance=0.75)

    adversarial, info = DecayingPGD(EPSILON, steps=6, seed=0)(
        images, labels, victim, return_info=True
    )

    wrong = np.argmax(ensemble(adversarial), axis=1) != labels
    assert wrong.all()
    np.testing.assert_array_equal(info.success, wrong)


def test_passes_through_the_members_are_counted():
    victim = Victim(planes("votes"))
    images, labels = grey(5)
    target = ReweightedEnsemble(victim)

    target(tf.constant(images), tf.constant(labels))
    assert victim.passes() == (5, 0)
    PGD(EPSILON, steps=3)(images, labels, target)

    assert victim.passes() == (5 + 3 * 5, 3 * 5)


def test_members_without_gradients_let_the_evaluation_go_on():
    class Rounded(Plane):
        def call(self, images, training=None, keys=None):
            return tf.round(super().call(images))

    images, labels = grey()
    ensemble = Ensemble([Rounded(np.ones([64]), 1.0)])
    attack = DecayingPGD(EPSILON, steps=2, random_start=False)

    found = attack(images, labels, ReweightedEnsemble(Victim(ensemble)))

    np.testing.assert_array_equal(found, images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"balance": 1.5}, r"`balance` must lie in \[0, 1\]. Received: balance=1.5"),
        ({"temperature": 0.0}, "`temperature` must be above 0. Received: .*=0.0"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        objective("votes", **options)


def test_what_is_no_ensemble_is_refused():
    for victim in (planes("votes").members[0], Victim(planes("votes").members[0])):
        with pytest.raises(TypeError, match="must be a kerobust.models.Ensemble"):
            ReweightedEnsemble(victim)


def test_unknown_combinations_are_refused():
    ensemble = Ensemble([None])
    ensemble.combine = "median"

    with pytest.raises(
        UserError, match="`combine` must be one of: probabilities, vote"
    ):
        ReweightedEnsemble(ensemble)
