"""The stage that tests: every network under the same attacks on the same images."""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from kerobust import run_folder
from kerobust.config import UserError
from kerobust.data.datasets import Split
from kerobust.evaluation.evaluator import evaluate as evaluate_model
from kerobust.evaluation.linear import fit_linear
from kerobust.evaluation.report import compare, row, table, write_report
from kerobust.evaluation.sections import sentence
from kerobust.evaluation.state import write_atomically
from kerobust.models.bundle import load_bundle, read_info
from kerobust.models.heads import Classifier
from kerobust.workflows.preparing import Experiment
from kerobust.workflows.training import read_encoder


class LinearProbe:
    """A linear classifier on features, fitted once and callable like a network.

    Args:
        features: Maps images [B, H, W, C] to features [B, D].
        split: Labelled images to fit.
        num_classes: Number of classes.
    """

    def __init__(self, features: Callable, split: Split, num_classes: int):
        images, labels = split.arrays()
        self.features = features
        self.kernel, self.bias = fit_linear(features(images), labels, num_classes)

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        return self.features(images) @ self.kernel + self.bias


def pixels(images: tf.Tensor) -> tf.Tensor:
    """Returns raw pixels as features, [B, H * W * C]."""
    return tf.reshape(images, [tf.shape(images)[0], int(np.prod(images.shape[1:]))])


def mean_tokens(encoder) -> Callable:
    """Returns the function images -> mean patch token [B, D] of `encoder`."""

    def features(images):
        return tf.reduce_mean(encoder(images, training=False).patches, axis=1)

    return features


def evaluate(experiment: Experiment) -> dict:
    """Attacks every network of the experiment; writes and returns the report."""
    config, workdir = experiment.config, experiment.workdir
    results, notes, settings = {}, {}, config.evaluate
    for name, model, seconds in _networks(experiment):
        folder = workdir / "evaluate" / name.replace(" ", "_").replace("+", "and")
        print(f"evaluate: {name}", flush=True)
        results[name] = evaluate_model(
            model,
            experiment.source.splits[settings.split],
            config.attack,
            settings,
            state_dir=folder / "batches",
            progress=_line if sys.stdout.isatty() else None,
        )
        notes[name] = "linear" if seconds is None else f"trained {seconds:.0f} s"
        found = json.dumps(results[name].to_dict())
        write_atomically(folder / "results.json", found.encode())
        settings = config.evaluate.replace(curve=False)  # One curve tells enough.
    report = _report(experiment, results, notes)
    paths = write_report(workdir, report)
    print(f"\n{table(report['rows'])}\n")
    for text in (*map(sentence, report["comparisons"]), *report["notes"]):
        print(text)
    print(f"\nreport: {paths['html']}\ncurves: tensorboard --logdir {workdir}")
    return report


def _report(experiment: Experiment, results: dict, notes: dict) -> dict:
    """Returns the report of all results; the first row is compared with the others."""
    config, source = experiment.config, experiment.source
    environment = run_folder.environment(source.digest)
    first, *others = results
    doubts = [f"{name}: {note}" for name in results for note in results[name].notes]
    return {
        "title": f"kerobust: {first} on {source.name} ({config.evaluate.split})",
        "command": environment["command"],
        "environment": environment,
        "data": {
            "name": source.name,
            "digest": source.digest,
            "labelled training images": int(experiment.labelled.size),
            **{name: int(split.size) for name, split in source.splits.items()},
            **source.report,
        },
        "threat": dataclasses.asdict(config.attack),
        "settings": config.to_flags(),
        "rows": [row(name, results[name], notes[name]) for name in results],
        "comparisons": [
            compare(first, results[first], other, results[other], on)
            for other in others
            for on in ("worst", "clean")
        ],
        "curves": {name: it.curve for name, it in results.items() if it.curve},
        "pictures": {first: results[first].pictures},
        "notes": doubts,
    }


def _networks(experiment: Experiment):
    """Yields (name, images -> logits, seconds of training) of everything to test."""
    config, workdir = experiment.config, experiment.workdir
    start = config.run.init_from
    own = workdir / "finetune" / "model"
    folder = own if start is None or own.exists() else pathlib.Path(start)
    model = load_bundle(folder)
    if not isinstance(model, Classifier):
        raise UserError(
            "`--run.init_from` must name a classifier bundle to evaluate. Received: "
            f"init_from={start}, an encoder. Fine-tune it first (kerobust.probe)."
        )
    yield _own_name(config), model, read_info(folder).get("seconds")
    for arm in config.baselines.arms:
        folder = workdir / "baselines" / arm / "model"
        if folder.exists():
            yield arm, load_bundle(folder), read_info(folder)["seconds"]
    if "baselines" in config.run.stages:
        yield from _probes(experiment)


def _own_name(config) -> str:
    if "pretrain" not in config.run.stages:
        return "model"
    return f"{config.method} + {config.finetune.attack}"


def _probes(experiment: Experiment):
    """Yields linear classifiers on the encoder, an untrained one and raw pixels."""
    config, classes = experiment.config, experiment.source.num_classes
    labelled, arms = experiment.labelled, config.baselines.arms
    features = {}
    folder = experiment.workdir / "encoder"
    if folder.exists():
        features[f"{config.method} probe"] = mean_tokens(read_encoder(folder))
    if "random_init" in arms:
        tf.keras.utils.set_random_seed(config.run.seed)
        untrained = config.model.build(labelled.image_shape)
        features["random_init probe"] = mean_tokens(untrained)
    if "pixels" in arms:
        features["pixels probe"] = pixels
    for name, function in features.items():
        yield name, LinearProbe(function, labelled, classes), None


def _line(text: str) -> None:
    print(f"\r{text:<78}", end="", flush=True)
