"""How far long work has come, and how long the rest will take."""

import sys
import time
from collections.abc import Callable

LOG_SECONDS = 60.0  # Between two lines of progress where there is no terminal.


class Clock:
    """Says after every piece of work how much time the rest needs.

    The first batch is left out of the estimate: compilation takes most of its time.

    Args:
        work: All that is to be done, in any unit.
        say: Called with a line of text; None = nobody listens.
    """

    def __init__(self, work: float, say: Callable[[str], None] | None = None):
        self.left = work
        self.say = say or (lambda text: None)
        self._first = -1
        self._spent = 0.0
        self._started = 0.0

    def advance(self, work: float, batch: int, text: str, fresh: bool = True) -> None:
        """Counts one piece of work of a batch; what was stored takes no time."""
        self.left -= work
        if not fresh:
            return
        if self._first in (-1, batch):
            self._first, self._started = batch, time.perf_counter()
            estimate = "known after this batch"
        else:
            self._spent += work
            elapsed = time.perf_counter() - self._started
            estimate = minutes(elapsed / self._spent * self.left)
        self.say(f"{text}, ETA {estimate}")


def minutes(seconds: float) -> str:
    """Returns seconds as minutes and seconds, 75 as 1:15."""
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02d}"


def shown_line() -> Callable[[str], None]:
    """Returns what shows how far work has come.

    A terminal has one line that rewrites itself, a file gets a line every minute.
    """
    return _rewrite if sys.stdout.isatty() else _NowAndThen()


class _NowAndThen:
    """Prints a line if the last one, or the start, is `LOG_SECONDS` ago."""

    def __init__(self):
        self._printed = time.monotonic()

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if now - self._printed >= LOG_SECONDS:
            self._printed = now
            print(text, flush=True)


def _rewrite(text: str) -> None:
    print(f"\r{text:<78}", end="", flush=True)
