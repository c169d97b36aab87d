"""What a security curve costs, beside one attack per radius.

`python -m benchmarks.security_curve` draws `security_curve` at 8 radii and makes the
same attack once per radius, in turns, on the network of the goldens. The curve attacks
an example that fell at a smaller radius no more, so the single runs are made twice: on
all images, which is what the curve replaces, and on those that the curve attacks, which
shows what its own work costs. It ends with 1 if the curve takes longer than 1.1 times
the single runs on all images, traces anything anew, or says something else.
"""

import argparse
import os

# Read when TensorFlow is imported, which the imports below do: errors only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from benchmarks import _measure
from benchmarks._twins import digits
from kerobust.attacks import PGD, Attack, AutoPGD, security_curve
from kerobust.attacks.objectives import CrossEntropy
from kerobust.randomness import example_keys

NAME = "security_curve"
LIMIT = 1.1
CURVE, SINGLE, SAME = "curve", "single runs", "single runs, same examples"
ATTACKS: dict[str, Callable[[int], Attack]] = {
    "PGD": lambda steps: PGD(steps=steps, random_start=True),
    "PGD, stops": lambda steps: PGD(
        steps=steps, random_start=True, stop_when_fooled=True
    ),
    "AutoPGD, stops": lambda steps: AutoPGD(steps=steps, stop_when_fooled=True),
}


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """Returns the settings of a command line."""
    parser = _measure.parser(__doc__)
    parser.add_argument(
        "--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS), help="which"
    )
    parser.add_argument("--images", type=int, default=200, help="at most 200")
    parser.add_argument("--steps", type=int, default=50, help="steps of the attack")
    parser.add_argument("--radii", type=int, default=8, help="number of radii")
    parser.add_argument("--largest", type=float, default=0.32, help="largest radius")
    return parser.parse_args(argv)


class Traced:
    """A victim that counts how often it is traced.

    Args:
        victim: Maps images [B, H, W, C] to logits [B, K].
    """

    def __init__(self, victim: Callable):
        self.victim, self.traces = victim, 0

    def __call__(self, images):
        self.traces += not tf.executing_eagerly()
        return self.victim(images, training=False)


class Curves:
    """The same radii by a curve and by single runs.

    Args:
        attack: The attack.
        images: float32 [N, H, W, C] in [0, 1].
        labels: int32 [N].
        radii: Growing, above 0.
        network: Keras model, images to logits.
    """

    def __init__(self, attack: Attack, images, labels, radii: np.ndarray, network):
        self.attack, self.images, self.labels = attack, images, labels
        self.radii, self.victim = radii, Traced(network)
        self.objective = CrossEntropy(self.victim)

    def curve(self) -> np.ndarray:
        """Returns which examples withstand which radius, bool [E, N]."""
        return security_curve(
            self.attack, self.objective, self.images, self.labels, self.radii
        ).robust

    def alone(self, rows: list[np.ndarray] | None = None) -> list[np.ndarray]:
        """Returns per radius which examples are fooled by an attack of its own.

        Args:
            rows: Per radius which examples are attacked, int [M]; None = all.
        """
        everyone = np.arange(len(self.images))
        rows = rows or [everyone] * len(self.radii)
        return [self._fooled(*each) for each in zip(rows, self.radii, strict=True)]

    def standing(self, robust: np.ndarray) -> list[np.ndarray]:
        """Returns per radius which examples the curve attacks, from its result."""
        clean = self.victim(self.images).numpy().argmax(axis=1) == self.labels
        return [np.flatnonzero(each) for each in (clean, *robust[:-1])]

    def _fooled(self, rows: np.ndarray, radius: float) -> np.ndarray:
        if not rows.size:
            return np.zeros(0, bool)
        _, info = self.attack(
            tf.constant(self.images[rows]),
            tf.constant(self.labels[rows]),
            self.objective,
            epsilon=float(radius),
            keys=example_keys(0, 0, rows),
            return_info=True,
        )
        return info.success.numpy()


def compare(curves: Curves, rounds: int, title: str) -> dict:
    """Returns the raw rounds, traces and whether both say the same."""
    alone = curves.alone()
    before = curves.victim.traces
    robust = curves.curve()
    extra = curves.victim.traces - before
    rows = curves.standing(robust)
    clean = np.isin(np.arange(len(curves.images)), rows[0])
    expected = clean & ~np.logical_or.accumulate(alone)
    contenders = {
        CURVE: curves.curve,
        SINGLE: curves.alone,
        SAME: lambda: curves.alone(rows),
    }
    contenders[SAME]()
    return {
        "robust_accuracy": robust.mean(axis=1).tolist(),
        "attacked": [len(each) for each in rows],
        "differ": int(np.sum(robust != expected)),
        "traces_of_single_runs": before,
        "extra_traces": extra,
        "seconds": _measure.interleave(contenders, rounds, title),
    }


def complaints(result: dict) -> list[str]:
    """Returns what is wrong with a curve: too slow, traced anew, or another result."""
    found = []
    ratio = _measure.spread(ratios(result, SINGLE))["median"]
    if ratio > LIMIT:
        found.append(f"the curve takes {ratio:.2f} times the {SINGLE}")
    if result["extra_traces"]:
        found.append(f"the curve traced the victim {result['extra_traces']} times more")
    if result["differ"]:
        found.append(f"{result['differ']} verdicts differ from those of single runs")
    return found


def ratios(result: dict, name: str) -> list[float]:
    """Returns per round how many times as long as `name` the curve took."""
    return _measure.ratios(result["seconds"][CURVE], result["seconds"][name])


def row(title: str, result: dict) -> dict[str, str]:
    """Returns the row of the table for one attack."""
    attacked = result["attacked"]
    return {
        "attack": title,
        "curve s": _measure.show(result["seconds"][CURVE]),
        "single runs s": _measure.show(result["seconds"][SINGLE]),
        "curve / single": _measure.show(ratios(result, SINGLE)),
        "curve / same examples": _measure.show(ratios(result, SAME)),
        "extra traces": str(result["extra_traces"]),
        "attacked": f"{sum(attacked)} of {len(attacked) * result['images']}",
        "robust % from first to last radius": "{:.1f} to {:.1f}".format(
            *(100 * result["robust_accuracy"][end] for end in (0, -1))
        ),
    }


def main(argv: list[str] | None = None) -> int:
    """Measures, prints the table and writes the JSON file; 1 if anything is wrong."""
    chosen = options(argv)
    about = _measure.machine()
    radii = np.linspace(0, chosen.largest, chosen.radii + 1)[1:]
    results, wrong = {}, []
    for name in chosen.attacks:
        network, images, labels = digits(chosen.images)
        curves = Curves(ATTACKS[name](chosen.steps), images, labels, radii, network)
        found = compare(curves, chosen.rounds, name)
        results[name] = found | {"images": len(images), "radii": radii.tolist()}
        wrong += [f"{name}: {text}" for text in complaints(found)]
    sentence = (
        f"{chosen.radii} linf radii from {radii[0]:.3g} to {radii[-1]:.3g}, "
        f"{chosen.steps} steps, {chosen.images} images for the network of the goldens, "
        "everything compiled. Median and quartiles of the rounds."
    )
    lines = [row(name, result) for name, result in results.items()]
    _measure.report(NAME, chosen, about, sentence, lines, {"attacks": results})
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
