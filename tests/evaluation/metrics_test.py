"""Intervals and paired tests against values worked out by hand."""

import numpy as np
import pytest

from kerobust.evaluation import mcnemar, paired_bootstrap, wilson


def test_wilson_interval_of_8_in_10_matches_the_hand_value():
    low, high = wilson(8, 10)

    # z = 1.959964: centre (.8 + z^2/20) / (1 + z^2/10) = .992073 / 1.384146 = .716740,
    # half width z sqrt(.8 * .2 / 10 + z^2/400) / 1.384146 = .226578.
    assert low == pytest.approx(0.490162, abs=1e-6)
    assert high == pytest.approx(0.943318, abs=1e-6)


def test_wilson_interval_of_half_is_symmetric():
    low, high = wilson(50, 100)

    assert low + high == pytest.approx(1.0)
    assert low == pytest.approx(0.403832, abs=1e-6)  # .5 - z / (2 sqrt(100 + z^2))


def test_wilson_interval_of_extreme_counts_ends_at_0_and_1():
    # Closed form at 0 of n: [0, z^2 / (n + z^2)].
    assert wilson(0, 20) == (0.0, pytest.approx(3.841459 / 23.841459, abs=1e-6))
    assert wilson(20, 20) == (pytest.approx(1 - 3.841459 / 23.841459, abs=1e-6), 1.0)


def test_wilson_interval_widens_with_confidence():
    narrow, wide = wilson(30, 50, confidence=0.5), wilson(30, 50, confidence=0.99)

    assert wide[0] < narrow[0] < 0.6 < narrow[1] < wide[1]


@pytest.mark.parametrize("successes, total", [(3, 2), (-1, 5), (0, 0)])
def test_wilson_refuses_impossible_counts(successes, total):
    with pytest.raises(ValueError, match=rf"Received: successes={successes}"):
        wilson(successes, total)


def test_wilson_refuses_a_confidence_of_95():
    with pytest.raises(ValueError, match=r"Received: confidence=95"):
        wilson(1, 2, confidence=95)


def test_mcnemar_counts_and_p_value_match_the_hand_value():
    first = np.array([1, 1, 1, 1, 1, 1, 0, 1, 0, 1], bool)
    second = np.array([0, 0, 0, 0, 0, 0, 1, 1, 0, 1], bool)

    test = mcnemar(first, second)

    # 6 against 1: 2 * (C(7,0) + C(7,1)) / 2^7 = 16 / 128.
    assert test == (6, 1, 0.125)


def test_mcnemar_of_an_even_split_or_no_split_is_certain_chance():
    flags = np.array([True, False, True])

    assert mcnemar([1, 0], [0, 1]).p_value == 1.0  # Two-sided sum 1.5, capped.
    assert mcnemar(flags, flags) == (0, 0, 1.0)


def test_mcnemar_is_symmetric_and_ignores_order():
    generator = np.random.default_rng(1)
    first, second = generator.random((2, 200)) < [[0.7], [0.5]]
    order = generator.permutation(200)

    test = mcnemar(first, second)

    assert mcnemar(first[order], second[order]) == test
    assert mcnemar(second, first) == (test.only_second, test.only_first, test.p_value)


def test_mcnemar_survives_counts_beyond_the_range_of_floats():
    first = np.arange(6000) < 3200  # 3200 against 2800, 2^6000 overflows.

    p_value = mcnemar(first, ~first).p_value

    # Normal approximation with continuity: z = 399 / sqrt(6000) = 5.151 -> 2.59e-7.
    assert p_value == pytest.approx(2.59e-7, rel=0.02)


def test_mcnemar_refuses_unequal_lengths():
    with pytest.raises(ValueError, match=r"Received: shapes \(2,\) and \(3,\)"):
        mcnemar([1, 0], [1, 0, 1])


def test_bootstrap_of_identical_arrays_is_zero():
    values = np.random.default_rng(0).random(100)

    assert paired_bootstrap(values, values) == (0.0, 0.0, 0.0)


def test_bootstrap_of_a_constant_shift_is_exactly_the_shift():
    values = np.arange(50.0)

    assert paired_bootstrap(values + 2.0, values) == (2.0, 2.0, 2.0)


def test_bootstrap_interval_matches_the_normal_one_for_many_examples():
    difference = np.random.default_rng(0).normal(size=2000)

    mean, low, high = paired_bootstrap(difference, np.zeros(2000))

    # Mean +- 1.96 sigma / sqrt(n); 10,000 draws know the bounds to about 2 %.
    spread = 1.96 * difference.std() / np.sqrt(2000)
    assert mean == pytest.approx(difference.mean())
    assert low == pytest.approx(mean - spread, abs=0.06 * spread)
    assert high == pytest.approx(mean + spread, abs=0.06 * spread)


def test_bootstrap_depends_on_its_seed_alone():
    first, second = np.random.default_rng(0).random((2, 40))

    assert paired_bootstrap(first, second) == paired_bootstrap(first, second)
    assert paired_bootstrap(first, second) != paired_bootstrap(first, second, seed=1)


def test_bootstrap_refuses_an_empty_comparison():
    with pytest.raises(ValueError, match="Received: examples=0, draws=10000"):
        paired_bootstrap([], [])
