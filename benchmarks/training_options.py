"""Which options of training pay: steps per call, XLA, the input pipeline.

`python -m benchmarks.training_options` times the train function that `fit` calls, for
MIMIR on the shapes of `mimir_step`, with the batches that a run reads:

- default: what `--run.steps_per_execution=1` without XLA does;
- 4 steps per call, 16 steps per call;
- jit: `--run.jit_compile`;
- repeated batch: the default without reading, shuffling and augmenting, to see how much
  of the pipeline is not hidden behind the steps.
"""

import argparse
import os

# Read when TensorFlow is imported, which the imports below do: errors only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from collections.abc import Callable, Iterator

import numpy as np

from benchmarks import _measure
from benchmarks.mimir_step import SETUPS, Setup, method_for
from kerobust.data.arrays import Memory
from kerobust.data.augmentations import AUGMENTATIONS
from kerobust.data.splits import Split
from kerobust.data.views import training_batches

NAME = "training_options"
DEFAULT = "default"
STEPS_PER_CALL = (4, 16)
IMAGES = 2000


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """Returns the settings of a command line."""
    parser = _measure.parser(__doc__)
    parser.add_argument(
        "--setups", nargs="+", choices=SETUPS, default=list(SETUPS), help="what"
    )
    parser.add_argument("--steps", type=int, default=16, help="steps per timing")
    return parser.parse_args(argv)


def batches(setup: Setup, repeated: bool) -> Iterator:
    """Returns an endless iterator of batches of random images, read as a run does."""
    settings = setup.experiment.pretrain
    images = np.random.default_rng(0).integers(
        256, size=(IMAGES, *setup.image_shape), dtype=np.uint8
    )
    split = Split(Memory(images), np.arange(IMAGES), np.zeros(IMAGES))
    dataset = training_batches(
        split,
        batch_size=settings.batch_size,
        steps=10**6,
        augment=AUGMENTATIONS[settings.augment],
    )
    return iter(dataset.take(1).cache().repeat() if repeated else dataset)


def contender(setup: Setup, steps: int, per_call: int, jit: bool, repeated: bool):
    """Returns a callable that makes `steps` training steps."""
    method, iterator = method_for("mimir", setup), batches(setup, repeated)
    method.steps_per_execution, method.jit_compile = per_call, jit
    function = method.make_train_function()

    def run():
        for _ in range(steps // per_call):
            logs = function(iterator)
        return logs

    return run


def contenders(setup: Setup, steps: int) -> dict[str, Callable]:
    """Returns option -> callable that makes `steps` training steps."""
    found = {DEFAULT: contender(setup, steps, 1, False, False)}
    for per_call in STEPS_PER_CALL:
        name = f"{per_call} steps per call"
        found[name] = contender(setup, steps, per_call, False, False)
    found["jit"] = contender(setup, steps, 1, True, False)
    found["repeated batch"] = contender(setup, steps, 1, False, True)
    return found


def compare(setup: Setup, steps: int, rounds: int, title: str) -> dict:
    """Returns seconds per step in every round."""
    steps = -(-steps // max(STEPS_PER_CALL)) * max(STEPS_PER_CALL)
    runs = contenders(setup, steps)
    for name, run in runs.items():  # The first call compiles: not timed.
        print(f"{title}: warming up {name}", flush=True)
        run()
    seconds = _measure.interleave(runs, rounds, title)
    each = {
        name: [value / steps for value in values] for name, values in seconds.items()
    }
    return {"settings": setup.experiment.to_flags(), "seconds": each}


def rows(title: str, result: dict) -> list[dict[str, str]]:
    """Returns the rows of the table for one setup."""
    seconds = result["seconds"]
    return [
        {
            "setup": title,
            "option": name,
            "ms per step": _measure.show((1000 * value for value in values), 1),
            "faster than the default x": _measure.show(
                _measure.ratios(seconds[DEFAULT], values)
            ),
        }
        for name, values in seconds.items()
    ]


def main(argv: list[str] | None = None) -> int:
    """Measures, prints the table and writes the JSON file."""
    chosen = options(argv)
    about = _measure.machine()
    results, lines = {}, []
    for name in chosen.setups:
        result = compare(SETUPS[name](), chosen.steps, chosen.rounds, name)
        results[name] = result
        lines += rows(name, result)
    sentence = "MIMIR pretraining steps. Median and quartiles of the rounds."
    _measure.report(NAME, chosen, about, sentence, lines, {"setups": results})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
