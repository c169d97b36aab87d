"""Tests of kerobust.models.positions."""

import numpy as np
import pytest

from kerobust.config import UserError
from kerobust.models.positions import (
    INTERPOLATIONS,
    interpolation_matrix,
    resize_positions,
    sincos_2d,
)
from tests.goldens.closed_form import arrays, checks
from tests.models.filled import formula

SHA256 = "841065bda02673aec62e78177271a9bada832a636becb22b2c3095e0270b9c5e"
TORCH_SHA256 = "3529be6a8cab9ecd45745fb1c9f5b652fcdc8e1477ad9c002d3ee07e324685d8"
DINO_SHA256 = "30fefbc4b8b9f77c89b3d6a0b97e0bc70770cafa0650c25fe4e7e1d3bf8237dd"


def test_positions_equal_those_of_the_original_code():
    expected = checks("mimir_dense_diffattack.json", SHA256)["mae"]["expected"]

    table = sincos_2d(3, 3, 16)

    assert table.dtype == np.float32
    for row in (1, 2, 4):
        golden = expected[f"posembed_dim16_grid3_row{row}"]
        np.testing.assert_allclose(table[row], golden, atol=1e-7)
    np.testing.assert_allclose(table.sum(), expected["posembed_sum"], rtol=1e-6)


def test_the_class_token_has_position_zero():
    np.testing.assert_array_equal(sincos_2d(2, 3, 8)[0], 0.0)


def test_columns_come_first_on_a_grid_that_is_not_square():
    # Width 4: one frequency, 1. Patch 5 of a 2 x 3 grid is row 1, column 2.
    expected = [np.sin(2), np.cos(2), np.sin(1), np.cos(1)]

    table = sincos_2d(2, 3, 4)

    assert table.shape == (7, 4)
    np.testing.assert_allclose(table[1 + 5], expected, rtol=1e-6)


def test_a_width_that_is_no_multiple_of_4_is_refused():
    message = r"`width` .*--model.width.* multiple of 4 .*width=18\. Use 20,"
    with pytest.raises(UserError, match=message):
        sincos_2d(2, 2, 18)


def test_positions_of_local_crops_equal_those_of_the_original_code():
    golden = checks("dino_deacl_encoders.json", DINO_SHA256)["D5_pos_interp_14_to_6"]
    expected = golden["expected"]
    grid = formula(golden["inputs"]["grid_hw_c"]).reshape(196, 2)
    table = np.concatenate([np.full([1, 2], 9.0), grid]).astype(np.float32)

    found = resize_positions(table, (14, 14), (6, 6), "dino").numpy()

    places = found[1:].reshape(6, 6, 2)
    for row, column in ((0, 0), (2, 3), (5, 5)):
        value = expected[f"out_{row}_{column}"]
        np.testing.assert_allclose(places[row, column], value, atol=1e-6)
    np.testing.assert_allclose(places.sum(), expected["sum"], atol=1e-5)
    np.testing.assert_allclose((places**2).sum(), expected["sumsq"], rtol=1e-6)
    np.testing.assert_array_equal(found[0], 9.0)
    matrix = interpolation_matrix(14, 6, "dino")
    np.testing.assert_allclose(matrix[0], expected["row0_of_M"], atol=1e-11)


@pytest.mark.parametrize("rule", INTERPOLATIONS)
@pytest.mark.parametrize(("old", "new"), [(14, 6), (4, 6), (5, 1), (1, 3)])
def test_constants_stay_as_they_are(rule, old, new):
    matrix = interpolation_matrix(old, new, rule)

    assert matrix.shape == (new, old)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, rtol=1e-12)


@pytest.mark.parametrize("rule", ["mae", "timm"])
def test_twice_as_many_places_read_a_quarter_beside_the_old_ones(rule):
    parameter = {"mae": -0.75, "timm": -0.5}[rule]

    matrix = interpolation_matrix(8, 16, rule)

    # Place 8 is (8 + 1/2) / 2 - 1/2 = 3.75: distances 1.75, 0.75, 0.25 and 1.25.
    far = [parameter * (x**3 - 5 * x**2 + 8 * x - 4) for x in (1.75, 1.25)]
    near = [(parameter + 2) * x**3 - (parameter + 3) * x**2 + 1 for x in (0.75, 0.25)]
    expected = [0, 0, far[0], *near, far[1], 0, 0]
    np.testing.assert_allclose(matrix[8], expected, atol=1e-12)


@pytest.mark.parametrize("rule", INTERPOLATIONS)
@pytest.mark.parametrize("new", [(4, 6), (10, 5), (3, 3), (14, 14)])
def test_every_rule_equals_that_of_its_source_in_torch(rule, new):
    golden = arrays("torch_encoders.npz", TORCH_SHA256)
    expected = golden[f"positions_{rule}_{new[0]}x{new[1]}"]
    table = np.random.RandomState(1).standard_normal([49, 2])
    table = np.concatenate([np.zeros([1, 2]), table])

    found = resize_positions(table, (7, 7), new, rule)

    np.testing.assert_allclose(found[1:], expected.reshape(-1, 2), rtol=1e-6, atol=1e-6)
