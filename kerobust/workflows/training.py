"""Stages that train: pretraining, fine-tuning, and what both are compared with."""

import dataclasses
import pathlib

import numpy as np
import tensorflow as tf

from kerobust import run_folder
from kerobust.config import UserError
from kerobust.data.augmentations import AUGMENTATIONS
from kerobust.data.datasets import Split
from kerobust.data.splits import UNLABELLED
from kerobust.data.views import training_batches
from kerobust.distribute import strategy, workers
from kerobust.evaluation.online import OnlineKnn, OnlineLinear
from kerobust.evaluation.plots import panel
from kerobust.experiment import ExperimentConfig
from kerobust.methods import METHODS
from kerobust.methods.base import Method
from kerobust.methods.finetune import Finetune, FinetuneConfig
from kerobust.methods.optimisation import OptimisationConfig, compile_method
from kerobust.methods.start import Length
from kerobust.models import ENCODERS
from kerobust.models.bundle import load_bundle, read_info, save_bundle
from kerobust.models.heads import Classifier, ClassifierHead
from kerobust.models.vit import VisionTransformer
from kerobust.models.weights import copy_encoder_weights, copy_weights
from kerobust.tasks import Classification
from kerobust.training.callbacks import Probe
from kerobust.training.fit import fit
from kerobust.workflows.preparing import Experiment

START = "start"  # Folder of what the method starts from.
# Most images that vote, and that are classified, while an encoder trains.
_KNN_BANK, _KNN_QUERIES = 5000, 500
_LINEAR_IMAGES, _LINEAR_QUERIES = 2000, 200  # The same for the linear head.


class StoppedError(Exception):
    """A signal ended the run after saving; the same command continues it."""


def pretrain(experiment: Experiment) -> tf.keras.Model | None:
    """Trains by `--method`, or reads the result if that is done already.

    Returns:
        The encoder; None for methods that train classifiers.
    """
    kind = METHODS[experiment.config.method]
    _pretrain(experiment, "pretrain", kind.EXPORT)
    if kind.SUPERVISED:
        return None
    return read_encoder(experiment.workdir / kind.EXPORT)


def train_start(experiment: Experiment) -> None:
    """Trains what the method starts from, unless that is done."""
    _pretrain(as_start(experiment), "pretrain_start", START)


def as_start(experiment: Experiment) -> Experiment:
    """Returns the experiment whose pretraining is the stage `start`."""
    config = experiment.config
    config = dataclasses.replace(
        config,
        method=METHODS[config.method].STARTS_FROM,
        pretrain=config.start,
        run=dataclasses.replace(config.run, init_from=None),
        ensemble=config.ensemble.replace(attack="natural"),
    )
    return dataclasses.replace(experiment, config=config)


def training_images(experiment: Experiment) -> Split:
    """Returns the images that `--method` trains on."""
    supervised = METHODS[experiment.config.method].SUPERVISED
    return experiment.labelled if supervised else experiment.unlabelled


def _pretrain(experiment: Experiment, name: str, bundle: str) -> None:
    folder = experiment.workdir / bundle
    if not workers().agreed(folder.exists()):
        start = None if bundle == START else start_of(experiment)
        method = make_pretraining(experiment, start)
        settings, images = experiment.config.pretrain, training_images(experiment)
        method.study(images)
        seconds = _train(experiment, method, settings, images, name)
        _save(method.exports, folder, _info(experiment, seconds))


def start_of(experiment: Experiment):
    """Returns the loaded bundle that pretraining starts from; None = new weights."""
    own = experiment.workdir / START
    start = experiment.config.run.init_from
    if start is None and own.exists():
        start = str(own)
    return None if start is None else load_bundle(start)


def make_pretraining(experiment: Experiment, start=None) -> Method:
    """Returns the compiled pretraining method.

    Args:
        experiment: The prepared experiment.
        start: Loaded bundle to start from; None = new networks.
    """
    config, images = experiment.config, training_images(experiment)
    steps = config.pretrain.steps_per_epoch(images.size)
    length = Length(config.pretrain.epochs, steps)
    kind, shape = METHODS[config.method], images.image_shape
    more = {"num_classes": experiment.source.num_classes} if kind.SUPERVISED else {}
    with _new_networks(config):
        method = kind.from_experiment(config, shape, length, start, **more)
        compile_method(method, config.pretrain, images.size)
    return method


def finetune(
    experiment: Experiment,
    name: str,
    settings: FinetuneConfig,
    encoder: VisionTransformer | None,
) -> Classifier:
    """Trains a classifier on the labelled images, or reads it if that is done.

    Args:
        experiment: The prepared experiment.
        name: Folder under the run folder.
        settings: How to train.
        encoder: Where to start; None = new weights.
    """
    folder = experiment.workdir / name / "model"
    if not workers().agreed(folder.exists()):
        method = make_finetuning(experiment, settings, encoder)
        seconds = _train(experiment, method, settings, experiment.labelled, name)
        _save(method.model, folder, _info(experiment, seconds))
    return load_bundle(folder)


def make_finetuning(
    experiment: Experiment, settings: FinetuneConfig, encoder: VisionTransformer | None
) -> Finetune:
    """Returns the compiled fine-tuning method; see `finetune`."""
    config, labelled = experiment.config, experiment.labelled
    total = settings.steps(labelled.size)
    task = Classification(experiment.source.num_classes, settings.label_smoothing)
    with _new_networks(config):
        model = Classifier(
            _encoder_to_tune(experiment, settings, encoder),
            ClassifierHead(task.num_classes, pooling=settings.pooling),
        )
        method = Finetune(model, task, settings, config.attack, total)
        compile_method(method, settings, labelled.size)
    return method


def _encoder_to_tune(experiment: Experiment, settings: FinetuneConfig, encoder):
    """Returns a new encoder, with the shape and weights of `encoder` if there is one.

    The final norm is left out where the head has its own.
    """
    drop_path, final_norm = settings.drop_path, settings.pooling == "cls"
    if encoder is None:
        return experiment.config.model.build(
            experiment.labelled.image_shape,
            drop_path,
            final_norm=final_norm,
            train_positions=True,
        )
    if not isinstance(encoder, VisionTransformer):
        new = type(encoder).from_config(encoder.get_config())
        copy_weights(encoder, new)
        return new
    changes = {"drop_path": drop_path, "final_norm": final_norm}
    settings_ = {**encoder.get_config(), **changes, "train_positions": True}
    new = VisionTransformer.from_config(settings_)
    copy_encoder_weights(encoder, new)
    return new


def read_encoder(folder: pathlib.Path) -> tf.keras.Model:
    """Returns the encoder of a bundle.

    Raises:
        UserError: If the folder holds no bundle, or one without such an encoder.
    """
    bundle = load_bundle(folder)
    found = bundle
    if isinstance(bundle, Classifier):
        found = bundle.encoder
    elif isinstance(bundle, dict):
        found = bundle.get("encoder", ", ".join(bundle))
    if not isinstance(found, tuple(ENCODERS.values())):
        raise UserError(
            "`--run.init_from` must hold an encoder. "
            f"Received: init_from={folder} with "
            f"{found if isinstance(found, str) else type(found).__name__}."
        )
    return found


def baselines(experiment: Experiment) -> None:
    """Trains the networks that the result is compared with."""
    for arm in experiment.config.baselines.arms:
        settings = arm_settings(experiment, arm)
        if settings is not None:
            finetune(experiment, f"baselines/{arm}", settings, None)


def arm_settings(experiment: Experiment, arm: str) -> FinetuneConfig | None:
    """Returns how an arm is trained; None for probes, which are fitted when tested."""
    settings = experiment.config.finetune
    if arm == "scratch":
        return settings
    if arm == "natural":
        return settings.replace(attack="natural")
    if arm == "scratch_equal_compute":
        factor = _compute_factor(experiment)
        return settings.replace(
            epochs=round(settings.epochs * factor),
            warmup_epochs=settings.warmup_epochs * factor,
        )
    return None


def _compute_factor(experiment: Experiment) -> float:
    """Returns what pretraining and fine-tuning cost, in fine-tunings, in seconds."""
    chosen = experiment.config.baselines.compute_factor
    if chosen is not None:
        return chosen
    folders = ("encoder", "finetune/model")
    missing = [name for name in folders if not (experiment.workdir / name).exists()]
    if missing:
        raise UserError(
            "`--baselines.arms` with scratch_equal_compute needs the seconds of "
            f"pretraining and fine-tuning. Received: no {' and no '.join(missing)} in "
            f"{experiment.workdir}. Run those stages first, or set "
            "--baselines.compute_factor."
        )
    first, second = (
        read_info(experiment.workdir / name)["seconds"] for name in folders
    )
    return (first + second) / second


def _train(
    experiment: Experiment,
    method: Method,
    settings: OptimisationConfig,
    split: Split,
    name: str,
) -> float:
    """Runs or continues one training; returns its seconds without interruptions."""
    config, steps = experiment.config, settings.steps(split.size)

    def batches(start_step: int) -> tf.data.Dataset:
        return training_batches(
            split,
            batch_size=settings.batch_size,
            steps=steps,
            start_step=start_step,
            seed=config.run.seed,
            augment=AUGMENTATIONS[settings.augment],
            views=method.view_maker,
            partners=method.PARTNERS,
            shares=workers().shares,
        )

    print(f"{name}: {steps} steps, peak rate {settings.peak_rate():.3g}", flush=True)
    fitted = fit(
        method,
        batches,
        steps=steps,
        batch_size=settings.batch_size,
        folder=experiment.workdir / name,
        run=config.run,
        probes=[
            *_probes(experiment, method, steps),
            *_linear_probes(experiment, method, settings, split.size),
        ],
        digest=run_folder.identity(config, experiment.source.digest),
        hparams=config.to_flags(),
    )
    if fitted.stopped:
        raise StoppedError(f"{name} stopped at step {fitted.step} of {steps}")
    return _seconds(fitted.history, settings.batch_size)


def _seconds(history: list[dict], batch_size: int) -> float:
    """Returns what the steps of all sessions took, tracing left out."""
    speeds = [row["images_per_second"] for row in history if "images_per_second" in row]
    usual, before, seconds = float(np.median(speeds)) if speeds else np.inf, 0, 0.0
    for row in history:
        images = (row["step"] - before) * batch_size
        seconds += images / row.get("images_per_second", usual)
        before = row["step"]
    return seconds


def _probes(experiment: Experiment, method: Method, steps: int) -> list:
    """Returns what is measured while pretraining: kNN accuracies and pictures."""
    encoder = method.exports.get("encoder")
    if encoder is None:
        return []
    splits, config = experiment.source.splits, experiment.config
    every = max(steps // 5, 1)
    probes: list[Probe] = []
    if hasattr(method, "pictures"):
        some = training_batches(experiment.unlabelled, batch_size=8, steps=1)
        first = next(iter(some))
        probes.append((every, lambda step: {"pictures": panel(method.pictures(first))}))
    queries = splits["validation"]
    queries = queries.subset(queries.labels != UNLABELLED).thinned(_KNN_QUERIES)
    if queries.size and (splits["train"].labels != UNLABELLED).any():
        bank = experiment.labelled.thinned(_KNN_BANK)
        knn = OnlineKnn(encoder, bank, queries, config.attack)
        probes.append((every, lambda step: knn()))
    return probes


def _linear_probes(experiment: Experiment, method: Method, settings, size: int) -> list:
    """Returns what measures the trained network every few epochs, if that is wanted."""
    epochs = getattr(settings, "robust_every", 0)
    student = method.exports.get("student", method.exports.get("encoder"))
    if not epochs or student is None:
        return []
    splits, config = experiment.source.splits, experiment.config
    queries = splits["validation"]
    queries = queries.subset(queries.labels != UNLABELLED).thinned(_LINEAR_QUERIES)
    linear = OnlineLinear(
        student,
        experiment.labelled.thinned(_LINEAR_IMAGES),
        queries,
        experiment.source.num_classes,
        config.attack,
        features=config.evaluate.features,
    )
    return [(epochs * settings.steps_per_epoch(size), linear)]


def _new_networks(config: ExperimentConfig):
    """Returns the scope for new networks; their first values follow the seed."""
    tf.keras.utils.set_random_seed(config.run.seed)
    return strategy(config.run.devices).scope()


def _save(models, folder: pathlib.Path, info: dict) -> None:
    """Writes a bundle; returns when all workers can read it."""
    save_bundle(models, workers().own(folder), info)
    workers().exchange()


def _info(experiment: Experiment, seconds: float) -> dict:
    environment = run_folder.environment(experiment.source.digest)
    return {
        "seconds": seconds,
        "flags": experiment.config.to_flags(),
        "environment": environment,
        "class_names": list(experiment.source.class_names),
    }
