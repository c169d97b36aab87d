"""Whether attacking again and again leaves memory behind.

`python -m benchmarks.memory` calls PGD 300 times in each of four ways, and a short
AutoAttack in a fifth, and fits a line to the resident memory from call 50 on. It ends
with 1 if a slope reaches the limit, or if a victim that nobody holds any more is still
alive.

Keras itself keeps about the size of the weights for every model that is built, until
`tf.keras.backend.clear_session`, attacked or not. So one more way, `built`, makes the
same victims without an attack; only what `victims` adds to its slope counts. Both raw
slopes are shown.
"""

import argparse
import os

# Read when TensorFlow is imported, which the imports below do: errors only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import gc
import pathlib
import resource
import sys
import warnings
import weakref
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from benchmarks import _measure
from benchmarks._networks import CLASSES, convnet, random_images
from benchmarks._twins import digits
from kerobust.attacks import PGD, AutoAttack

NAME = "memory"
LIMIT = 0.1
_MEMBERS = ("apgd-ce", "apgd-t", "fab-t", "square")
CONTROL = "built"  # What it costs, the attack cannot be blamed for in `victims`.
_STATISTICS = pathlib.Path("/proc/self/statm")


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """Returns the settings of a command line."""
    parser = _measure.parser(__doc__, rounds=None)
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=list(WAYS), help="which calls"
    )
    parser.add_argument("--calls", type=int, default=300, help="attacks per way")
    parser.add_argument(
        "--settled", type=int, default=50, help="calls before the line begins"
    )
    parser.add_argument("--batch", type=int, default=16, help="images per attack")
    parser.add_argument("--steps", type=int, default=10, help="steps of the attack")
    parser.add_argument(
        "--victim_calls", type=int, default=10, help="calls until the next new victim"
    )
    parser.add_argument(
        "--limit", type=float, default=LIMIT, help="largest slope, MB per call"
    )
    return parser.parse_args(argv)


def resident() -> float:
    """Returns the resident memory of this process in MB (2**20 bytes).

    Systems without /proc only tell the peak, which cannot fall: a rise is still seen.
    """
    if _STATISTICS.exists():
        pages = int(_STATISTICS.read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2 ** (20 if sys.platform == "darwin" else 10)


def slope(megabytes: list[float], settled: int) -> float:
    """Returns the least-squares slope in MB per call, from call `settled` on."""
    values = np.asarray(megabytes[settled:])
    return float(np.polyfit(np.arange(len(values)), values, 1)[0])


class Caller:
    """Attacks one batch of random images again and again, each time a bit differently.

    Args:
        batch: Images per attack.
        steps: Steps of the attack.
        victim_calls: Calls until the next new victim, where victims change.
    """

    def __init__(self, batch: int, steps: int, victim_calls: int = 10):
        self.images = random_images(batch)
        self.labels = tf.range(batch) % CLASSES
        self.victim_calls = victim_calls
        self.attack = PGD(steps=steps)
        few = max(1, steps // 5)
        self.suite = AutoAttack(
            0.1, version="custom", attacks=_MEMBERS, steps=few, queries=few
        )
        self.trained = digits(batch)  # An untrained victim leaves little to do.
        self.network = convnet()
        self.past: list[weakref.ref] = []

    def same(self, call: int) -> None:
        """Attacks with the same shapes and settings every time."""
        self.attack(self.images, self.labels, self.network)

    def settings(self, call: int) -> None:
        """Attacks with another epsilon and step size every time."""
        epsilon = (1 + call % 97) / 255 / 8
        self.attack(
            self.images,
            self.labels,
            self.network,
            epsilon=epsilon,
            step_size=epsilon / 4,
        )

    def sizes(self, call: int) -> None:
        """Attacks batches of all sizes in turn."""
        rows = 1 + call % len(self.images)
        self.attack(self.images[:rows], self.labels[:rows], self.network)

    def evaluated(self, call: int) -> None:
        """Evaluates with a short AutoAttack every time."""
        self.suite.evaluate(*self.trained, diagnose=False)

    def victims(self, call: int) -> None:
        """Attacks a new victim after some calls and forgets the last one."""
        self._renew(call)
        with warnings.catch_warnings():  # It is right to warn of what this measures.
            warnings.filterwarnings("ignore", "`victim` is object")
            self.attack(self.images, self.labels, self.network)

    def built(self, call: int) -> None:
        """Makes the same new victims but attacks none of them (control)."""
        self._renew(call)
        self.network(self.images, training=False)

    def _renew(self, call: int) -> None:
        if call % self.victim_calls == 0:
            self.past.append(weakref.ref(self.network))
            self.network = convnet()
            gc.collect()  # A Keras model is a cycle.

    def alive(self) -> int:
        """Returns how many past victims still exist."""
        gc.collect()
        return sum(reference() is not None for reference in self.past)


WAYS: dict[str, Callable[[Caller, int], None]] = {
    "same": Caller.same,
    "settings": Caller.settings,
    "sizes": Caller.sizes,
    "evaluated": Caller.evaluated,
    CONTROL: Caller.built,
    "victims": Caller.victims,
}


def measure(way: str, caller: Caller, calls: int, settled: int) -> dict:
    """Returns the memory after each call, the slope and the fate of past victims."""
    progress = _measure.Progress(way, calls, quiet=5.0)
    megabytes = []
    for call in range(calls):
        WAYS[way](caller, call)
        megabytes.append(resident())
        progress.advance()
    return {
        "resident": megabytes,
        "slope": slope(megabytes, settled),
        "past_victims": len(caller.past),
        "alive_victims": caller.alive(),
    }


def rows(results: dict[str, dict], limit: float) -> list[dict[str, str]]:
    """Returns the rows of the table."""
    return [
        {
            "way": name,
            "about": " ".join((WAYS[name].__doc__ or "").split()),
            "MB per call": f"{result['slope']:.4f}",
            "by the attack": f"{excess(name, results):.4f}",
            "MB at the end": f"{result['resident'][-1]:.0f}",
            "past victims alive": f"{result['alive_victims']}/{result['past_victims']}",
            "": verdict(name, results, limit),
        }
        for name, result in results.items()
    ]


def excess(way: str, results: dict[str, dict]) -> float:
    """Returns the slope of a way; of new victims, what exceeds that of the control."""
    own = results[way]["slope"]
    if way == "victims" and CONTROL in results:
        return own - results[CONTROL]["slope"]
    return own


def verdict(way: str, results: dict[str, dict], limit: float) -> str:
    """Returns "LEAK" if memory grew or a past victim is alive, else "ok"."""
    if way == CONTROL:
        return "control"
    kept = excess(way, results) >= limit or results[way]["alive_victims"]
    return "LEAK" if kept else "ok"


def main(argv: list[str] | None = None) -> int:
    """Measures, prints the table and writes the JSON file; 1 if memory grows."""
    chosen = options(argv)
    about = _measure.machine()
    results = {}
    for way in chosen.ways:
        caller = Caller(chosen.batch, chosen.steps, chosen.victim_calls)
        results[way] = measure(way, caller, chosen.calls, chosen.settled)
        print(f"{way}: {results[way]['slope']:.4f} MB per call", flush=True)
    sentence = (
        f"PGD-{chosen.steps} on the convnet (evaluated: AutoAttack of a fifth of the "
        f"steps, on the digits), batch {chosen.batch}, {chosen.calls} calls, line from "
        f"call {chosen.settled}, limit {chosen.limit:g} MB per call."
    )
    lines = rows(results, chosen.limit)
    settings = {
        "calls": chosen.calls,
        "settled": chosen.settled,
        "batch": chosen.batch,
        "steps": chosen.steps,
        "victim_calls": chosen.victim_calls,
        "limit": chosen.limit,
    }
    content = {"settings": settings, "ways": results}
    _measure.report(NAME, chosen, about, sentence, lines, content)
    verdicts = {verdict(way, results, chosen.limit) for way in results}
    return 1 if "LEAK" in verdicts else 0


if __name__ == "__main__":
    raise SystemExit(main())
