"""Warnings and stops of means that leave their limits."""

import math

import pytest

from kerobust.config import UserError
from kerobust.training.monitors import PATIENCE, Monitor, StopOnTrouble
from tests.training.callbacks_test import Model

ENTROPY = Monitor("entropy", 0.05, 2.0, "a collapse", "lower the temperature.")


def watched():
    lines: list[str] = []
    callback = StopOnTrouble(1000, 10, lines.append)
    callback.set_model(Model())
    callback.model.monitors = (ENTROPY,)
    callback.on_train_begin()
    return callback, lines


def look(callback, value, times=1):
    for _ in range(times):
        callback.model.step += 10
        callback.on_train_batch_end(0, {"entropy": value})


@pytest.mark.parametrize("value", [0.05, 1.0, 2.0, math.nan])
def test_values_inside_the_limits_are_not_remarked(value):
    callback, lines = watched()

    look(callback, value, 2 * PATIENCE)

    assert not lines


def test_the_first_look_outside_warns_with_monitor_value_and_remedy():
    callback, lines = watched()

    look(callback, 2.5)

    assert lines == [
        "warning: Monitor `entropy` must lie in [0.05, 2]. Received: entropy=2.5 at "
        "step 10, which means a collapse. Remedy: lower the temperature."
    ]


def test_a_value_that_stays_outside_stops_the_training():
    callback, _ = watched()

    with pytest.raises(UserError, match=r"(?s)entropy=0.01.*Remedy: lower.*stopped"):
        look(callback, 0.01, PATIENCE)


def test_a_value_that_comes_back_starts_a_new_count():
    callback, lines = watched()

    for _ in range(3):
        look(callback, 3.0, PATIENCE - 1)
        look(callback, 1.0)

    assert len(lines) == 3


def test_steps_between_two_rows_are_not_looked_at():
    callback, lines = watched()

    for _ in range(9):
        callback.model.step += 1
        callback.on_train_batch_end(0, {"entropy": 3.0})

    assert not lines
