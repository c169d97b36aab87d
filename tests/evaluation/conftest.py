"""Fixtures of the evaluation tests."""

import pytest

from kerobust.attacks import ATTACKS
from tests.evaluation.small import Noise, linear_model


@pytest.fixture(scope="module")
def model():
    return linear_model()


@pytest.fixture
def noise_for_attacks(monkeypatch):
    """Makes evaluations quick where only their bookkeeping is tested."""
    for name in ATTACKS:
        monkeypatch.setitem(ATTACKS, name, Noise)
