"""How far long work has come, and how long the rest will take."""

import sys
import time
from collections.abc import Callable

LOG_SECONDS = 60.0  # Between two lines of progress where there is no terminal.


class Clock:
    """Says after every piece of work how much time the rest needs.

    Compilation takes most of the time of the first batch: within it the estimate is
    too large and called "about"; later ones leave it out.

    Args:
        work: All that is to be done, in any unit.
        say: Called with a line of text; None = nobody listens.
    """

    def __init__(self, work: float, say: Callable[[str], None] | None = None):
        self.left = work
        self.say = say or (lambda text: None)
        self._first, self._warm = -1, False
        self._spent = 0.0
        self._started = self._latest = time.perf_counter()

    def advance(self, work: float, batch: int, text: str, fresh: bool = True) -> None:
        """Counts one piece of work of a batch; what was stored takes no time."""
        self.left -= work
        if not fresh:
            return
        if self._first == -1:
            self._first = batch
        elif batch != self._first and not self._warm:
            self._warm, self._spent, self._started = True, 0.0, self._latest
        self._spent += work
        self._latest = time.perf_counter()
        left = minutes((self._latest - self._started) / self._spent * self.left)
        self.say(f"{text}, ETA {'' if self._warm else 'about '}{left}")


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
