"""Tests of kerobust.losses.dependence."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.losses.dependence import (
    ESTIMATORS,
    HSIC,
    NormalizedHSIC,
    RenyiMutualInformation,
    chunk_mean,
)
from tests.goldens.closed_form import checks, grid, gridq

SHA256 = "841065bda02673aec62e78177271a9bada832a636becb22b2c3095e0270b9c5e"
GOLDEN = checks("mimir_dense_diffattack.json", SHA256)
SETS = {"A_lowrank": grid, "B_fullrank": gridq}
NAMES = sorted(ESTIMATORS)


def inputs(name, dtype=np.float64):
    """Returns X [16, 24] and Z [16, 20] of a golden set."""
    make = SETS[name]
    first = make((16, 24), 0.37, 0.1, "sin", 0.5, 0.5)
    return first.astype(dtype), make((16, 20), 0.91, 0.3, "cos", 2.0, 0).astype(dtype)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def gradients(estimator, first, second):
    first, second = tf.constant(first), tf.constant(second)
    with tf.GradientTape() as tape:
        tape.watch([first, second])
        value = estimator(first, second)
    return tape.gradient(value, [first, second])


# Float64 inputs meet the reference to 1e-7, the rounding of the float32 result.
@pytest.mark.parametrize("name", sorted(SETS))
@pytest.mark.parametrize("sigma", [1, 5])
def test_nhsic_equals_the_original_code_in_float64(name, sigma):
    expected = GOLDEN["hsic"]["expected"][name][f"nhsic_cca_sigma{sigma}"]

    value = NormalizedHSIC(sigma)(*inputs(name))

    np.testing.assert_allclose(value, expected, rtol=GOLDEN["hsic"]["rtol_f64"])


def test_the_ridge_does_not_pass_through_float32():
    # tf.cast(1e-5, float64) is 9.9999997e-6, which moves the value by 2e-8 relative:
    # invisible in the float32 result, so this looks at the float64 one.
    expected = GOLDEN["hsic"]["expected"]["B_fullrank"]["nhsic_cca_sigma5"]

    value = NormalizedHSIC()._value(*map(tf.constant, inputs("B_fullrank")))

    np.testing.assert_allclose(value, expected, rtol=1e-9)


@pytest.mark.parametrize("name", sorted(SETS))
def test_nhsic_of_float32_inputs_equals_the_original_code(name):
    expected = GOLDEN["hsic"]["expected"][name]["nhsic_cca_sigma5"]

    value = NormalizedHSIC()(*inputs(name, np.float32))

    np.testing.assert_allclose(value, expected, rtol=GOLDEN["hsic"]["rtol_f32"][name])


@pytest.mark.parametrize("name", sorted(SETS))
def test_nhsic_of_features_with_themselves_equals_the_original_code(name):
    expected = GOLDEN["hsic"]["expected"][name]["nhsic_cca_self_ZZ_sigma5"]
    features = inputs(name)[1]

    np.testing.assert_allclose(
        NormalizedHSIC()(features, features), expected, rtol=1e-7
    )


@pytest.mark.parametrize("name", sorted(SETS))
def test_the_gradient_of_nhsic_equals_that_of_the_original_code(name):
    expected = GOLDEN["hsic"]["expected"][name]["gradient"]

    gradient = gradients(NormalizedHSIC(), *inputs(name))[1].numpy()

    np.testing.assert_allclose(
        gradient.ravel()[:4], expected["d_nhsic_sigma5_dZ_first4"], rtol=1e-6
    )
    np.testing.assert_allclose(np.abs(gradient).sum(), expected["abs_sum"], rtol=1e-6)


@pytest.mark.parametrize("name", sorted(SETS))
def test_hsic_equals_the_reference(name):
    expected = GOLDEN["hsic"]["expected"][name]
    first, second = inputs(name)
    # exp(-D) = exp(-D' / (2 * 25 * d)) for features scaled by sqrt(50 d).
    wide = first * np.sqrt(50 * 24), second * np.sqrt(50 * 20)

    scaled, plain = HSIC()(first, second), HSIC()(*wide)

    np.testing.assert_allclose(scaled, expected["hsic_trace_K=exp(-D/(2*25*d))"], 1e-7)
    np.testing.assert_allclose(plain, expected["hsic_trace_K=exp(-D/1)"], 1e-7)


def test_two_rows_have_a_pencil_answer():
    # D = 4 and 9 in one dimension, sigma 1: k = exp(-2) and exp(-4.5). The centred
    # kernel of two rows has the only eigenvalue 1 - k, on the same vector for both.
    first, second = np.array([[0.0], [2.0]]), np.array([[1.0], [4.0]])
    a, b = 1 - np.exp(-2.0), 1 - np.exp(-4.5)
    ridge = 2 * 0.1

    plain = HSIC(sigma=1.0)(first, second)
    normalised = NormalizedHSIC(sigma=1.0, ridge=0.1)(first, second)

    np.testing.assert_allclose(plain, a * b, rtol=1e-6)
    np.testing.assert_allclose(normalised, a / (a + ridge) * b / (b + ridge), rtol=1e-6)


@pytest.mark.parametrize(
    ("width", "key"),
    [
        (1.0, "sigma1"),
        ("repo", "sigma_literal(first 10 rows)"),
        ("neighbours", "sigma_intended(10 smallest per row)"),
    ],
)
@pytest.mark.parametrize("name", sorted(SETS))
def test_renyi_information_equals_the_original_code(name, width, key):
    expected = GOLDEN["renyi_mi"]["expected"][name][key]["I"]

    value = RenyiMutualInformation(width=width)(*inputs(name))

    np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(SETS))
def test_renyi_information_of_order_two_equals_the_reference(name):
    expected = GOLDEN["renyi_mi"]["expected"][name]["alpha2_sigma1"]["I"]

    value = RenyiMutualInformation(alpha=2.0, width=1.0)(*inputs(name, np.float32))

    np.testing.assert_allclose(value, expected, atol=GOLDEN["renyi_mi"]["atol_f32"])


def test_renyi_information_of_two_far_pairs_is_one_bit():
    # Rows are equal within two pairs and far between them: each kernel has two
    # eigenvalues 1/2, so every entropy is 1 bit and I = 1 + 1 - 1.
    rows = np.repeat([[0.0], [100.0]], 2, axis=0)

    value = RenyiMutualInformation(width=1.0)(rows, rows)

    np.testing.assert_allclose(value, 1.0, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_estimators_are_symmetric(name):
    first, second = normal(12, 5), normal(12, 3, seed=1)

    forward, backward = (
        ESTIMATORS[name]()(first, second),
        ESTIMATORS[name]()(second, first),
    )

    np.testing.assert_allclose(forward, backward, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_estimators_ignore_rotations_shifts_and_the_order_of_rows(name):
    first, second = normal(12, 5), normal(12, 3, seed=1)
    rotation = np.linalg.qr(normal(5, 5, seed=2))[0]
    # The repo's width reads the first ten rows; the default reads all of them.
    order = np.random.default_rng(3).permutation(12)

    moved = ESTIMATORS[name]()((first @ rotation + 2.0)[order], second[order])

    np.testing.assert_allclose(moved, ESTIMATORS[name]()(first, second), rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_copies_depend_more_than_independent_features(name):
    first, second = normal(64, 2), normal(64, 2, seed=1)
    estimator = ESTIMATORS[name]()

    assert estimator(first, first) > 1.2 * estimator(first, second)


def test_hsic_of_independent_features_vanishes_with_more_rows():
    # Its bias falls as 1 / m: 16 times the rows, about a sixteenth.
    few = HSIC(sigma=1.0)(normal(32, 2), normal(32, 2, seed=1))
    many = HSIC(sigma=1.0)(normal(512, 2), normal(512, 2, seed=1))

    assert many < few / 8


@pytest.mark.parametrize("name", NAMES)
def test_estimators_of_constant_features_are_zero(name):
    # atol: eigenvalues near 0 leave 1e-12 behind, times 100 for alpha = 1.01.
    value = ESTIMATORS[name]()(np.ones([6, 2]), normal(6, 3))

    np.testing.assert_allclose(value, 0.0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_values_are_float32_and_computed_in_float64(name):
    # 1000 + small: float32 distances of these rows are mostly rounding.
    first = normal(8, 3).astype(np.float32)

    value = ESTIMATORS[name]()(first + np.float32(1024.0), first)

    assert value.dtype == tf.float32
    np.testing.assert_allclose(value, ESTIMATORS[name]()(first, first), rtol=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_finite_differences(name):
    estimator = ESTIMATORS[name]()
    if name == "renyi":  # Widths found from the data are constants to the gradient.
        estimator = RenyiMutualInformation(width=2.0)
    first, second = normal(6, 3), normal(6, 2, seed=1)
    direction = normal(6, 3, seed=2)

    gradient = gradients(estimator, first, second)[0]

    # `_value` keeps float64, which finite differences need.
    above = estimator._value(*map(tf.constant, (first + 1e-6 * direction, second)))
    below = estimator._value(*map(tf.constant, (first - 1e-6 * direction, second)))
    slope = (above - below) / 2e-6
    np.testing.assert_allclose(
        np.sum(gradient * direction), slope, rtol=1e-4, atol=1e-12
    )


@pytest.mark.parametrize("name", NAMES)
def test_gradients_flow_to_both_sides_unless_stopped(name):
    estimator = ESTIMATORS[name]()
    first, second = normal(6, 3), normal(6, 2, seed=1)

    both = gradients(estimator, first, second)
    stopped = gradients(lambda a, b: estimator(tf.stop_gradient(a), b), first, second)

    assert np.abs(both[0]).max() > 0 and np.abs(both[1]).max() > 0
    assert stopped[0] is None
    np.testing.assert_allclose(stopped[1], both[1])


@pytest.mark.parametrize("batch_is_known", [True, False])
@pytest.mark.parametrize(
    ("rows", "pieces"),
    [(3, [3]), (4, [4]), (5, [4]), (6, [4, 2]), (8, [4, 4]), (11, [4, 4, 3])],
)
def test_chunks_are_consecutive_and_short_remainders_are_dropped(
    rows, pieces, batch_is_known
):
    first, second = normal(rows, 3), normal(rows, 2, seed=1)
    stops = np.cumsum(pieces)
    parts = [slice(stop - size, stop) for stop, size in zip(stops, pieces, strict=True)]
    expected = np.mean([HSIC()(first[part], second[part]) for part in parts])
    length = rows if batch_is_known else None

    @tf.function(
        input_signature=[
            tf.TensorSpec([length, 3], tf.float64),
            tf.TensorSpec([length, 2], tf.float64),
        ]
    )
    def mean(first, second):
        return chunk_mean(HSIC(), first, second, 4)

    value, skipped = mean(first, second)

    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert skipped == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_non_finite_chunk_counts_zero_and_gets_zero_gradient(name, bad):
    first, second = normal(8, 3), normal(8, 2, seed=1)
    second[1, 0] = bad
    estimator = ESTIMATORS[name]()
    skips = []

    def mean(first, second):
        value, skipped = chunk_mean(estimator, first, second, 4)
        skips.append(float(skipped))
        return value

    value = mean(first, second)
    gradient = gradients(mean, first, second)

    np.testing.assert_allclose(value, estimator(first[4:], second[4:]) / 2, rtol=1e-6)
    assert skips == [1.0, 1.0]
    np.testing.assert_array_equal(gradient[0][:4], 0.0)
    np.testing.assert_array_equal(gradient[1][:4], 0.0)
    assert np.isfinite(gradient[1][4:]).all() and np.abs(gradient[1][4:]).max() > 0


def test_a_non_finite_value_of_any_estimator_is_skipped():
    value, skipped = chunk_mean(
        lambda first, second: tf.constant(np.nan), normal(4, 1), normal(4, 1), 2
    )

    assert (value, skipped) == (0.0, 2.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_single_row_depends_on_nothing(name):
    value, skipped = chunk_mean(ESTIMATORS[name](), normal(1, 3), normal(1, 2), 4)

    np.testing.assert_allclose(value, 0.0, atol=1e-6)
    assert skipped == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 1}, r"`alpha` must be above 0 and not 1. Received: alpha=1\."),
        ({"width": "median"}, '`width` must be "neighbours", .*Received: width=median'),
        ({"width": 0.0}, r"`width` must be positive. Received: width=0\.0\."),
    ],
)
def test_renyi_rejects_what_it_cannot_compute(arguments, message):
    with pytest.raises(ValueError, match=message):
        RenyiMutualInformation(**arguments)
