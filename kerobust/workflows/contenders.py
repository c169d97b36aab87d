"""Which networks an evaluation compares, and how each came to its classifier."""

import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf

from kerobust.batch_state import path_digest
from kerobust.config import UserError
from kerobust.data.datasets import Split
from kerobust.evaluation.linear import fit_linear
from kerobust.evaluation.probes import linear_probe
from kerobust.methods import METHODS
from kerobust.models.bundle import load_bundle, read_info
from kerobust.models.ensemble import Ensemble
from kerobust.models.foreign import (
    input_shape,
    is_foreign,
    load_foreign,
    output_shape,
    reason_of,
)
from kerobust.models.heads import Classifier
from kerobust.workflows.preparing import Experiment
from kerobust.workflows.training import START, read_encoder

_BATCH = 256  # Images whose features are computed at once.
_LINEAR = "linear"  # What a probe cost: nothing to speak of.
_PROTOCOLS = {
    ("frozen", "natural"): "SLF",
    ("frozen", "trades"): "ALF",
    ("full", "trades"): "AFF",
    ("full", "natural"): "full, natural",
}


class Contender(NamedTuple):
    """A network to evaluate.

    Attributes:
        name: Under which it is reported.
        model: Maps images float32 [B, H, W, C] to logits [B, K].
        cost: What it took to train.
        protocol: How labels were used, as `kerobust.evaluation.sections` explains it.
    """

    name: str
    model: tf.keras.Model
    cost: str
    protocol: str


def pixel_probe(split: Split, num_classes: int) -> tf.keras.Model:
    """Returns the best linear classifier of raw pixels, as `linear_probe`."""
    images, labels = split.arrays()
    dense = tf.keras.layers.Dense(num_classes)
    flat = tf.keras.layers.Flatten(input_shape=split.image_shape)
    probe = tf.keras.Sequential([flat, dense])
    dense.set_weights(fit_linear(flat(images), labels, num_classes))
    return probe


def contenders(experiment: Experiment) -> Iterator[Contender]:
    """Yields everything to test, the result of the experiment first.

    That is the fine-tuned classifier, or without one the linear probe of the trained
    encoder, or without one what `--run.init_from` names.
    """
    config, workdir = experiment.config, experiment.workdir
    start, tuned = config.run.init_from, workdir / "finetune" / "model"
    if start is not None and is_foreign(start):
        model = read_foreign(experiment, start)
        yield Contender("model", model, "trained elsewhere", "")
        return
    if METHODS[config.method].SUPERVISED:
        yield from _ensembles(experiment)
        return
    probed = not tuned.exists() and (workdir / "encoder").exists()
    if probed:
        yield from _probed(experiment)
    else:
        named = tuned if start is None or tuned.exists() else pathlib.Path(start)
        yield _classifier(experiment, named)
    for arm in config.baselines.arms:
        folder = workdir / "baselines" / arm / "model"
        if folder.exists():
            cost = _cost("trained", folder)
            yield Contender(arm, load_bundle(folder), cost, _arm_protocol(config, arm))
    if "baselines" in config.run.stages:
        yield from _baseline_probes(experiment, own=not probed)


def result_bundle(experiment: Experiment) -> pathlib.Path:
    """Returns the bundle that holds the first contender, or the encoder of its probe.

    Raises:
        UserError: If nothing was trained and `--run.init_from` names no bundle.
    """
    start, workdir = experiment.config.run.init_from, experiment.workdir
    own = METHODS[experiment.config.method].EXPORT
    for folder in (workdir / "finetune" / "model", workdir / own):
        if folder.exists():
            return folder
    if start is None or is_foreign(start):
        raise UserError(
            "`--run.init_from` must name a bundle where nothing was trained. Received: "
            f"init_from={start}, workdir={workdir}."
        )
    return pathlib.Path(start)


def provenance(experiment: Experiment) -> dict[str, str]:
    """Returns what an evaluation is about: digests of the model and of the data."""
    start = experiment.config.run.init_from
    foreign = start is not None and is_foreign(start)
    model = pathlib.Path(str(start)) if foreign else result_bundle(experiment)
    return {"model": path_digest(model), "data": experiment.source.digest}


def _ensembles(experiment: Experiment) -> Iterator[Contender]:
    """Yields the trained ensemble, its members, and the same of what it started from.

    Every network is read anew: evaluation may overwrite the weights of what it gets.
    """
    kind, method = METHODS[experiment.config.method], experiment.config.method
    combine = experiment.config.ensemble.combine
    trained = experiment.workdir / kind.EXPORT
    start, folders = _start(experiment), {}
    if trained.exists():
        folders[method] = trained
    if start is not None:
        folders["start" if folders else "model"] = start
    for name, folder in folders.items():
        cost = _cost("trained", folder)
        ensemble = read_ensemble(folder)
        ensemble.combine = combine or ensemble.combine
        yield Contender(name, ensemble, cost, "")
        for index in range(len(ensemble.members)):
            member = read_ensemble(folder).members[index]
            yield Contender(f"{name} member {index + 1}", member, cost, "")


def read_ensemble(folder: pathlib.Path) -> Ensemble:
    """Returns the ensemble of a bundle.

    Raises:
        UserError: If the bundle holds none.
    """
    found = load_bundle(folder)
    found = found.get("ensemble") if isinstance(found, dict) else found
    if not isinstance(found, Ensemble):
        raise UserError(
            "`--run.init_from` must hold an ensemble. "
            f"Received: init_from={folder} with {type(found).__name__}."
        )
    return found


def _classifier(experiment: Experiment, folder: pathlib.Path) -> Contender:
    """Returns a fine-tuned classifier, or the probe of an encoder from elsewhere."""
    config, workdir = experiment.config, experiment.workdir
    bundle, cost = load_bundle(folder), _cost("trained", folder)
    if not isinstance(bundle, Classifier | Ensemble):
        return _probe(experiment, "model SLF", folder)
    own = folder == workdir / "finetune" / "model"
    if "pretrain" not in config.run.stages:
        return Contender("model", bundle, cost, protocol(config.finetune) * own)
    if (workdir / "encoder").exists():
        cost = f"{_cost('pretrained', workdir / 'encoder')}, {cost}"
    name = f"{config.method} + {config.finetune.attack}"
    return Contender(name, bundle, cost, protocol(config.finetune))


def _probed(experiment: Experiment) -> Iterator[Contender]:
    """Yields the probes of the trained encoder and of its teacher, if there is one."""
    method, workdir = experiment.config.method, experiment.workdir
    yield _probe(experiment, f"{method} SLF", workdir / "encoder")
    teacher = _start(experiment)
    if teacher is not None:
        yield _probe(experiment, "teacher SLF", teacher)


def _start(experiment: Experiment) -> pathlib.Path | None:
    """Returns the bundle that pretraining started from, None if there is none."""
    folder, start = experiment.workdir / START, experiment.config.run.init_from
    if start is not None:
        return pathlib.Path(start)
    return folder if folder.exists() else None


def _probe(experiment: Experiment, name: str, folder: pathlib.Path) -> Contender:
    """Returns the standard linear fine-tuning of the encoder in a bundle."""
    features, split = experiment.config.evaluate.features, experiment.labelled
    classes = experiment.source.num_classes
    probe = linear_probe(read_encoder(folder), split, classes, features)
    return Contender(name, probe, _cost("pretrained", folder), f"SLF, {features}")


def _baseline_probes(experiment: Experiment, own: bool) -> Iterator[Contender]:
    """Yields linear classifiers on an untrained encoder and on raw pixels.

    Args:
        experiment: The prepared experiment.
        own: Whether those of the trained encoder and of its teacher come before them.
    """
    config, labelled = experiment.config, experiment.labelled
    arms, classes = config.baselines.arms, experiment.source.num_classes
    for name, folder in {config.method: "encoder", "teacher": START}.items():
        if own and (experiment.workdir / folder).exists():
            found = _probe(experiment, f"{name} probe", experiment.workdir / folder)
            yield found._replace(cost=_LINEAR)
    features = config.evaluate.features
    if "random_init" in arms:
        tf.keras.utils.set_random_seed(config.run.seed)
        untrained = config.model.build(labelled.image_shape)
        probe = linear_probe(untrained, labelled, classes, features)
        yield Contender("random_init probe", probe, _LINEAR, f"SLF, {features}")
    if "pixels" in arms:
        probe = pixel_probe(labelled, classes)
        yield Contender("pixels probe", probe, _LINEAR, "linear in the pixels")


def protocol(settings) -> str:
    """Returns the short name of how `FinetuneConfig` trains on labels."""
    trained, attack = settings.encoder, settings.attack
    short = _PROTOCOLS.get((trained, attack))
    if short is None:
        short = f"{_PROTOCOLS[trained, 'trades']} by {attack}"
    return f"{short}, {settings.pooling}"


def _arm_protocol(config, arm: str) -> str:
    settings = config.finetune
    return protocol(
        settings.replace(attack="natural") if arm == "natural" else settings
    )


def read_foreign(experiment: Experiment, start: str):
    """Returns the model of another program that `--run.init_from` names, checked."""
    model = load_foreign(start)
    require_fit(experiment, start, model)
    return model


def require_fit(experiment: Experiment, start: str, model) -> None:
    """Refuses a classifier of other images or of other classes than the data's.

    Args:
        experiment: The prepared experiment.
        start: Where `model` comes from, as `--run.init_from` says.
        model: Maps images to logits.

    Raises:
        UserError: If it does not fit.
    """
    source = experiment.source
    name, wanted, classes = source.name, source.image_shape, source.num_classes
    shape, images = input_shape(model), tf.TensorShape([None, *wanted])
    fits = f"`--run.init_from` must be a model for `--data.name`, {name}:"
    takes = f"{fits} images of shape {tuple(wanted)}. Received: init_from={start},"
    if not shape.is_compatible_with(images):
        raise UserError(
            f"{takes} whose input has shape {tuple(shape[1:])}. Set --data.image_size, "
            "or name other data or another model."
        )
    try:
        outputs = output_shape(model, shape.merge_with(images))
    except ValueError as error:
        reason = reason_of(error)
        raise UserError(
            f"{takes} which fails on them ({reason}). Name another model."
        ) from error
    if outputs.rank != 2 or (classes and outputs[1] != classes):
        found = f"shape {tuple(outputs[1:])}" if outputs.rank else "no shape"
        raise UserError(
            f"{fits} one output for each of the {classes} classes. Received: init_from="
            f"{start}, whose output has {found}. Name the data that it was trained on, "
            "or another model."
        )


def _cost(verb: str, bundle: pathlib.Path) -> str:
    seconds = read_info(bundle).get("seconds")
    return f"{verb} elsewhere" if seconds is None else f"{verb} {seconds:.0f} s"
