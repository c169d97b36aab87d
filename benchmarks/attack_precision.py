"""What a victim in bfloat16 gains in speed and costs in strength.

`python -m benchmarks.attack_precision runs/mimir/finetune/model` attacks trained
classifiers with PGD in both precisions, on the test images of the data set that they
were trained on, at the epsilon that they were trained for. Success is counted by a
float32 forward in both cases. Flags of the data, such as --data.dir, follow the
folders.
"""

import argparse
import os

# Read when TensorFlow is imported, which the imports below do: errors only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pathlib

import numpy as np
import tensorflow as tf

from benchmarks import _measure
from kerobust.attacks import PGD
from kerobust.attacks.precision import PRECISIONS
from kerobust.data import Split, load
from kerobust.evaluation.metrics import mcnemar
from kerobust.experiment import ExperimentConfig
from kerobust.flags import parse
from kerobust.models.bundle import load_bundle, read_info
from kerobust.randomness import example_keys

NAME = "attack_precision"
DEFAULT = _measure.ROOT / "runs" / "mimir" / "finetune" / "model"


def options(argv: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Returns the settings of a command line, and what is left for the data."""
    parser = _measure.parser(__doc__, rounds=5)
    parser.add_argument("bundles", nargs="*", type=pathlib.Path, default=[DEFAULT])
    parser.add_argument("--images", type=int, default=1000, help="most test images")
    parser.add_argument("--batch", type=int, default=100, help="images per attack")
    parser.add_argument("--steps", type=int, default=20, help="steps of the attack")
    return parser.parse_known_args(argv)


def attacks(experiment: ExperimentConfig, steps: int) -> dict[str, PGD]:
    """Returns PGD in every precision."""
    threat = experiment.attack
    return {
        name: PGD(
            threat.epsilon, norm=threat.norm, steps=steps, keep="best", precision=name
        )
        for name in PRECISIONS
    }


def withstood(model, attack: PGD, split: Split, size: int) -> np.ndarray:
    """Returns bool [N]: right without and under the attack, both in float32."""
    found, forward = [], tf.function(lambda x: model(x, training=False))
    for start in range(0, split.size, size):
        part = split.subset(np.arange(start, min(start + size, split.size)))
        images, labels = part.arrays()
        keys = example_keys(0, 0, tf.constant(part.ids))
        adversarial = attack(images, labels, model, keys=keys)
        clean, attacked = (
            np.argmax(forward(tf.constant(seen)), axis=1) == labels
            for seen in (images, adversarial)
        )
        found.append(clean & attacked)
    return np.concatenate(found)


def compare(model, contenders: dict[str, PGD], split: Split, chosen) -> dict:
    """Returns who withstood which precision, and the seconds of a batch per round."""
    standing = {}
    for name, attack in contenders.items():
        print(f"{name}: attacking {split.size} images", flush=True)
        standing[name] = withstood(model, attack, split, chosen.batch)
    images, labels = split.thinned(chosen.batch).arrays()
    runs = {
        name: lambda attack=attack: attack(images, labels, model)
        for name, attack in contenders.items()
    }
    for run in runs.values():
        run()
    seconds = _measure.interleave(runs, chosen.rounds, "speed")
    return {
        "images": split.size,
        "steps": chosen.steps,
        "robust": {name: int(found.sum()) for name, found in standing.items()},
        "p_value": mcnemar(standing["bfloat16"], standing["float32"]).p_value,
        "seconds": seconds,
    }


def row(bundle: pathlib.Path, experiment: ExperimentConfig, result: dict) -> dict:
    """Returns the row of the table for one network."""
    percent = {
        name: 100 * count / result["images"] for name, count in result["robust"].items()
    }
    faster = _measure.ratios(
        result["seconds"]["float32"], result["seconds"]["bfloat16"]
    )
    return {
        "network": "/".join(bundle.parts[-4:]),
        "data": f"{result['images']} of {experiment.data.name}",
        "float32 robust %": f"{percent['float32']:.1f}",
        "bfloat16 robust %": f"{percent['bfloat16']:.1f}",
        "difference": f"{percent['bfloat16'] - percent['float32']:+.1f}",
        "McNemar p": f"{result['p_value']:.2g}",
        "bfloat16 is faster x": _measure.show(faster),
    }


def main(argv: list[str] | None = None) -> int:
    """Measures, prints the table and writes the JSON file."""
    chosen, extra = options(argv)
    if chosen.bundles == [DEFAULT] and not DEFAULT.exists():
        print(f"Skipped: there is no {DEFAULT}. Train it with make quickstart.")
        return 0
    about = _measure.machine()
    results, lines = {}, []
    for bundle in chosen.bundles:
        known = read_info(bundle)["flags"]
        flags = [f"--{name}={text}" for name, text in known.items()]
        experiment = parse([*flags, *extra]).config
        split = load(experiment.data).splits["test"].thinned(chosen.images)
        contenders = attacks(experiment, chosen.steps)
        result = compare(load_bundle(bundle), contenders, split, chosen)
        results[str(bundle)] = result
        lines.append(row(bundle, experiment, result))
    sentence = (
        f"PGD-{chosen.steps}, best of all points, batch {chosen.batch}; success is "
        "counted in float32. Speed: median and quartiles of the rounds."
    )
    _measure.report(NAME, chosen, about, sentence, lines, {"networks": results})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
