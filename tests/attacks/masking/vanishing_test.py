"""Tests of kerobust.attacks.masking.vanishing: each check in closed form."""

import numpy as np
import pytest

from kerobust.attacks.masking import vanishing


def test_losses_without_a_path_are_named_as_such():
    gradient = np.ones([4, 2, 2, 1])

    found = vanishing.missing_gradients({"cross-entropy": None, "DLR": gradient})

    assert found.code == "non-differentiable" and found.severity == "error"
    assert found.value == 0.5
    assert vanishing.missing_gradients({"DLR": gradient}) is None


def test_a_gradient_is_dead_when_no_step_can_follow_it():
    gradients = np.zeros([6, 2, 2, 1], np.float32)
    gradients[1, 0, 0, 0] = np.nan
    gradients[2, 0, 0, 0] = np.inf
    gradients[3, 0, 0, 0] = 1e-40  # Below float32's smallest normal number.
    gradients[4, 0, 0, 0] = -1e-30
    gradients[5] = 1.0

    dead = vanishing.dead_gradients(gradients)

    np.testing.assert_array_equal(dead, [True] * 4 + [False] * 2)
    assert vanishing.dead_gradients(gradients[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("dead", "severity"), [(2, None), (3, "warning"), (32, "warning"), (33, "error")]
)
def test_zero_gradients_count_from_three_of_64_and_are_an_error_from_half(
    dead, severity
):
    # Binomial with 1 %: P(2 or more of 64) = 13 %, P(3 or more) = 2.6 %.
    live = np.ones([64, 2, 2, 1])
    gradients = np.where(np.arange(64)[:, None, None, None] < dead, 0, live)

    found = vanishing.zero_gradients({"cross-entropy": gradients, "DLR": live})

    assert (found and found.severity) == severity
    if found:
        assert found.code == "zero-gradients"
        assert found.value == dead / 64
        assert f"{dead / 64:.1%} with cross-entropy, 0.0% with DLR" in found.advice


def test_the_advice_says_where_gradients_are_zero():
    found = vanishing.zero_gradients({"DLR": np.zeros([8, 1, 1, 1])}, "attacked")

    assert "Gradients of attacked images" in found.advice


def test_a_loss_that_is_zero_for_most_examples_is_saturated():
    # Binomial with 1/2: P(10 or more of 12) = 79/4096 = 1.9 %, P(9 or more) = 7.3 %.
    losses = np.full(12, 1e-7)

    found = vanishing.saturated(np.where(np.arange(12) < 10, losses, 1e-5))

    assert found.code == "saturated" and found.severity == "warning"
    assert found.value == pytest.approx(10 / 12)
    assert vanishing.saturated(np.where(np.arange(12) < 9, losses, 1e-5)) is None


def test_underflow_is_what_comes_back_when_the_loss_is_magnified():
    magnified = np.ones([1, 10, 10, 1])
    magnified[0, :5] = 0  # Zero indeed: these do not count.
    gradient = magnified / vanishing.MAGNIFIED
    gradient[0, 9, :2] = 0

    found = vanishing.half_precision_underflow(gradient, magnified)

    assert found.code == "half-precision-underflow" and found.severity == "warning"
    assert found.value == pytest.approx(2 / 50)
    same = magnified / vanishing.MAGNIFIED
    assert vanishing.half_precision_underflow(same, magnified) is None
    nothing = np.zeros([1, 2, 2, 1])
    assert vanishing.half_precision_underflow(nothing, nothing) is None


def test_float16_loses_what_magnifying_brings_back():
    # The smallest float16 is 6e-8: half of it rounds to 0.
    gradient = np.full([1, 2, 2, 1], 2e-8)

    found = vanishing.half_precision_underflow(
        gradient.astype(np.float16), (gradient * vanishing.MAGNIFIED).astype(np.float16)
    )

    assert found.value == 1.0
