"""Tests of the progress line and of the step counting that callbacks share."""

import io
import itertools

import pytest

from kerobust.training import callbacks
from kerobust.training.callbacks import Progress, StepCallback
from tests.progress_test import Terminal
from tests.training.small import fit_small, run_config


class Model:
    """As much of a model as the progress line looks at."""

    TERMS = ("error",)

    def __init__(self):
        self.stop_training = False
        self.optimizer = self
        self.iterations = self
        self.step = 0

    def numpy(self):
        return self.step


def advance(callback, steps, each=1, logs=None):
    for _ in range(steps):
        callback.model.step += each
        callback.on_train_batch_end(0, logs or {"loss": 1.5, "error": 1.25, "x": 9.0})


def progress(stream, steps=100):
    callback = Progress(steps, "pretrain", 64, stream)
    callback.set_model(Model())
    callback.on_train_begin()
    return callback


def test_first_and_last_state_are_printed_where_there_is_no_terminal():
    stream = io.StringIO()

    advance(progress(stream), 100)

    first, last = stream.getvalue().splitlines()
    assert first == "pretrain 1/100 | loss 1.5, error 1.25"
    assert last.startswith("pretrain 100/100 | ")
    assert last.endswith(" images/s | 0:00:00 left | loss 1.5, error 1.25")


def test_a_log_gets_a_line_every_minute(monkeypatch):
    stream, now = io.StringIO(), itertools.count(1000.0, 25.0)
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: next(now))

    advance(progress(stream), 8)  # At 0, 25, ... 175 seconds.

    lines = [line.split(" | ") for line in stream.getvalue().splitlines()]
    assert [line[0] for line in lines] == [
        "pretrain 1/100",
        "pretrain 4/100",
        "pretrain 7/100",
    ]
    assert lines[1][1:3] == ["3 images/s", "0:40:00 left"]


def test_resumed_training_says_where_it_continues():
    stream = io.StringIO()
    callback = Progress(100, "pretrain", 64, stream)
    callback.set_model(Model())
    callback.model.step = 40

    callback.on_train_begin()

    assert stream.getvalue() == "pretrain continues from step 40 of 100\n"


def test_line_rewrites_itself_on_a_terminal():
    stream = Terminal()
    callback = progress(stream, steps=3)
    advance(callback, 1)
    callback.say("step 1: knn 0.5")
    advance(callback, 2)

    text = stream.getvalue()

    assert text.count("\r") == 3  # the first state, the spoken line, the last state
    assert text.count("\n") == 2
    assert text.endswith("\n")


def test_speed_and_time_left_come_from_the_clock(monkeypatch):
    stream, now = io.StringIO(), [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    callback = progress(stream, steps=7200)
    advance(callback, 1)
    now[0] += 10.0
    callback.model.stop_training = True
    advance(callback, 1, each=20)

    # 20 steps of 64 images in 10 s; 7,179 steps are left at 0.5 s each.
    assert "21/7200 | 128 images/s | 0:59:50 left" in stream.getvalue()


@pytest.mark.parametrize(
    ("each", "interval", "expected"),
    [(1, 3, [3, 6, 9]), (4, 3, [4, 8, 12]), (4, 10, [12]), (5, 5, [5, 10])],
)
def test_intervals_are_passed_once_however_long_an_execution_is(
    each, interval, expected
):
    class Noting(StepCallback):
        def after_step(self, logs):
            if self.passed(interval):
                noted.append(self.step)

    noted = []
    callback = Noting(12)
    callback.set_model(Model())
    callback.on_train_begin()

    advance(callback, {1: 11, 4: 3, 5: 2}[each], each)

    assert noted == expected


def test_probes_run_at_their_multiples_and_are_printed(tmp_path, capsys):
    steps = []

    def probe(step):
        steps.append(step)
        return {"knn/clean": 0.25}

    fit_small(tmp_path, probes=[(5, probe)], run=run_config(log_steps=100))

    assert steps == [5, 10]
    assert "step 10: knn/clean 0.25" in capsys.readouterr().out
