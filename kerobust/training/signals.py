"""Stopping a training politely: by a signal, at the end of a step."""

import os
import signal
import socket
import sys
import threading

from kerobust.distribute import workers
from kerobust.training.callbacks import StepCallback

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopOnSignal(StepCallback):
    """Stops after the current step on SIGTERM or SIGINT, at once on the second signal.

    Use as a context manager around `Model.fit`. It stands behind `Probes`, during which
    signals may come, and before the callbacks that must know which step is the last.
    Signals outside of the context have their usual effect. Outside of the main thread,
    where Python allows no handlers, it does nothing.

    A step is one call into TensorFlow, during which Python runs no handlers and folds
    several signals into one. A thread that reads the interpreter's wake-up channel
    therefore answers the user and counts the signals.

    Several workers stop together, whichever got the signal; they ask each other every
    `interval` steps.

    Args:
        steps: See `StepCallback`.
        interval: Steps between two such questions.

    Attributes:
        received: Name of the signal that came, or None.
        stopped: Whether a signal ends the training.
    """

    def __init__(self, steps: int, interval: int = 1):
        super().__init__(steps)
        self.interval = interval
        self.received: str | None = None
        self.stopped = False
        self._thread: threading.Thread | None = None

    def __enter__(self):
        if threading.current_thread() is not threading.main_thread():
            return self
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        channel = self._writer.fileno()
        self._channel = signal.set_wakeup_fd(channel, warn_on_full_buffer=False)
        self._handlers = {n: signal.signal(n, self._note) for n in _SIGNALS}
        return self

    def __exit__(self, *_):
        if self._thread is None:
            return
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._channel)
        self._writer.close()
        self._thread.join()
        self._reader.close()

    def after_step(self, logs):
        """Makes this step the last if a signal has come."""
        alone = workers().place.count == 1
        if not (alone or self.passed(self.interval) or self.last):
            return
        if workers().any(self.received is not None):
            self.model.stop_training = self.stopped = True

    def _rest(self) -> str:
        if workers().place.count == 1:
            return "this step"
        return f"at most {self.interval} steps"

    def _note(self, number, frame):
        self.received = signal.Signals(number).name

    def _listen(self):
        count = 0
        while byte := self._reader.recv(1):
            if byte[0] not in _SIGNALS:
                continue
            count += 1
            if count > 1:
                os._exit(128 + byte[0])
            name, rest = signal.Signals(byte[0]).name, self._rest()
            print(
                f"\n{name}: finishing {rest}, then saving. "
                "A second signal quits at once, without saving.",
                file=sys.stderr,
                flush=True,
            )
