"""Tests of kerobust.models.positions."""

import numpy as np
import pytest

from kerobust.config import UserError
from kerobust.models.positions import sincos_2d
from tests.goldens.closed_form import checks

SHA256 = "841065bda02673aec62e78177271a9bada832a636becb22b2c3095e0270b9c5e"


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
