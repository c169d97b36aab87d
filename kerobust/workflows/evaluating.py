"""The stage that tests: every network under the same attacks on the same images."""

import dataclasses
import json
import pathlib
import sys

import tensorflow as tf

from kerobust import run_folder
from kerobust.batch_state import write_atomically
from kerobust.config import UserError
from kerobust.data.datasets import Split
from kerobust.data.views import evaluation_batches
from kerobust.evaluation.evaluator import Evaluator
from kerobust.evaluation.linear import fit_linear
from kerobust.evaluation.report import compare, row, table, write_report
from kerobust.evaluation.results import Evaluation
from kerobust.evaluation.sections import sentence
from kerobust.models.bundle import load_bundle, read_info
from kerobust.models.foreign import is_foreign, load_foreign
from kerobust.models.heads import Classifier, ClassifierHead
from kerobust.workflows.preparing import Experiment
from kerobust.workflows.training import read_encoder

_BATCH = 256  # Images whose features are computed at once.


def linear_probe(encoder, split: Split, num_classes: int) -> Classifier:
    """Returns `encoder` with a linear head on the mean of its patch tokens.

    The head is the best one for the images of `split`, see `fit_linear`.
    """
    probe = Classifier(encoder, ClassifierHead(num_classes, norm=False))
    batches = evaluation_batches(split, _BATCH)
    parts = [
        tf.reduce_mean(encoder(batch["images"], training=False).patches, axis=1)
        for batch in batches
    ]
    features = tf.concat(parts, axis=0)[: split.size]
    probe.head.dense.set_weights(fit_linear(features, split.labels, num_classes))
    return probe


def pixel_probe(split: Split, num_classes: int) -> tf.keras.Model:
    """Returns the best linear classifier of raw pixels, as `linear_probe`."""
    images, labels = split.arrays()
    dense = tf.keras.layers.Dense(num_classes)
    flat = tf.keras.layers.Flatten(input_shape=split.image_shape)
    probe = tf.keras.Sequential([flat, dense])
    dense.set_weights(fit_linear(flat(images), labels, num_classes))
    return probe


def evaluate(experiment: Experiment) -> dict:
    """Attacks every network of the experiment; writes and returns the report."""
    config, workdir = experiment.config, experiment.workdir
    evaluator = Evaluator(config.attack, config.evaluate)
    results: dict[str, Evaluation] = {}
    notes: dict[str, str] = {}
    known: list = []
    for name, model, note in _networks(experiment):
        folder = workdir / "evaluate" / name.replace(" ", "_").replace("+", "and")
        print(f"evaluate: {name}", flush=True)
        results[name] = evaluator(
            _into_equal(known, model),
            experiment.source.splits[config.evaluate.split],
            thorough=not results,  # Attacks need one curve and one diagnosis.
            state_dir=folder / "batches",
            progress=_line if sys.stdout.isatty() else None,
        )
        notes[name] = note
        found = {"results": results[name].to_dict()}
        for suite, report in results[name].suites.items():
            if report.suite["version"] != "custom":
                about = {"name": name, "dataset": experiment.source.name}
                found[f"model_info_{suite}"] = report.model_info(**about)
        for file, content in found.items():
            text = json.dumps(content, indent=1)
            write_atomically(folder / f"{file}.json", text.encode())
    content = _report(experiment, results, notes)
    paths = write_report(workdir, content)
    print(f"\n{table(content['rows'])}\n")
    for text in (*map(sentence, content["comparisons"]), *content["notes"]):
        print(text)
    print(f"\nreport: {paths['html']}\ncurves: tensorboard --logdir {workdir}")
    return content


def _into_equal(known: list, model):
    """Returns a known model of the same structure, with the weights of `model`.

    What is no Keras model is returned as it is. Attacks compile once per object.
    `known` holds (structure, model) of all models unlike those before; the structure
    is kept because Keras adds to it at calls.
    """
    if not isinstance(model, tf.keras.Model):
        return model
    structure = (type(model), model.get_config())
    for other, twin in known:
        if other == structure:
            twin.set_weights(model.get_weights())
            return twin
    known.append((structure, model))
    return model


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
        "suites": {
            name: {suite: part.members for suite, part in it.suites.items()}
            for name, it in results.items()
        },
        "curves": {name: it.curve for name, it in results.items() if it.curve},
        "pictures": {first: results[first].pictures},
        "notes": doubts,
    }


def _networks(experiment: Experiment):
    """Yields (name, images -> logits, what it cost) of everything to test."""
    config, workdir = experiment.config, experiment.workdir
    start = config.run.init_from
    own = workdir / "finetune" / "model"
    folder = own if start is None or own.exists() else pathlib.Path(start)
    if start is not None and is_foreign(start):
        yield "model", _foreign(experiment, start), "trained elsewhere"
        return
    model = load_bundle(folder)
    if not isinstance(model, Classifier):
        raise UserError(
            "`--run.init_from` must name a classifier bundle to evaluate. Received: "
            f"init_from={start}, an encoder. Fine-tune it first (kerobust.probe)."
        )
    encoder, cost = workdir / "encoder", _cost("trained", folder)
    if "pretrain" in config.run.stages and encoder.exists():
        cost = f"{_cost('pretrained', encoder)}, {cost}"
    yield _own_name(config), model, cost
    for arm in config.baselines.arms:
        folder = workdir / "baselines" / arm / "model"
        if folder.exists():
            yield arm, load_bundle(folder), _cost("trained", folder)
    if "baselines" in config.run.stages:
        yield from _probes(experiment)


def _foreign(experiment: Experiment, start: str):
    """Returns the model of another program if it takes the images of the experiment."""
    model = load_foreign(start)
    shape = tf.TensorShape(getattr(model, "input_shape", None))
    wanted = experiment.source.image_shape
    if not shape.is_compatible_with([None, *wanted]):
        raise UserError(
            "`--run.init_from` must be a model for the images of `--data.name`, shape "
            f"{tuple(wanted)}. Received: init_from={start}, whose input has shape "
            f"{tuple(shape[1:])}."
        )
    return model


def _cost(verb: str, bundle: pathlib.Path) -> str:
    seconds = read_info(bundle).get("seconds")
    return f"{verb} elsewhere" if seconds is None else f"{verb} {seconds:.0f} s"


def _own_name(config) -> str:
    if "pretrain" not in config.run.stages:
        return "model"
    return f"{config.method} + {config.finetune.attack}"


def _probes(experiment: Experiment):
    """Yields linear classifiers on the encoder, an untrained one and raw pixels."""
    config, labelled = experiment.config, experiment.labelled
    arms, classes = config.baselines.arms, experiment.source.num_classes
    folder, probes = experiment.workdir / "encoder", {}
    if folder.exists():
        pretrained = read_encoder(folder)
        probes[config.method] = linear_probe(pretrained, labelled, classes)
    if "random_init" in arms:
        tf.keras.utils.set_random_seed(config.run.seed)
        untrained = config.model.build(labelled.image_shape)
        probes["random_init"] = linear_probe(untrained, labelled, classes)
    if "pixels" in arms:
        probes["pixels"] = pixel_probe(labelled, classes)
    for name, probe in probes.items():
        yield f"{name} probe", probe, "linear"


def _line(text: str) -> None:
    print(f"\r{text:<78}", end="", flush=True)
