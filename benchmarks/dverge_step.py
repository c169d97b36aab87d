"""What a step of DVERGE costs beside the passes that it must make.

`python -m benchmarks.dverge_step` times the train function that `fit` calls, and in the
same rounds, on the same batch, the passes of which the step is made, each compiled
alone, for a fixed layer:

- references: features of the other images, once per member;
- distillation: forward to that layer and gradient with respect to the images, once per
  step and member;
- update: forward of every member on what was distilled from each of the others, loss,
  gradients of all weights, optimizer.

Predicted step = references + distillation + update. Not predicted: data, metrics,
clocks, momentum, projections. Measured over predicted says what those cost.

Beside it, one step of distillation of all members: one member after the other, as the
library does it, and all at once with stacked weights under `tf.vectorized_map`.
"""

import argparse
import os

# Read when TensorFlow is imported, which the imports below do: errors only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from collections.abc import Callable

import tensorflow as tf

from benchmarks import _measure
from benchmarks._steps import STEP, climb, excess, shown, timed, train_step, update_pass
from kerobust.experiment import ExperimentConfig
from kerobust.methods.dverge import Dverge, DvergeConfig
from kerobust.methods.ensemble import EnsembleConfig
from kerobust.methods.optimisation import PretrainConfig, compile_method
from kerobust.methods.start import Length
from kerobust.randomness import example_keys

NAME = "dverge_step"
NETWORKS = {"conv": 3, "resnet20": 11}  # Network -> the layer in its middle.
PASSES = ("references", "distillation", "update")
SHAPE = (32, 32, 3)


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """Returns the settings of a command line."""
    parser = _measure.parser(__doc__)
    parser.add_argument("--batch", type=int, default=128, help="images per step")
    parser.add_argument("--members", type=int, default=3, help="classifiers")
    parser.add_argument("--steps", type=int, default=10, help="steps of distillation")
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=["conv"], help="what"
    )
    return parser.parse_args(argv)


def method_for(network: str, chosen: argparse.Namespace) -> Dverge:
    """Returns a compiled method with new networks."""
    experiment = ExperimentConfig(
        ensemble=EnsembleConfig(members=chosen.members, network=network),
        dverge=DvergeConfig(layer=NETWORKS[network], steps=chosen.steps),
        pretrain=PretrainConfig(batch_size=chosen.batch, optimizer="sgd"),
    )
    length = Length(800, 10)
    method = Dverge.from_experiment(experiment, SHAPE, length, num_classes=10)
    compile_method(method, experiment.pretrain, 10 * chosen.batch)
    return method


def batch_for(size: int) -> dict[str, tf.Tensor]:
    """Returns a batch of random images, and others beside them."""
    ids = tf.range(size)
    return {
        "images": tf.random.stateless_uniform([size, *SHAPE], [1, 0]),
        "partners": tf.random.stateless_uniform([size, *SHAPE], [1, 1]),
        "labels": ids % 10,
        "ids": ids,
        "keys": example_keys(0, 0, ids),
    }


def passes(method: Dverge, batch) -> dict[str, Callable]:
    """Returns the passes of a step, by the names in `PASSES`."""
    matches = method.matches[0]
    targets = [match.references(batch["partners"]) for match in matches]
    seen = {**batch, "distilled": method.distil(batch, 0)}

    @tf.function(autograph=False)
    def references(images):
        return [match.references(images) for match in matches]

    @tf.function(autograph=False)
    def distillation(images, targets):
        return [
            climb(match, images, wanted, method.dverge.steps)
            for match, wanted in zip(matches, targets, strict=True)
        ]

    return {
        "references": lambda: references(batch["partners"]),
        "distillation": lambda: distillation(batch["images"], targets),
        "update": update_pass(method, seen),
    }


def at_once(method: Dverge, batch) -> dict[str, Callable]:
    """Returns one step of distillation of all members: in turns, and stacked."""
    matches = method.matches[0]
    targets = tf.stack([match.references(batch["partners"]) for match in matches])
    images = tf.stack([batch["images"]] * len(matches))
    first = method.members[0].encoder
    weights = [
        tf.stack(values)
        for values in zip(*(_first_weights(x) for x in method.members), strict=True)
    ]

    @tf.function(autograph=False)
    def turns(images, targets):
        found = zip(matches, tf.unstack(images), tf.unstack(targets), strict=True)
        return [climb(match, seen, wanted, 1) for match, seen, wanted in found]

    def one(given):
        images, targets, *weights = given
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            features = _third_layer(first, images, weights)
            values = -tf.reduce_mean(tf.square(features - targets), axis=1)
        return images + STEP * tape.gradient(values, images)

    @tf.function(autograph=False)
    def stacked(images, targets):
        return tf.vectorized_map(one, (images, targets, *weights))

    return {
        "in turns": lambda: turns(images, targets),
        "stacked": lambda: stacked(images, targets),
    }


def _first_weights(member) -> list[tf.Tensor]:
    layers = [*member.encoder.convolutions, member.encoder.dense[0]]
    return [tf.convert_to_tensor(item) for layer in layers for item in layer.weights]


def _third_layer(encoder, images, weights) -> tf.Tensor:
    """Returns the first dense layer of `ConvNet` with the given weights."""
    features, padding = images, encoder.padding.upper()
    *pairs, (kernel, bias) = zip(weights[::2], weights[1::2], strict=True)
    for conv_kernel, conv_bias in pairs:
        features = tf.nn.conv2d(features, conv_kernel, 1, padding) + conv_bias
        features = tf.nn.max_pool2d(tf.nn.relu(features), 2, 2, "VALID")
    flat = tf.reshape(features, [features.shape[0], -1])
    return tf.linalg.matmul(flat, kernel) + bias


def main(argv: list[str] | None = None) -> int:
    """Measures, prints the table and writes the JSON file."""
    chosen = options(argv)
    about = _measure.machine(("keras-cv", "tensorflow-addons"))
    results, lines = {}, []
    for network in chosen.networks:
        batch, method = batch_for(chosen.batch), method_for(network, chosen)
        contenders = {"step": train_step(method, batch), **passes(method, batch)}
        seconds = timed(contenders, chosen.rounds, network)
        found = excess(seconds, PASSES)
        results[network] = {"seconds": seconds, "excess": _measure.spread(found)}
        last = {"step / passes": _measure.show(found)}
        lines.append({"network": network, **shown(seconds), **last})
        if network == "conv":
            both = timed(
                at_once(method, batch), chosen.rounds, f"{network}, all members"
            )
            ratio = _measure.ratios(both["stacked"], both["in turns"])
            results["stacked"] = {"seconds": both, "ratio": _measure.spread(ratio)}
    sentence = (
        f"Milliseconds; {chosen.members} untrained members on {chosen.batch} images of "
        f"32 x 32 pixels, {chosen.steps} steps of distillation, a layer in the middle; "
        "passes = references + distillation + update. Median and quartiles of the "
        "rounds."
    )
    if "stacked" in results:
        sentence += (
            " One step of distillation with the members' weights stacked under "
            "tf.vectorized_map takes "
            f"{_measure.show(ratio)} times "
            "as long as member after member."
        )
    _measure.report(NAME, chosen, about, sentence, lines, results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
