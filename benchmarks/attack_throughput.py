"""How fast PGD is, beside other libraries and beside its own passes alone.

`python -m benchmarks.attack_throughput` attacks one batch with every contender of
`_attackers.py` in one process, on a small convnet and on ViT-Tiny/4. The networks are
untrained: the numbers say how fast the attacks are and that they are equally strong,
not how robust anything is. The bound is one compiled forward and input gradient, as
often as the attack has steps.
"""

import argparse
import os

# Read when TensorFlow is imported, which the imports below do: errors only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks import _measure
from benchmarks._attackers import (
    BOUND,
    CONTENDERS,
    HALF,
    OWN,
    PACKAGES,
    Problem,
    strength,
)
from benchmarks._networks import NETWORKS, random_images, settle

NAME = "attack_throughput"
ROUNDING = 1e-6
AGREEMENT = 0.05


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """Returns the settings of a command line."""
    parser = _measure.parser(__doc__)
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="whom"
    )
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=CONTENDERS,
        default=list(CONTENDERS),
        help=f"who; {BOUND} and {OWN} always run",
    )
    parser.add_argument("--batch", type=int, default=64, help="images per attack")
    parser.add_argument("--steps", type=int, default=10, help="steps of the attack")
    parser.add_argument("--vit_steps", type=int, default=10, help="the same for vit")
    parser.add_argument("--vit_rounds", type=int, default=7, help="rounds for vit")
    return parser.parse_args(argv)


def problem_for(name: str, batch: int, steps: int) -> Problem:
    """Returns a new network with random images; its predictions are the labels."""
    network, images = NETWORKS[name](), random_images(batch)
    return Problem(network, images, settle(network, images), steps)


def compare(problem: Problem, names: list[str], rounds: int, title: str) -> dict:
    """Returns the raw rounds and the strengths of contenders on one problem."""
    names = [BOUND, OWN, *(name for name in names if name not in (BOUND, OWN))]
    contenders = {name: CONTENDERS[name](problem) for name in names}
    strengths = {"nobody": strength(problem, problem.images)}
    for name, run in contenders.items():  # The first call compiles: not timed.
        print(f"{title}: warming up {name}", flush=True)
        attacked = run()
        if name != BOUND:
            strengths[name] = strength(problem, attacked)
    return {
        "batch": len(problem.images),
        "steps": problem.steps,
        "epsilon": problem.epsilon,
        "step_size": problem.step_size,
        "parameters": problem.network.count_params(),
        "strength": strengths,
        "seconds": _measure.interleave(contenders, rounds, title),
    }


def complaints(result: dict) -> list[str]:
    """Returns what makes a comparison unfair: left the ball, or unequally strong.

    How much an attack raises the cross-entropy is compared, not the cross-entropy
    itself, of which the clean images would explain most. The strength of the attack in
    bfloat16 is what `attack_precision` measures, on trained networks.
    """
    strengths = dict(result["strength"])
    clean = strengths.pop("nobody")["cross_entropy"]
    gains = {name: found["cross_entropy"] - clean for name, found in strengths.items()}
    usual = float(np.median(list(gains.values())))
    found = []
    for name, values in strengths.items():
        if values["distance"] > result["epsilon"] + ROUNDING:
            found.append(f"{name} left the ball by {values['distance']:g}")
        if values["outside"] > ROUNDING:
            found.append(f"{name} left [0, 1] by {values['outside']:g}")
        if name != HALF and abs(gains[name] - usual) > AGREEMENT * abs(usual):
            found.append(f"{name} raises the loss by {gains[name]:g}, not {usual:g}")
    return found


def summary(result: dict) -> dict[str, dict]:
    """Returns per contender the spread of its speed and of both kinds of ratio.

    Returns:
        dict: name -> "images_per_second"; "share_of_bound", 1 = as fast as the passes
        alone; "own_over_this", how many times faster this library is.
    """
    seconds = result["seconds"]
    return {
        name: {
            "images_per_second": [result["batch"] / value for value in values],
            "share_of_bound": _measure.ratios(seconds[BOUND], values),
            "own_over_this": _measure.ratios(values, seconds[OWN]),
        }
        for name, values in seconds.items()
    }


def rows(title: str, result: dict) -> list[dict[str, str]]:
    """Returns the rows of the table for one network."""
    found = []
    for name, values in summary(result).items():
        # The bound attacks nobody: in its row stand the clean images.
        effect = result["strength"]["nobody" if name == BOUND else name]
        found.append(
            {
                "network": title,
                "contender": name,
                "images/s": _measure.show(values["images_per_second"], 1),
                "share of the bound": _measure.show(values["share_of_bound"]),
                f"{OWN} is faster x": _measure.show(values["own_over_this"]),
                "loss": f"{effect['cross_entropy']:.4f}",
                "fooled %": f"{100 * effect['fooled']:.1f}",
            }
        )
    return found


def main(argv: list[str] | None = None) -> int:
    """Measures, prints the table and writes the JSON file; 1 if it was unfair."""
    chosen = options(argv)
    about = _measure.machine(PACKAGES)
    results, lines, unfair = {}, [], []
    for name in chosen.networks:
        small = name == "convnet"
        steps = chosen.steps if small else chosen.vit_steps
        problem = problem_for(name, chosen.batch, steps)
        rounds = chosen.rounds if small else chosen.vit_rounds
        result = compare(problem, chosen.contenders, rounds, name)
        results[name] = result | {"summary": _spreads(result)}
        lines += rows(f"{name}, {steps} steps", result)
        unfair += [f"{name}: {text}" for text in complaints(result)]
    sentence = (
        f"linf PGD, epsilon 8/255, step 2/255, random start, batch {chosen.batch}; "
        "untrained: speed only. Median and quartiles of the rounds. Loss: mean "
        "cross-entropy after the attack; in the row of the bound, of clean images."
    )
    _measure.report(NAME, chosen, about, sentence, lines, {"networks": results})
    print(*unfair, sep="\n")
    return 1 if unfair else 0


def _spreads(result: dict) -> dict:
    return {
        name: {key: _measure.spread(values) for key, values in found.items()}
        for name, found in summary(result).items()
    }


if __name__ == "__main__":
    raise SystemExit(main())
