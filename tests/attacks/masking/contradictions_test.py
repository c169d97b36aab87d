"""Tests of kerobust.attacks.masking.contradictions: each check in closed form."""

import numpy as np
import pytest

from kerobust.attacks.masking import contradictions
from kerobust.attacks.masking.contradictions import black_box_helps


def first(count: int, total: int = 64) -> np.ndarray:
    """Returns bool [total], True for the first `count`."""
    return np.arange(total) < count


def test_a_loss_that_rises_and_rises_is_no_finding():
    start = np.linspace(0.01, 2, 20)

    assert contradictions.loss_not_rising(start, start + 1, start + 1.1) is None
    # With more steps a tenth of the rise may be lost again.
    assert contradictions.loss_not_rising(start, start + 1, start + 0.9) is None


@pytest.mark.parametrize(
    ("few", "many", "text"),
    [
        (0.0, 0.0, "does not rise for 100.0%"),
        (-0.1, -0.4, "does not rise"),
        (0.5, -0.1, "does not rise"),
        (1.0, 0.7, "ends lower after more steps for 100.0%"),
        (np.nan, 1.0, "does not rise"),
    ],
)
def test_a_loss_that_stays_or_falls_is_reported(few, many, text):
    start = np.linspace(0.01, 2, 20)

    found = contradictions.loss_not_rising(start, start + few, start + many)

    assert found.code == "loss-not-rising" and found.severity == "warning"
    assert text in found.advice
    assert found.value == 1.0


def test_a_few_examples_whose_loss_stays_are_luck():
    # Binomial with 10 %: P(4 or more of 20) = 13 %, P(5 or more) = 4.3 %.
    start = np.ones(20)
    lost = np.where(first(4, 20), start, 2.0)
    more = np.where(first(5, 20), start, 2.0)

    assert contradictions.loss_not_rising(start, lost, lost) is None
    assert contradictions.loss_not_rising(start, more, more).value == 0.25


def test_accuracy_that_falls_with_the_radius_is_no_finding():
    radii = [(0.1, first(60)), (0.2, first(40)), (0.3, first(40)), (0.5, first(0))]

    assert contradictions.accuracy_not_falling(radii) is None
    assert contradictions.accuracy_not_falling(radii[:1]) is None


def test_examples_that_stand_in_the_larger_ball_only_are_reported():
    # As many are robust in both, but others: containment is broken for 16 of 64.
    radii = [(0.1, first(64)), (0.2, first(32)), (0.4, ~first(48)), (0.5, first(0))]

    found = contradictions.accuracy_not_falling(radii)

    assert found.code == "accuracy-not-falling" and found.severity == "warning"
    assert found.value == 16 / 64
    assert "within 0.2 but not within 0.4" in found.advice


def test_only_examples_that_grey_fools_must_fall_at_the_large_radius():
    found = contradictions.large_epsilon_not_near_zero(first(64), first(16), 0.5)

    assert found.code == "large-epsilon-not-near-zero" and found.severity == "error"
    assert found.value == 16 / 64
    # A constant classifier stands anywhere.
    constant = contradictions.large_epsilon_not_near_zero(first(64), first(0), 0.5)
    assert constant is None
    broken = contradictions.large_epsilon_not_near_zero(first(0), first(64), 0.5)
    assert broken is None


@pytest.mark.parametrize(
    ("total", "needed"), [(4, 2), (64, 2), (200, 3), (1_000, 6), (10_000, 29)]
)
def test_black_box_helps_from_so_many_examples_on(total, needed):
    everything = np.ones(total, bool)

    found = black_box_helps(everything, ~first(needed, total))

    assert found.code == "black-box-stronger" and found.severity == "error"
    assert found.value == needed / total and found.threshold == 0.002
    assert black_box_helps(everything, ~first(needed - 1, total)) is None


def test_the_black_box_is_not_credited_with_what_white_boxes_broke():
    white = ~first(30)

    # Flags of an attack that ran on the remainder only, either way.
    assert black_box_helps(white, white) is None
    assert black_box_helps(white, np.ones(64, bool)) is None
    assert black_box_helps(white, ~first(33)).value == 3 / 64


def test_flags_of_other_examples_are_refused():
    with pytest.raises(ValueError, match=r"of one length.*shapes \(3,\) and \(4,\)"):
        black_box_helps(np.ones(3), np.ones(4))


def test_noise_must_not_fool_more_than_a_step_does():
    # Five examples fall to noise only, none to the step only: 1/32 = 3.1 %.
    found = contradictions.noise_stronger(first(64), ~first(5))

    assert found.code == "noise-stronger" and found.severity == "error"
    assert found.value == 1.0
    assert contradictions.noise_stronger(first(64), ~first(4)) is None
    # Ten to noise only, 49 to the step only.
    assert contradictions.noise_stronger(first(15), ~first(10)) is None
    assert contradictions.noise_stronger(first(64), first(64)) is None


def test_what_another_scale_breaks_in_addition_is_reported():
    others = {"logits times 10": first(60), "logits times 0.1": first(32)}

    found = contradictions.scale_dependence(first(64), others)

    assert found.code == "scale-dependence" and found.severity == "warning"
    assert found.value == 0.5
    assert "with logits times 0.1" in found.advice


def test_a_weaker_attack_at_another_scale_is_no_finding():
    assert contradictions.scale_dependence(first(20), {"DLR": first(64)}) is None
    assert contradictions.scale_dependence(first(20), {"DLR": first(15)}) is None
