"""What a step of RoDINO, DeACL and FARE costs beside the passes that it must make.

`python -m benchmarks.ssl_step` times the train function that `fit` calls, and in the
same rounds, on the same batch, the passes of which the step is made, each compiled
alone:

- teacher: forward of the teacher (RoDINO: encoder and head on both global crops);
- attack: forward and gradient with respect to the images, once per attack step, and the
  forward that gives the target where it is the student's own clean class token;
- update: forward of all student views in training mode, loss, gradients of all weights,
  optimizer; of RoDINO also the moving average.

Predicted step = teacher + attack + update. Not predicted: data, metrics, clocks, the
random start, projections. Measured over predicted says what those cost.
"""

import argparse
import os

# Read when TensorFlow is imported, which the imports below do: errors only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from collections.abc import Callable

import tensorflow as tf

from benchmarks import _measure
from benchmarks._steps import climb, excess, shown, timed, train_step, update_pass
from kerobust.data.multicrop import ViewsConfig
from kerobust.experiment import ExperimentConfig
from kerobust.methods import METHODS
from kerobust.methods.base import Method
from kerobust.methods.deacl import DeaclConfig
from kerobust.methods.dino import DinoConfig
from kerobust.methods.fare import FareConfig
from kerobust.methods.optimisation import PretrainConfig, compile_method
from kerobust.methods.rodino import RodinoConfig
from kerobust.methods.start import Length
from kerobust.models.vit import VitConfig
from kerobust.randomness import example_keys

NAME = "ssl_step"
METHODS_TIMED = ("rodino", "deacl", "fare")
PASSES = ("teacher", "attack", "update")
SHAPE = (32, 32, 3)


def parser_of_sizes(about: str) -> argparse.ArgumentParser:
    """Returns a parser with the sizes of batches, encoder and attacks."""
    parser = _measure.parser(about)
    parser.add_argument("--batch", type=int, default=64, help="images per step")
    parser.add_argument("--width", type=int, default=96, help="width of the encoder")
    parser.add_argument("--depth", type=int, default=4, help="blocks of the encoder")
    parser.add_argument("--steps", type=int, default=5, help="steps of every attack")
    return parser


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """Returns the settings of a command line."""
    return parser_of_sizes(__doc__).parse_args(argv)


def method_for(name: str, chosen: argparse.Namespace) -> Method:
    """Returns a compiled method with new networks; its teacher is untrained."""
    experiment = ExperimentConfig(
        model=VitConfig(
            width=chosen.width,
            depth=chosen.depth,
            heads=4,
            patch_size=4,
            positions="learned",
        ),
        views=ViewsConfig(local_count=0),
        dino=DinoConfig(
            prototypes=1024, hidden=512, bottleneck=128, drop_path=0.0, smallest_batch=1
        ),
        rodino=RodinoConfig(steps=chosen.steps),
        deacl=DeaclConfig(steps=chosen.steps),
        fare=FareConfig(steps=chosen.steps),
        pretrain=PretrainConfig(batch_size=chosen.batch),
    )
    start = None if name == "rodino" else experiment.model.build(SHAPE)
    kind = METHODS[name]
    method = kind.from_experiment(experiment, SHAPE, Length(800, 10), start)
    compile_method(method, experiment.pretrain, 10 * chosen.batch)
    return method


def batch_for(size: int) -> dict[str, tf.Tensor]:
    """Returns a batch of random images and crops."""
    ids = tf.range(size)
    views = tf.random.stateless_uniform([size, 2, *SHAPE], [1, 1])
    return {
        "images": tf.random.stateless_uniform([size, *SHAPE], [1, 0]),
        "labels": tf.fill([size], -1),
        "ids": ids,
        "keys": example_keys(0, 0, ids),
        "global_views": views,
    }


def passes(name: str, method: Method, batch) -> dict[str, Callable]:
    """Returns the passes of a step, by the names in `PASSES`."""
    guided = method.guide(batch)
    seen = method.perturb(guided)

    @tf.function(autograph=False)
    def teacher(batch):
        return method.guide(batch)

    @tf.function(autograph=False)
    def attack(batch, targets):
        images = batch["images"]
        if name == "rodino":
            clean = method.adversarial_tokens(images, batch["keys"])
            targets = {"clean": clean, "keys": batch["keys"]}
        return climb(method.objective, images, targets, method.attack.steps)

    targets = None if name == "rodino" else method.attack_targets(guided)
    return {
        "teacher": lambda: teacher(batch),
        "attack": lambda: attack(guided, targets),
        "update": update_pass(method, seen),
    }


def compare(name: str, chosen: argparse.Namespace) -> dict[str, list[float]]:
    """Returns seconds per step and per pass in every round."""
    batch, method = batch_for(chosen.batch), method_for(name, chosen)
    contenders = {
        "step": train_step(method, batch),
        **passes(name, method, batch),
    }
    return timed(contenders, chosen.rounds, name)


def main(argv: list[str] | None = None) -> int:
    """Measures, prints the table and writes the JSON file."""
    chosen = options(argv)
    about = _measure.machine(("keras-cv", "tensorflow-addons"))
    results, lines = {}, []
    for name in METHODS_TIMED:
        seconds = compare(name, chosen)
        found = excess(seconds, PASSES)
        results[name] = {"seconds": seconds, "excess": _measure.spread(found)}
        last = {"step / passes": _measure.show(found)}
        lines.append({"method": name, **shown(seconds), **last})
    sentence = (
        f"Milliseconds; a vision transformer {chosen.width} wide and {chosen.depth} "
        f"deep on {chosen.batch} images of 32 x 32 pixels with patches of 4, "
        f"{chosen.steps} attack steps; passes = teacher + attack + update. Untrained "
        "networks. Median and quartiles of the rounds."
    )
    _measure.report(NAME, chosen, about, sentence, lines, results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
