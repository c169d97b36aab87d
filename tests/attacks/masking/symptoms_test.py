"""Tests of kerobust.attacks.masking.symptoms: each check in closed form."""

import numpy as np
import pytest

from kerobust.attacks.masking import symptoms

LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]], np.float32)
SOFTMAX = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)


def test_finite_logits_pass_and_the_share_of_others_is_counted():
    broken = LOGITS.copy()
    broken[1, 2] = np.nan

    found = symptoms.non_finite_logits(broken)

    assert symptoms.non_finite_logits(LOGITS) is None
    assert found.code == "non-finite-logits" and found.severity == "error"
    assert found.value == 0.5  # One of two.
    assert symptoms.non_finite_logits(np.array([[np.inf, 0.0]])).value == 1.0


def test_probabilities_are_told_from_logits():
    found = symptoms.probabilities(SOFTMAX)

    assert found.code == "probabilities" and found.severity == "warning"
    assert symptoms.probabilities(SOFTMAX.astype(np.float16)) is not None
    assert symptoms.probabilities(LOGITS) is None
    # Sums of 1 alone, or one row of probabilities, do not make them.
    assert symptoms.probabilities(np.array([[2.0, -1.0]])) is None
    assert symptoms.probabilities(np.stack([SOFTMAX[0], LOGITS[0]])) is None
    assert symptoms.probabilities(np.log(SOFTMAX)) is None


def test_log_probabilities_are_told_from_logits():
    found = symptoms.log_probabilities(np.log(SOFTMAX))

    assert found.code == "log-probabilities" and found.severity == "info"
    assert symptoms.log_probabilities(LOGITS) is None
    assert symptoms.log_probabilities(LOGITS - 100) is None
    assert symptoms.log_probabilities(LOGITS + 1000) is None
    assert symptoms.log_probabilities(SOFTMAX) is None


@pytest.mark.parametrize(
    ("low", "high", "excess", "fix"),
    [
        (0.0, 255.0, 254.0, "Divide by 255"),
        (-2.0, 1.5, 2.0, "Undo the normalisation"),
        (0.0, 1.001, 0.001, "Divide by 255"),
    ],
)
def test_images_outside_the_box_are_reported_with_the_likely_fix(
    low, high, excess, fix
):
    images = np.array([low, 0.5, high], np.float32)

    found = symptoms.inputs_outside_bounds(images)

    assert found.code == "inputs-outside-bounds" and found.severity == "error"
    assert found.value == pytest.approx(excess, rel=1e-3)
    assert fix in found.advice and f"[{low:g}, {high:g}]" in found.advice


def test_images_in_the_box_pass_with_the_slack_that_attacks_grant():
    assert symptoms.inputs_outside_bounds(np.array([0.0, 1.0])) is None
    assert symptoms.inputs_outside_bounds(np.array([-0.00005, 1.00005])) is None


def test_images_that_are_no_numbers_are_reported():
    found = symptoms.inputs_outside_bounds(np.array([0.0, np.nan]))

    assert "Repair the data" in found.advice
    assert np.isfinite(found.value)


def test_a_scale_at_which_accuracy_jumps_is_named():
    labels = np.arange(20) % 4
    right = np.arange(20) < 5

    found = symptoms.input_scale(
        labels, right, {"255 * images": ~right, "2 * images - 1": right}
    )

    assert found.code == "input-scale" and found.severity == "error"
    assert found.value == pytest.approx(0.5)  # 15 gained, 5 lost, of 20.
    assert "75.0% on 255 * images" in found.advice


@pytest.mark.parametrize(
    ("labels", "right", "other"),
    [
        # As good as before.
        (np.arange(20) % 4, np.ones(20, bool), np.ones(20, bool)),
        # Four gained: sixteen to one against chance is not enough.
        (np.arange(20) % 4, np.arange(20) < 12, np.arange(20) < 16),
        # All of the most frequent class, and no more: a constant.
        (np.arange(20) < 15, np.arange(20) >= 15, np.arange(20) < 15),
        # Significant but small.
        (np.arange(200) % 4, np.arange(200) < 150, np.arange(200) < 160),
    ],
)
def test_no_scale_is_named_without_a_clear_gain(labels, right, other):
    assert symptoms.input_scale(labels, right, {"255 * images": other}) is None


def test_a_victim_that_is_always_wrong_is_reported_if_that_says_something():
    found = symptoms.nothing_right(np.zeros(8, bool))

    assert found.code == "nothing-right" and found.severity == "warning"
    assert symptoms.nothing_right(np.zeros(7, bool)) is None
    assert symptoms.nothing_right(np.arange(64) == 3) is None


@pytest.mark.parametrize(
    ("epsilon", "norm", "size"),
    [
        (8 / 255, "linf", 3072),
        (0.25 / 255, "linf", 150528),
        (0.5, "linf", 3072),
        (0.5, "l2", 3072),
        (0.1, "l2", 150528),
        (12.0, "l1", 3072),
        (60.0, "l1", 150528),
        (0.1, "linf", 64),
        (0.5, "l2", 64),
        (2.0, "l1", 64),
    ],
)
def test_radii_in_use_pass(epsilon, norm, size):
    assert symptoms.epsilon_unit_slip(epsilon, norm, size) is None


@pytest.mark.parametrize(
    ("epsilon", "norm", "size", "severity", "hint"),
    [
        (8.0, "linf", 3072, "error", "did you divide by 255"),
        (0.51, "linf", 3072, "warning", "did you divide by 255"),
        (8 / 255 / 255, "linf", 3072, "warning", "twice"),
        (16 / 255 / 255, "linf", 3072, "warning", "twice"),
        (0.5 * 255, "l2", 3072, "error", "did you divide by 255"),
        (0.5 / 255, "l2", 3072, "warning", "twice"),
        (3.0 / 255, "l2", 150528, "warning", "twice"),
        (12.0 * 255, "l1", 3072, "warning", "did you divide by 255"),
        (12.0 / 255, "l1", 3072, "warning", "twice"),
        (0.0, "linf", 3072, "warning", "twice"),
    ],
)
def test_radii_in_other_units_are_reported(epsilon, norm, size, severity, hint):
    found = symptoms.epsilon_unit_slip(epsilon, norm, size)

    assert found.code == "epsilon-unit-slip" and found.severity == severity
    assert hint in found.advice
    assert found.value == epsilon


def test_randomness_is_the_largest_change_over_the_spread_of_the_logits():
    # Rows spread by 3 and 5, 4 on average; one logit moves by 0.04.
    moved = LOGITS.copy()
    moved[1, 0] += 0.04

    found = symptoms.randomness(np.stack([LOGITS, LOGITS, moved]))

    assert found.code == "randomness" and found.severity == "warning"
    assert found.value == pytest.approx(0.01, rel=1e-4)
    # Half precision may differ by a unit in the last place, 0.8 %.
    assert symptoms.randomness(np.stack([LOGITS, moved]), half=True) is None
    assert symptoms.randomness(np.stack([LOGITS, LOGITS * (1 + 1e-6)])) is None


def test_logits_that_follow_batch_mates_are_reported():
    found = symptoms.batch_mate_dependence(LOGITS, LOGITS + 0.2)

    assert found.code == "batch-mate-dependence" and found.severity == "error"
    assert found.value == pytest.approx(0.05, rel=1e-4)  # 0.2 over a spread of 4.
    assert symptoms.batch_mate_dependence(LOGITS, LOGITS + 0.2, half=True) is None
    assert symptoms.batch_mate_dependence(LOGITS, LOGITS + 0.01) is None


def test_constant_logits_do_not_divide_by_zero():
    constant = np.ones([2, 3])

    assert symptoms.randomness(np.stack([constant, constant])) is None
    assert symptoms.randomness(np.stack([constant, constant + 0.1])).value > 0


def test_logits_that_break_alone_are_reported_with_a_number_that_json_can_hold():
    found = symptoms.batch_mate_dependence(LOGITS, LOGITS * np.nan)

    assert np.isfinite(found.value)


def test_changed_variables_or_dependent_batch_norm_mean_training_mode():
    changed = symptoms.train_mode_batch_norm(["bn/moving_mean:0"], False)
    dependent = symptoms.train_mode_batch_norm([], True)

    assert changed.code == dependent.code == "train-mode-batch-norm"
    assert changed.severity == dependent.severity == "error"
    assert "A forward changes bn/moving_mean:0" in changed.advice
    assert "depends on batch mates" in dependent.advice
    assert symptoms.train_mode_batch_norm([], False) is None
