"""What attacks on dense predictions cost beside the passes that they must make.

`python -m benchmarks.dense` times, in the same rounds and on the same images, attacks
of the benchmark across tasks and the passes of which they are made: one forward and
backward of the objective per step, compiled alone. Images larger than the network are
attacked through sliding windows, all at once and in parts; in parts every window passes
forward once more, in the passes too.

Then the peak memory of an attack through windows, for fewer and fewer windows at once,
each in a process of its own, above that of a process that only predicts one image.
"""

import argparse
import os

# Read when TensorFlow is imported, which the imports below do: errors only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import resource
import subprocess
import sys
from collections.abc import Callable

import tensorflow as tf

from benchmarks import _measure
from benchmarks._steps import climb, timed
from kerobust.models import VisionTransformer
from kerobust.models.sliding import Windowed
from kerobust.tasks import Classification, Depth, Effort, Segmentation, Task

NAME = "dense"
SIDE, CLASSES, WINDOW, STRIDE = 64, 11, 64, 48
LARGE = (240, 320)
TASKS = {
    "classification": Classification(CLASSES),
    "segmentation": Segmentation(CLASSES),
    "depth": Depth(bins=64),
}
EMBED, WINDOWS = "embedding", "windows"


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """Returns the settings of a command line."""
    parser = _measure.parser(__doc__)
    parser.add_argument("--batch", type=int, default=16, help="images per attack")
    parser.add_argument("--steps", type=int, default=10, help="steps of the attack")
    parser.add_argument("--width", type=int, default=96, help="of the network")
    parser.add_argument("--depth", type=int, default=4, help="of the network")
    parser.add_argument(
        "--at_once", type=int, nargs="+", default=[35, 9, 4], help="windows in a part"
    )
    parser.add_argument("--child", type=int, help="measure this process: internal")
    parser.add_argument("--blind", action="store_true", help="by tokens: internal")
    return parser.parse_args(argv)


def predictor(task: Task, width: int, depth: int):
    """Returns an untrained network for a task."""
    tf.keras.utils.set_random_seed(0)
    encoder = VisionTransformer((SIDE, SIDE), 8, width, depth, 4)
    return task.predictor(encoder)


def targets(task: Task, count: int, size) -> tf.Tensor:
    """Returns random targets of a task."""
    if task.TARGET == "labels":
        return tf.range(count) % CLASSES
    draw = tf.random.stateless_uniform([count, *size], [0, 1])
    if task.TARGET == "masks":
        return tf.cast(draw * CLASSES, tf.int32)
    return 1.0 + 8.0 * draw


def contenders(chosen: argparse.Namespace) -> dict[str, dict[str, Callable]]:
    """Returns what is attacked -> "attack", and "passes" of all its steps."""
    images = tf.random.stateless_uniform([chosen.batch, SIDE, SIDE, 3], [0, 0])
    effort, found = Effort(8 / 255, steps=chosen.steps), {}
    for name, task in TASKS.items():
        model = predictor(task, chosen.width, chosen.depth)
        target = targets(task, chosen.batch, (SIDE, SIDE))
        found[name] = _pair(task.attack(effort), model, images, target, chosen.steps)
        if name == "segmentation":
            found[EMBED] = _pair(task.embed(effort), model, images, None, chosen.steps)
            few = max(1, chosen.batch // 16)
            large = tf.random.stateless_uniform([few, *LARGE, 3], [0, 0])
            target = targets(task, few, LARGE)
            for at_once in chosen.at_once:
                windows = Windowed(model, WINDOW, STRIDE, at_once=at_once)
                given = (task.attack(effort), windows, large, target, chosen.steps)
                found[f"{WINDOWS}, {at_once} at once"] = _pair(*given)
            given = (task.embed(effort), windows, large, None, chosen.steps)
            found[f"{EMBED}, {WINDOWS}, {at_once} at once"] = _pair(*given)
    return found


def _pair(attempt, model, images, target, steps: int) -> dict[str, Callable]:
    """Returns the attack, and as many bare gradient steps."""
    objective = attempt.objective(model)
    if target is None:
        target = objective.predictions(objective.outputs(images))
    keys = tf.zeros([len(images), 2], tf.int32)

    @tf.function(autograph=False)
    def passes(images, target):
        return climb(objective, images, target, 1)

    def run():
        moved = images
        for _ in range(steps):
            moved = passes(moved, target)

    return {
        "attack": lambda: attempt.attack(images, target, objective, keys=keys),
        "passes": run,
    }


def peak(at_once: int, chosen: argparse.Namespace, blind: bool = False) -> float:
    """Returns the peak memory in MB of a process that attacks; 0 = that predicts."""
    command = [sys.executable, "-m", "benchmarks.dense", f"--child={at_once}"]
    command += ["--blind"] * blind
    command += [f"--width={2 * chosen.width}", f"--depth={2 * chosen.depth}"]
    command += [f"--batch={chosen.batch}", f"--steps={chosen.steps}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def child(chosen: argparse.Namespace) -> None:
    """Attacks large images, or predicts one, and prints the peak memory in MB."""
    task = TASKS["segmentation"]
    model = predictor(task, chosen.width, chosen.depth)
    count = max(1, chosen.batch // 4) if chosen.child else 1
    images = tf.random.stateless_uniform([count, *LARGE, 3], [0, 0])
    windows = Windowed(model, WINDOW, STRIDE, at_once=chosen.child or 1)
    if chosen.child:
        effort, target = Effort(8 / 255, steps=chosen.steps), None
        attempt = task.embed(effort)
        if not chosen.blind:
            attempt, target = task.attack(effort), targets(task, count, LARGE)
        _pair(attempt, windows, images, target, 1)["attack"]()
    else:
        tf.function(windows, autograph=False)(images)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(used / 2 ** (20 if sys.platform == "darwin" else 10))


def memory(chosen: argparse.Namespace, results: dict) -> tuple[str, list[dict]]:
    """Adds the peak memory of attacks to `results`; returns a sentence and rows."""
    base = peak(0, chosen)
    found = {
        name: {str(x): peak(x, chosen, blind) - base for x in chosen.at_once}
        for name, blind in (("SegPGD", False), ("EmbedAttack", True))
    }
    results["memory"] = found
    rows = []
    for count in map(str, chosen.at_once):
        row = {"windows at once": count}
        for name, values in found.items():
            row[f"{name}: MB above predicting"] = f"{values[count]:.0f}"
        rows.append(row)
    words = (
        f"Peak memory of attacks on {max(1, chosen.batch // 4)} such images through a "
        f"network {2 * chosen.width} wide and {2 * chosen.depth} deep."
    )
    return words, rows


def main(argv: list[str] | None = None) -> int:
    """Measures, prints the table and writes the JSON file."""
    chosen = options(argv)
    if chosen.child is not None:
        child(chosen)
        return 0
    about = _measure.machine(("keras-cv",))
    results: dict[str, dict] = {}
    lines = []
    for name, pair in contenders(chosen).items():
        seconds = timed(pair, chosen.rounds, name)
        ratio = _measure.ratios(seconds["attack"], seconds["passes"])
        results[name] = {"seconds": seconds, "excess": _measure.spread(ratio)}
        milliseconds = {
            f"{part} ms": _measure.show([1000 * each for each in values], 1)
            for part, values in seconds.items()
        }
        shown = _measure.show(ratio)
        lines.append({"attacked": name, **milliseconds, "attack / passes": shown})
    words, rows = memory(chosen, results)
    sentence = (
        f"Milliseconds of {chosen.steps} steps on {chosen.batch} images of {SIDE} x "
        f"{SIDE} pixels, untrained ViT {chosen.width} wide, {chosen.depth} deep, "
        f"patches of 8 pixels; windows: {max(1, chosen.batch // 16)} images of "
        f"{LARGE[0]} x {LARGE[1]} pixels in 35 windows. Median and quartiles of the "
        "rounds."
    )
    _measure.report(
        NAME, chosen, about, sentence, lines, results, further=[(words, rows)]
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
