"""Tests of kerobust.attacks.masking.findings."""

import json
import pickle

import numpy as np
import pytest

from kerobust.attacks.masking.findings import (
    Finding,
    MaskingError,
    beyond_chance,
    mean,
    too_many,
    worst_first,
)

ERROR = Finding("zero-gradients", "error", 0.98, 0.01, "All is flat.")
WARNING = Finding("saturated", "warning", 0.6, 0.5, "All is full.")
INFO = Finding("log-probabilities", "info", 0.0, 0.005, "All is fine.")


def test_a_finding_travels_as_json():
    found = json.loads(json.dumps(ERROR.to_dict()))

    assert found == {
        "code": "zero-gradients",
        "severity": "error",
        "value": 0.98,
        "threshold": 0.01,
        "advice": "All is flat.",
    }
    assert Finding(**found) == ERROR


def test_errors_come_first_and_what_did_not_fire_is_left_out():
    other = ERROR._replace(code="probabilities")

    found = worst_first([INFO, None, ERROR, WARNING, None, other])

    assert found == [ERROR, other, WARNING, INFO]


def test_the_error_lists_every_finding_and_survives_pickling():
    error = MaskingError([ERROR, WARNING])

    copy = pickle.loads(pickle.dumps(error))

    assert str(error).splitlines()[1:] == [
        "[error] zero-gradients: All is flat.",
        "[warning] saturated: All is full.",
    ]
    assert isinstance(error, RuntimeError)
    assert copy.findings == [ERROR, WARNING] and str(copy) == str(error)


def test_beyond_chance_is_the_exact_binomial_tail():
    # Five fair coins: P(5 heads) = 1/32 = 3.1 %, P(4 or more) = 6/32 = 18.8 %.
    assert beyond_chance(5, 5, 0.5)
    assert not beyond_chance(4, 5, 0.5)
    # Two dice with one six at least: 11/36; two sixes: 1/36 = 2.8 %.
    assert beyond_chance(2, 2, 1 / 6)
    assert not beyond_chance(1, 2, 1 / 6)


def test_beyond_chance_has_sensible_ends():
    assert beyond_chance(1, 1000, 0.0)
    assert not beyond_chance(0, 1000, 0.0)
    assert not beyond_chance(0, 0, 0.5)
    assert not beyond_chance(7, 7, 1.0)


def test_beyond_chance_holds_out_in_large_samples():
    # Normal approximation: 50,000 +- 158; 50,260 is 1.6449 deviations and a bit more.
    assert beyond_chance(50_262, 100_000, 0.5)
    assert not beyond_chance(50_258, 100_000, 0.5)


@pytest.mark.parametrize(("count", "expected"), [(1, False), (2, True), (3, True)])
def test_too_many_asks_for_the_least_number_too(count, expected):
    # P(1 or more of 4 at 1 %) = 3.9 %: the share alone would do.
    flags = np.arange(4) < count

    assert too_many(flags, 0.01)
    assert too_many(flags, 0.01, least=2) is expected


def test_the_mean_of_nothing_is_zero():
    assert mean([]) == 0.0
    assert mean([True, False]) == 0.5
