"""Objectives of logits: values, goals, and what they do not depend on."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import (
    DLR,
    PGD,
    CrossEntropy,
    LegacyMargin,
    LogitMargin,
    TargetedCrossEntropy,
    TargetedDLR,
    TargetedMargin,
    ranked_goals,
)
from tests.attacks.victims import convnet, digits, golden
from tests.goldens.closed_form import checks
from tests.models.dverge import SHA256
from tests.models.filled import formula

LOGITS = tf.constant([[4.0, 1.0, 2.0, 0.0], [0.0, 3.0, 1.0, 2.0]])
LABELS = tf.constant([0, 2])
GOALS = {"labels": LABELS, "goals": tf.constant([1, 3])}


def same(images):
    return images


def test_dlr_is_the_margin_over_the_spread_of_the_best_three():
    found = DLR(same).values(LOGITS, LABELS)

    # -(4 - 2) / (4 - 1) and -(1 - 3) / (3 - 1).
    np.testing.assert_allclose(found, [-2 / 3, 1.0], rtol=1e-6)


def test_targeted_dlr_divides_by_the_mean_of_the_third_and_the_fourth():
    found = TargetedDLR(same).values(LOGITS, GOALS)

    # (1 - 4) / (4 - (1 + 0) / 2) and (2 - 1) / (3 - (1 + 0) / 2).
    np.testing.assert_allclose(found, [-3 / 3.5, 1 / 2.5], rtol=1e-6)


@pytest.mark.parametrize(
    ("logits", "untargeted", "targeted"),
    [
        # Two classes: the margin 1 - 3. Three: over 3 - 0, for both.
        ([[3.0, 1.0]], -2.0, -2.0),
        ([[3.0, 1.0, 0.0]], -2 / 3, -2 / 3),
    ],
)
def test_few_classes_get_the_ratio_that_they_allow(logits, untargeted, targeted):
    logits, labels = tf.constant(logits), tf.constant([0])
    goals = {"labels": labels, "goals": tf.constant([1])}

    found = DLR(same).values(logits, labels), TargetedDLR(same).values(logits, goals)

    np.testing.assert_allclose(np.concatenate(found), [untargeted, targeted], rtol=1e-6)


def test_targeted_margin_and_cross_entropy_are_their_formulas():
    margin = TargetedMargin(same).values(LOGITS, GOALS)
    reached = TargetedCrossEntropy(same)

    values = reached.values(LOGITS, GOALS["goals"])

    np.testing.assert_allclose(margin, [1.0 - 4.0, 2.0 - 1.0])
    expected = tf.gather(tf.nn.log_softmax(LOGITS), GOALS["goals"], batch_dims=1)
    np.testing.assert_allclose(values, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", [TargetedDLR, TargetedMargin])
def test_any_wrong_class_counts_as_success_whatever_the_goal(kind):
    found = kind(same).fooled(LOGITS, GOALS)

    # Classes 0 and 1 are predicted, labels are 0 and 2, goals 1 and 3.
    np.testing.assert_array_equal(found, [False, True])


def test_targeted_cross_entropy_wants_the_goal_itself():
    found = TargetedCrossEntropy(same).fooled(LOGITS, tf.constant([0, 3]))

    np.testing.assert_array_equal(found, [True, False])


def test_goals_are_ranked_among_the_classes_beside_the_label():
    ranks = [ranked_goals(LOGITS, LABELS, rank).numpy().tolist() for rank in (1, 2, 3)]

    # Row 0 without class 0: 2, 1, 3. Row 1 without class 2: 1, 3, 0.
    assert ranks == [[2, 1], [1, 3], [3, 0]]


def test_without_targets_the_goal_is_the_runner_up():
    found = TargetedDLR(same).predictions(LOGITS)

    np.testing.assert_array_equal(found["labels"], [0, 1])
    np.testing.assert_array_equal(found["goals"], [2, 3])
    wanted = TargetedCrossEntropy(same).predictions(LOGITS)
    np.testing.assert_array_equal(wanted, [2, 3])


@pytest.mark.parametrize(("kind", "scaled"), [(DLR, True), (TargetedDLR, True)])
def test_ratios_change_with_neither_shift_nor_scale(kind, scaled):
    targets = GOALS if kind is TargetedDLR else LABELS

    found = [
        kind(same).values(logits, targets).numpy()
        for logits in (LOGITS, LOGITS + 100.0, 1000.0 * LOGITS)
    ]

    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "name"), [(DLR, "dlr"), (TargetedDLR, "dlr_t")], ids=["dlr", "dlr_t"]
)
def test_values_and_gradients_are_those_of_the_original(kind, name):
    reference = golden("attacks_suite")
    images, labels = digits()
    images, targets = tf.constant(images), tf.constant(labels)
    if kind is TargetedDLR:
        goals = tf.constant(reference["target_top_other"])
        targets = {"labels": targets, "goals": goals}
    objective = kind(convnet())

    with tf.GradientTape() as tape:
        tape.watch(images)
        values = objective(images, targets)
    gradient = tape.gradient(values, images)

    np.testing.assert_allclose(values, reference[f"loss_{name}"], rtol=1e-4, atol=1e-4)
    difference = np.abs(gradient - reference[f"grad_{name}"]).max()
    assert difference <= 1e-4 * np.abs(reference[f"grad_{name}"]).max()


def test_dlr_sees_what_saturated_cross_entropy_hides():
    images, labels = digits(100)
    network = convnet()

    def loud(images):
        return 1000.0 * network(images)

    attack = PGD(0.2, steps=10, random_start=False, keep="best")
    fooled = {
        kind: attack(images, labels, kind(loud), return_info=True)[1].success
        for kind in (CrossEntropy, DLR, LogitMargin)
    }

    # Cross-entropy of logits x 1000 has no gradient at all for most of the digits.
    counts = {kind: int(np.sum(found)) for kind, found in fooled.items()}
    assert counts[CrossEntropy] < 15
    assert counts[DLR] > 35 and counts[LogitMargin] > 35


def test_a_targeted_attack_reaches_the_class_it_wants():
    images, labels = digits(40)
    network = convnet()
    wanted = ranked_goals(network(images), labels, 1)

    adversarial, info = PGD(0.3, steps=20, seed=0, keep="best")(
        images, wanted, TargetedCrossEntropy(network), return_info=True
    )

    reached = network(adversarial).numpy().argmax(axis=1) == wanted.numpy()
    np.testing.assert_array_equal(info.success, reached)
    assert reached.mean() > 0.9


@pytest.fixture(scope="module")
def quirk():
    """Returns logits, labels and numbers of V5, the margin in the code of DVERGE."""
    check = checks("dverge.json", SHA256)["V5_cw_quirk"]
    logits = formula(check["inputs"]["logits"])
    logits[3] = np.where(np.arange(10) == 4, 6.0, -6.0)
    labels = tf.constant(check["inputs"]["y"])
    return tf.constant(logits, tf.float32), labels, check["expected"]


def test_the_legacy_margin_gives_the_numbers_of_the_original(quirk):
    logits, labels, expected = quirk
    legacy = LegacyMargin(same)

    on_logits = legacy.values(logits, labels)
    on_logs = legacy.values(tf.nn.log_softmax(logits), labels)

    for found, key in (
        (on_logits, "on_logits"),
        (on_logs, "on_logprobs_original_quirk"),
    ):
        part = expected[key]
        each = np.subtract(part["correct"], part["wrong"]) + 0.1
        np.testing.assert_allclose(found, -np.maximum(each, 0), rtol=1e-5)
        np.testing.assert_allclose(np.sum(found), part["loss"], rtol=1e-5)


def test_the_margin_of_this_library_gives_the_number_of_the_corrected_code(quirk):
    logits, labels, expected = quirk
    logs = tf.nn.log_softmax(logits)

    margin = LogitMargin(same).values(logs, labels)

    own = tf.gather(logs, labels, batch_dims=1, axis=1)
    wrong = expected["on_logprobs_fixed_wrong"]
    np.testing.assert_allclose(margin + own, wrong, rtol=1e-5)
    clipped = -np.maximum(0.1 - margin.numpy(), 0)
    np.testing.assert_allclose(clipped.sum(), expected["fixed_loss_conf0.1"], rtol=1e-5)


@pytest.mark.parametrize(("probability", "moves"), [(0.9, False), (0.91, True)])
def test_on_log_probabilities_the_legacy_margin_has_no_gradient(probability, moves):
    # exp(-0.1) is 0.905.
    rest = (1 - probability) / 2
    logits = tf.math.log([[probability, rest, rest]])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        logs = tf.nn.log_softmax(logits)
        legacy = LegacyMargin(same).values(logs, tf.constant([0]))
        margin = LogitMargin(same).values(logs, tf.constant([0]))

    assert np.any(tape.gradient(legacy, logits)) == moves
    assert np.any(tape.gradient(margin, logits))


@pytest.mark.parametrize(
    ("kind", "targets", "message"),
    [
        (
            TargetedCrossEntropy,
            GOALS,
            "the classes to reach.*of type dict.*labels, goals",
        ),
        (
            TargetedDLR,
            LABELS,
            r"`targets` of TargetedDLR must be \{.*CrossEntropy\(model",
        ),
        (
            TargetedMargin,
            LABELS,
            r"`targets` of TargetedMargin must be \{.*shape \(2,\)",
        ),
        (TargetedMargin, {"labels": LABELS}, "`targets` of TargetedMargin must be"),
    ],
)
def test_goals_in_the_wrong_structure_are_refused(kind, targets, message):
    with pytest.raises(ValueError, match=message):
        kind(same).values(LOGITS, targets)
    with pytest.raises(ValueError, match=message):
        kind(same).fooled(LOGITS, targets)


def test_the_legacy_margin_refuses_a_negative_confidence():
    with pytest.raises(ValueError, match="`confidence` must be at least 0. .*=-1"):
        LegacyMargin(same, confidence=-1)
