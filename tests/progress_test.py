"""What is said of long work while it runs."""

import io

import pytest

from kerobust import progress
from kerobust.progress import Clock, shown_line


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def seconds(monkeypatch):
    """Replaces the clocks by one that the test moves."""
    now = [1000.0]
    for name in ("monotonic", "perf_counter"):
        monkeypatch.setattr(progress.time, name, lambda: now[0])
    return now


def test_the_first_batch_which_compiles_tells_the_time_roughly(seconds):
    said = []
    clock = Clock(40, said.append)
    for number, later in enumerate((30.0, 20.0, 7.0, 9.0)):
        seconds[0] += later
        clock.advance(10, batch=number // 2, text=f"{number}")

    first, second, third, fourth = said
    assert first == "0, ETA about 1:30" and second == "1, ETA about 0:50"
    assert third == "2, ETA 0:07" and fourth == "3, ETA 0:00"


def test_stored_work_takes_no_time(seconds):
    said = []
    clock = Clock(40, said.append)
    clock.advance(20, 0, "stored", fresh=False)
    clock.advance(10, 1, "first")
    seconds[0] += 3.0
    clock.advance(5, 2, "second")

    assert said == ["first, ETA about 0:00", "second, ETA 0:03"]


def test_a_file_gets_a_line_every_minute(seconds, capsys):
    say = shown_line()
    for number in range(6):
        seconds[0] += 25.0
        say(f"{number}")

    assert capsys.readouterr().out == "2\n5\n"


def test_a_terminal_has_one_line(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    say = shown_line()
    say("one")
    say("two")

    text = stream.getvalue()
    assert text == "\rone".ljust(79) + "\rtwo".ljust(79)
