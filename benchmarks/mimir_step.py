"""What MIMIR costs beside a plain masked autoencoder, measured and predicted.

`python -m benchmarks.mimir_step` times the train function that `fit` calls, of both
methods and on the same batch, and in the same rounds the passes that their steps are
made of, each compiled alone:

- update: mask, forward, reconstruction error, gradients of all weights, AdamW update;
- attack: mask, forward and gradient with respect to the images, once per attack step;
- dependence: the penalty of pixels and tokens, and its gradient for the tokens.

Predicted MAE step = update; predicted MIMIR step = update + attack + dependence. Not
predicted: data, metrics, clocks, the random start, projections. Measured over predicted
ratio says what those cost.
"""

import argparse
import os

# Read when TensorFlow is imported, which the imports below do: errors only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from benchmarks import _measure
from benchmarks._steps import train_step
from kerobust.experiment import ExperimentConfig
from kerobust.flags import parse
from kerobust.methods import METHODS
from kerobust.methods.mae import Mae, MaeConfig
from kerobust.methods.mimir import Mimir
from kerobust.methods.optimisation import PretrainConfig, compile_method
from kerobust.methods.start import Length
from kerobust.models.vit import VitConfig
from kerobust.randomness import example_keys

NAME = "mimir_step"
FLAGFILE = _measure.ROOT / "configs" / "mimir.flags"
IMAGES = 10_000  # Only the length of the learning-rate schedule depends on it.
PASSES = ("update", "attack", "dependence")


@dataclasses.dataclass(frozen=True)
class Setup:
    """An experiment, the shape of its images, and steps per timing.

    Short steps need many: a timing should last about a second.
    """

    experiment: ExperimentConfig
    image_shape: tuple[int, int, int]
    repeats: int = 1


def vit_setup() -> Setup:
    """Returns a ViT 128/6/4 with patches of 4 pixels of 32, decoder 64/2/4."""
    return Setup(
        ExperimentConfig(
            model=VitConfig(width=128, depth=6, heads=4, patch_size=4),
            mae=MaeConfig(decoder_width=64, decoder_depth=2, decoder_heads=4),
            pretrain=PretrainConfig(batch_size=128),
        ),
        (32, 32, 3),
        repeats=4,
    )


def digits_setup() -> Setup:
    """Returns what configs/mimir.flags trains."""
    return Setup(parse([f"--flagfile={FLAGFILE}"]).config, (8, 8, 3), 40)


SETUPS = {"vit": vit_setup, "digits": digits_setup}


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """Returns the settings of a command line."""
    parser = _measure.parser(__doc__)
    parser.add_argument(
        "--setups", nargs="+", choices=SETUPS, default=list(SETUPS), help="what"
    )
    parser.add_argument(
        "--batch", type=int, help="images per step; without it, that of the setup"
    )
    parser.add_argument(
        "--repeats", type=int, help="steps per timing; without it, that of the setup"
    )
    return parser.parse_args(argv)


def batch_for(setup: Setup, size: int) -> dict[str, tf.Tensor]:
    """Returns a batch of random images as the methods expect it."""
    ids = tf.range(size)
    return {
        "images": tf.random.stateless_uniform([size, *setup.image_shape], [1, 0]),
        "labels": tf.fill([size], -1),
        "ids": ids,
        "keys": example_keys(0, 0, ids),
    }


def method_for(name: str, setup: Setup) -> Mae:
    """Returns a compiled pretraining method with new networks."""
    method = METHODS[name].from_experiment(
        setup.experiment, setup.image_shape, Length(1, 1)
    )
    compile_method(method, setup.experiment.pretrain, IMAGES)
    return method


def passes(method: Mimir, batch) -> dict[str, Callable]:
    """Returns the passes of a MIMIR step, by the names in `PASSES`."""
    variables = method.trained_variables()

    @tf.function(autograph=False)
    def update(batch):
        with tf.GradientTape() as tape:
            loss = Mae.loss_terms(method, batch, training=True)["reconstruction"]
        method.optimizer.minimize(loss, variables, tape=tape)
        return loss

    @tf.function(autograph=False)
    def attack(batch):
        images, mask = batch["images"], method.draw_mask(batch["keys"])
        targets = mask._asdict() | {"target": method.target(images)}
        for _ in range(method.mimir.steps):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(images)
                values = method.objective(images, targets)
            images = tape.gradient(values, images)
        return images

    @tf.function(autograph=False)
    def dependence(images, tokens):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(tokens)
            value, _ = method._dependence(images, tokens)
        return tape.gradient(value, tokens)

    images, mask = batch["images"], method.draw_mask(batch["keys"])
    tokens = method.encoder(images, visible=mask.visible)
    return {
        "update": lambda: update(batch),
        "attack": lambda: attack(batch),
        "dependence": lambda: dependence(images, tokens),
    }


def compare(setup: Setup, size: int, rounds: int, repeats: int, title: str) -> dict:
    """Returns seconds per step and per pass in every round."""
    batch = batch_for(setup, size)
    mae, mimir = method_for("mae", setup), method_for("mimir", setup)
    contenders = {
        "mae": train_step(mae, batch),
        "mimir": train_step(mimir, batch),
        **passes(mimir, batch),
    }
    for name, run in contenders.items():  # The first call compiles: not timed.
        print(f"{title}: warming up {name}", flush=True)
        run()
        run()
    often = {name: _repeated(run, repeats) for name, run in contenders.items()}
    seconds = _measure.interleave(often, rounds, title)
    return {
        "batch": size,
        "repeats": repeats,
        "parameters": sum(int(tf.size(item)) for item in mimir.trained_variables()),
        "settings": setup.experiment.to_flags(),
        "seconds": {
            name: [value / repeats for value in values]
            for name, values in seconds.items()
        },
    }


def summary(result: dict) -> dict[str, list[float]]:
    """Returns per round: measured and predicted ratio, and steps over predictions.

    Returns:
        dict: "measured", MIMIR over MAE step; "predicted", the same from the passes;
        "excess", measured / predicted; "mae_excess" and "mimir_excess", each step over
        the sum of its own passes.
    """
    seconds = result["seconds"]
    passes = zip(*(seconds[name] for name in PASSES), strict=True)
    total = [sum(values) for values in passes]
    measured = _measure.ratios(seconds["mimir"], seconds["mae"])
    predicted = _measure.ratios(total, seconds["update"])
    return {
        "measured": measured,
        "predicted": predicted,
        "excess": _measure.ratios(measured, predicted),
        "mae_excess": _measure.ratios(seconds["mae"], seconds["update"]),
        "mimir_excess": _measure.ratios(seconds["mimir"], total),
    }


def rows(title: str, result: dict) -> list[dict[str, str]]:
    """Returns the row of the table for one setup."""
    found = summary(result)
    milliseconds = {
        name: [1000 * value for value in values]
        for name, values in result["seconds"].items()
    }
    return [
        {
            "setup": f"{title}, batch {result['batch']}",
            **{
                f"{name} ms": _measure.show(milliseconds[name], 1)
                for name in ("mae", "mimir", *PASSES)
            },
            "mimir / mae": _measure.show(found["measured"]),
            "predicted": _measure.show(found["predicted"]),
            "measured / predicted": _measure.show(found["excess"]),
        }
    ]


def main(argv: list[str] | None = None) -> int:
    """Measures, prints the table and writes the JSON file."""
    chosen = options(argv)
    about = _measure.machine(("keras-cv", "tensorflow-addons"))
    results, lines = {}, []
    for name in chosen.setups:
        setup = SETUPS[name]()
        size = chosen.batch or setup.experiment.pretrain.batch_size
        repeats = chosen.repeats or setup.repeats
        result = compare(setup, size, chosen.rounds, repeats, name)
        spreads = {
            key: _measure.spread(values) for key, values in summary(result).items()
        }
        results[name] = result | {"summary": spreads}
        lines += rows(name, result)
    sentence = (
        "Milliseconds per step; predicted = (update + attack + dependence) / update. "
        "Untrained networks. Median and quartiles of the rounds."
    )
    _measure.report(NAME, chosen, about, sentence, lines, {"setups": results})
    return 0


def _repeated(run: Callable, repeats: int) -> Callable:
    def often():
        for _ in range(repeats):
            result = run()
        return result

    return often


if __name__ == "__main__":
    raise SystemExit(main())
