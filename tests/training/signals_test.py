"""Tests of stopping by a signal, inside this process (kill_test.py kills others)."""

import os
import signal
import threading

import pytest

from kerobust.training.signals import StopOnSignal
from tests.training.small import STEPS, fit_small, state_digest


def send_at(step, number):
    def probe(now):
        if now == step:
            os.kill(os.getpid(), number)
        return {}

    return [(1, probe)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_stops_and_the_next_call_continues(tmp_path, capsys, number):
    before = signal.getsignal(number)

    stopped, fitted = fit_small(tmp_path, probes=send_at(7, number))

    assert (fitted.step, fitted.stopped) == (7, True)
    assert (tmp_path / "checkpoints" / "step-00000007").is_dir()
    assert fitted.history[-1]["step"] == 7
    assert signal.getsignal(number) is before
    assert f"{number.name}: finishing this step, then saving" in capsys.readouterr().err
    resumed, fitted = fit_small(tmp_path)
    assert (fitted.step, fitted.stopped) == (STEPS, False)
    whole, _ = fit_small(tmp_path / "whole")
    assert state_digest(resumed) == state_digest(whole)


def test_signal_during_the_last_step_is_told_to_the_caller(tmp_path):
    _, fitted = fit_small(tmp_path, probes=send_at(STEPS, signal.SIGTERM))

    assert (fitted.step, fitted.stopped) == (STEPS, True)


def test_handlers_come_back_after_an_error():
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]

    with pytest.raises(KeyError), StopOnSignal(3):
        assert signal.getsignal(signal.SIGTERM) is not before[0]
        raise KeyError

    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_other_threads_than_the_main_one_may_train_without_handlers():
    done = []

    def work():
        with StopOnSignal(3) as stop:
            done.append(stop.received)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert done == [None]
