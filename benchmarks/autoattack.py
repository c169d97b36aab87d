"""How long AutoAttack takes, and how many passes it makes, beside other libraries.

`python -m benchmarks.autoattack` runs the suites of `_suites.py` on the same network,
images and budgets with as many threads for everyone, and judges all attacked images by
the same Keras network. ART is so much slower that it is compared on fewer images and a
smaller budget, which this library gets too. torchattacks needs PyTorch, which is not
among this project's requirements: a contender whose package is not installed is left
out and named. Install it in a copy of the environment:

    pip install torch multiprocess
    pip install --no-deps torchattacks

The first call compiles; it is shown apart from the rounds. "CPU s" is the processor
time of the process, which other work on the machine hardly changes.
"""

import argparse
import os

# Read when TensorFlow is imported, which the imports below do: errors only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import importlib.util
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from benchmarks import _measure
from benchmarks._suites import (
    ART,
    CONTENDERS,
    NEEDED,
    OWN,
    SUITES,
    TORCH,
    Problem,
    lacking,
)
from benchmarks._twins import VICTIMS
from kerobust.attacks.diagnostics import diagnose

NAME = "autoattack"
FULL = "full budget"
ROUNDING = 1e-6
# Random starts decide about a few images: both must be exceeded to be unequally strong.
AGREEMENT, AGREEING_IMAGES = 0.02, 2
PASSES = (
    "Images forwards / gradients backwards of each member. Full budget: if every image "
    "that kerobust attacked had used up the whole search (N + 1 passes both ways for "
    "Auto-PGD, 2 N and N for targeted FAB, the queries of Square); what exceeds it are "
    "looks at clean images and results."
)
OTHERS = (
    "ART: its AutoAttack with `targeted`, which has neither FAB nor the targeted DLR: "
    "20 searches of Auto-PGD and Square, instead of 19 of Auto-PGD and FAB, and "
    "Square. torchattacks: its members at these steps; its own AutoAttack leaves them "
    "at 10."
)


class Comparison(NamedTuple):
    """Who is compared on what.

    Attributes:
        victim: Name in `VICTIMS`.
        epsilon: Linf radius, pixel units.
        contenders: Names in `CONTENDERS`.
        budget: Default number of images, steps and queries.
    """

    victim: str
    epsilon: float
    contenders: tuple[str, ...]
    budget: tuple[int, int, int]


COMPARISONS = {
    "digits": Comparison("digits", 0.2, (OWN, TORCH), (200, 100, 5000)),
    "art": Comparison("digits", 0.2, (OWN, ART), (60, 20, 1000)),
    "convnet": Comparison("convnet", 0.25 / 255, (OWN, TORCH), (16, 20, 500)),
}


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """Returns the settings of a command line."""
    parser = _measure.parser(__doc__, rounds=3)
    parser.add_argument(
        "--comparisons", nargs="+", choices=COMPARISONS, default=list(COMPARISONS)
    )
    parser.add_argument("--suites", nargs="+", choices=SUITES, default=list(SUITES))
    for name, comparison in COMPARISONS.items():
        parser.add_argument(
            f"--{name}",
            nargs=3,
            type=int,
            default=comparison.budget,
            metavar=("IMAGES", "STEPS", "QUERIES"),
            help=f"budget of {' and '.join(comparison.contenders)} on {name}",
        )
    parser.add_argument(
        "--threads", type=int, default=0, help="of every framework; 0 = all cores"
    )
    return parser.parse_args(argv)


def set_threads(count: int) -> None:
    """Gives every framework `count` threads; 0 = all cores.

    Raises:
        RuntimeError: If TensorFlow has run already and cannot change any more.
    """
    if count:
        tf.config.threading.set_intra_op_parallelism_threads(count)
        tf.config.threading.set_inter_op_parallelism_threads(count)
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(count or len(os.sched_getaffinity(0)))


def problem_for(comparison: Comparison, budget: tuple[int, int, int]) -> Problem:
    """Returns what the contenders of a comparison attack."""
    count, steps, queries = budget
    network, images, labels = VICTIMS[comparison.victim](count)
    return Problem(network, images, labels, comparison.epsilon, steps, queries)


def compare(
    problem: Problem, suite: str, names: list[str], rounds: int, title: str
) -> dict:
    """Returns the raw rounds, passes and strengths of contenders on one problem."""
    problem.network(problem.images[:1], training=False)  # TensorFlow's own start.
    contenders = {name: CONTENDERS[name](problem, suite) for name in names}
    first = _measure.timed(contenders[OWN].run)
    strengths, passes = {}, {}
    for name, contender in contenders.items():
        print(f"{title}: counting the passes of {name}", flush=True)
        count = contender.counted()
        strengths[name] = strength(problem, count.adversarial)
        passes[name] = count.passes
        if count.full:
            passes[FULL] = count.full
    processor: dict[str, list[float]] = {name: [] for name in names}
    runs = {
        name: _metered(contender.run, processor[name])
        for name, contender in contenders.items()
    }
    seconds = _measure.interleave(runs, rounds, title)
    return {
        "images": len(problem.images),
        "steps": problem.steps,
        "queries": problem.queries,
        "epsilon": problem.epsilon,
        "strength": strengths,
        "passes": passes,
        "first_seconds": first,
        "seconds": seconds,
        "processor_seconds": processor,
    }


def strength(problem: Problem, adversarial: np.ndarray) -> dict[str, float]:
    """Returns what attacked images [N, H, W, C] did to the network, and whether fairly.

    Returns:
        dict: "robust" (share of the images that stay right), "distance" (largest change
        of a pixel), "outside" (how far pixels leave [0, 1]).
    """
    logits = problem.network(tf.constant(adversarial), training=False).numpy()
    outside = max(float(adversarial.max()) - 1.0, -float(adversarial.min()))
    return {
        "robust": float(np.mean(logits.argmax(axis=1) == problem.labels)),
        "distance": float(np.abs(adversarial - problem.images).max()),
        "outside": max(0.0, outside),
    }


def complaints(result: dict) -> list[str]:
    """Returns what makes a comparison unfair: left the ball, or unequally strong.

    A weaker attack is not only worse: what it leaves standing costs the later members
    more.
    """
    found = []
    own = result["strength"][OWN]["robust"]
    for name, values in result["strength"].items():
        if values["distance"] > result["epsilon"] + ROUNDING:
            found.append(f"{name} left the ball by {values['distance']:g}")
        if values["outside"] > ROUNDING:
            found.append(f"{name} left [0, 1] by {values['outside']:g}")
        apart = abs(values["robust"] - own)
        if apart > max(AGREEMENT, AGREEING_IMAGES / result["images"]) + ROUNDING:
            found.append(
                f"{name} leaves {values['robust']:.1%} robust, {OWN} {own:.1%}"
            )
    return found


def summary(result: dict) -> dict[str, dict]:
    """Returns contender -> {"seconds", "processor_seconds", "own_over_this"}.

    The last says how many times longer than this library the contender took, per round.
    """
    return {
        name: {
            "seconds": values,
            "processor_seconds": result["processor_seconds"][name],
            "own_over_this": _measure.ratios(values, result["seconds"][OWN]),
        }
        for name, values in result["seconds"].items()
    }


def rows(title: str, suite: str, result: dict) -> list[dict[str, str]]:
    """Returns the rows of the table of times."""
    found = []
    for name, values in summary(result).items():
        first = f"{result['first_seconds']:.1f}" if name == OWN else ""
        found.append(
            {
                "on": title,
                "suite": suite,
                "contender": name,
                "s": _measure.show(values["seconds"], 1),
                "CPU s": _measure.show(values["processor_seconds"], 1),
                f"{OWN} is faster x": _measure.show(values["own_over_this"]),
                "first call s": first,
                "robust %": f"{100 * result['strength'][name]['robust']:.1f}",
            }
        )
    return found


def passes_rows(title: str, suite: str, result: dict) -> list[dict[str, str]]:
    """Returns the rows of the table of passes: one per member that anyone has."""
    contenders = (OWN, FULL, TORCH, ART)
    passes = {name: result["passes"].get(name, {}) for name in contenders}
    members = dict.fromkeys(member for found in passes.values() for member in found)
    return [
        {"on": title, "suite": suite, "member": member}
        | {
            name: "{:,} / {:,}".format(*found[member]) if member in found else ""
            for name, found in passes.items()
        }
        for member in members
    ]


def diagnosis(problem: Problem) -> tuple[float, float]:
    """Returns how long the diagnosis takes that `evaluate` begins with: first, again.

    It compiles anew for every call.
    """

    def run():
        diagnose(problem.network, problem.images, problem.labels, problem.epsilon)

    return _measure.timed(run), _measure.timed(run)


def main(argv: list[str] | None = None) -> int:
    """Measures, prints the tables and writes the JSON file; 1 if it was unfair."""
    chosen = options(argv)
    set_threads(chosen.threads)
    who = sorted({each for name in chosen.comparisons for each in COMPARISONS[name][2]})
    absent = lacking(who)
    for name, hint in absent.items():
        print(f"Left out, its package is not installed: {name}; {hint}", flush=True)
    about = _measure.machine(packages([name for name in who if name not in absent]))
    results: dict[str, dict] = {}
    for name in chosen.comparisons:
        problem = problem_for(COMPARISONS[name], getattr(chosen, name))
        names = [each for each in COMPARISONS[name].contenders if each not in absent]
        results[name] = {"diagnosis_seconds": diagnosis(problem)}
        for suite in chosen.suites:
            result = compare(problem, suite, names, chosen.rounds, f"{name}, {suite}")
            results[name][suite] = result | {"summary": _spreads(result)}
    found = [
        (name, suite, results[name][suite])
        for name in chosen.comparisons
        for suite in chosen.suites
    ]
    tables = (
        [row for name, *each in found for row in rows(name, *each)],
        [row for name, *each in found for row in passes_rows(name, *each)],
    )
    sentence = described(chosen, results)
    content = {"threads": chosen.threads, "comparisons": results}
    further = [(PASSES, tables[1])]
    _measure.report(NAME, chosen, about, sentence, tables[0], content, further=further)
    unfair = [
        f"{name}, {suite}: {text}"
        for name, suite, result in found
        for text in complaints(result)
    ]
    print(*unfair, sep="\n")
    return 1 if unfair else 0


def described(chosen: argparse.Namespace, results: dict[str, dict]) -> str:
    """Returns what the table of times shows, in sentences."""
    threads = chosen.threads or "as many threads as cores"
    found = [f"linf, {threads} thread(s) for each. Median and quartiles of the rounds."]
    for name, result in results.items():
        victim, epsilon, *_ = COMPARISONS[name]
        images, steps, queries = getattr(chosen, name)
        first, again = result["diagnosis_seconds"]
        found.append(
            f"{name}: {images} images for the network {victim}, epsilon {epsilon:.4g}, "
            f"{steps} steps, {queries} queries; the diagnosis that `evaluate` adds "
            f"takes {first:.1f} s, and {again:.1f} s again."
        )
    return " ".join([*found, OTHERS])


def packages(names: list[str]) -> list[str]:
    """Returns the distributions that contenders come in."""
    return [found for name in names for _, found, _ in NEEDED.get(name, [])]


def _metered(run: Callable[[], object], spent: list[float]) -> Callable[[], object]:
    """Returns `run`, which adds the processor seconds of each call to `spent`."""

    def metered():
        started = time.process_time()
        result = run()
        spent.append(time.process_time() - started)
        return result

    return metered


def _spreads(result: dict) -> dict:
    return {
        name: {key: _measure.spread(values) for key, values in found.items()}
        for name, found in summary(result).items()
    }


if __name__ == "__main__":
    raise SystemExit(main())
