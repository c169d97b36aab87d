"""Runs the stages of an experiment in order, or only says what they would cost."""

import dataclasses
import pathlib
import time

import numpy as np
import tensorflow as tf

from kerobust import distribute
from kerobust.config import UserError
from kerobust.data.splits import UNLABELLED
from kerobust.data.views import training_batches
from kerobust.experiment import ExperimentConfig
from kerobust.flags import STOPPED
from kerobust.methods import METHODS
from kerobust.methods.base import Method
from kerobust.methods.optimisation import OptimisationConfig
from kerobust.models.bundle import BundleError, load_bundle
from kerobust.models.ensemble import Ensemble
from kerobust.models.foreign import is_foreign, load_foreign
from kerobust.models.heads import Classifier
from kerobust.workflows.benchmarking import benchmark, named_encoders
from kerobust.workflows.contenders import (
    read_ensemble,
    read_foreign,
    require_fit,
)
from kerobust.workflows.evaluating import evaluate
from kerobust.workflows.joining import joined, left_alone
from kerobust.workflows.perturbing import perturb
from kerobust.workflows.preparing import Experiment, prepare
from kerobust.workflows.pushing import push
from kerobust.workflows.training import (
    StoppedError,
    as_start,
    baselines,
    finetune,
    make_finetuning,
    make_pretraining,
    pretrain,
    read_encoder,
    start_of,
    train_start,
    training_images,
)
from kerobust.workflows.validating import validate

NOT_BLESSED = 1  # Exit code.


def run(config: ExperimentConfig, dry_run: bool = False) -> int:
    """Runs `--run.stages`; finished stages are read, interrupted ones continued.

    Args:
        config: The experiment.
        dry_run: Build and check, run a few steps of each training, write nothing.

    Returns:
        Exit code: 0, 75 after a signal (the same command continues), or 1 if a model
        that was to be judged or pushed is not blessed.
    """
    # Before a bundle starts TensorFlow.
    workers = distribute.start(config.run.devices)
    with workers.one_voice():
        return _run(config, dry_run)


def _run(config: ExperimentConfig, dry_run: bool) -> int:
    _require_start(config)
    if "benchmark" in config.run.stages and "pretrain" not in config.run.stages:
        _require_encoders(config)
    if "push" in config.run.stages:
        given, fix = config.push.dir is not None, "Add --push.dir=DIR."
        config.push.require(given, "dir", "must name a folder for the stage push", fix)
    config = _with_its_shape(config)
    _say_members(config)
    experiment = prepare(config)
    print(f"data: {experiment.source.summary()}", flush=True)
    _require_images(experiment)
    _require_classifier(experiment)
    try:
        if dry_run:
            return _estimate(experiment)
        with joined(experiment):
            return _run_stages(experiment)
    except tf.errors.UnavailableError as error:
        if distribute.workers().place.count == 1:  # A network file system, say.
            raise
        raise left_alone(error) from error
    except StoppedError as stop:
        print(f"{stop}; the same command continues it.", flush=True)
        return STOPPED
    except tf.errors.ResourceExhaustedError as error:
        if "OOM" not in error.message:  # A full disk, for example.
            raise
        raise _out_of_memory(experiment, error) from error


def _run_stages(experiment: Experiment) -> int:
    config, workers = experiment.config, distribute.workers()
    stages = config.run.stages
    if "start" in stages:
        train_start(experiment)
    encoder = pretrain(experiment) if "pretrain" in stages else None
    if "finetune" in stages:
        encoder = _start(experiment) if encoder is None else encoder
        finetune(experiment, "finetune", config.finetune, encoder)
    if "baselines" in stages:
        baselines(experiment)
    with distribute.local_strategy(config.run.devices).scope():
        if "perturb" in stages:
            workers.by_chief(lambda: str(perturb(experiment)))
        if "evaluate" in stages:
            evaluate(experiment)
        if "benchmark" in stages:
            benchmark(experiment)
    blessed = True
    if "validate" in stages:
        blessed = workers.by_chief(lambda: validate(experiment))
    if "push" in stages:
        blessed = workers.by_chief(lambda: push(experiment) is not None)
    return 0 if blessed else NOT_BLESSED


def _out_of_memory(experiment: Experiment, error: tf.errors.OpError) -> UserError:
    config, (height, width, _) = experiment.config, experiment.source.image_shape
    patches = (height // config.model.patch_size) * (width // config.model.patch_size)
    reason = next(x for x in error.message.splitlines() if "OOM" in x)
    return UserError(
        "`--pretrain.batch_size`, `--finetune.batch_size` or `--evaluate.batch_size` "
        "needs more memory than the device has. Received: "
        f"{config.pretrain.batch_size}, {config.finetune.batch_size} and "
        f"{config.evaluate.batch_size} images of {patches:,} patches ({reason}). Lower "
        "it, raise --model.patch_size, or lower --data.image_size."
    )


def _require_start(config: ExperimentConfig) -> None:
    """Refuses stages that have nothing to start from, before any work is done."""
    stages, start = config.run.stages, config.run.init_from
    folder = pathlib.Path(config.run.workdir)
    if start is not None and is_foreign(start):
        if not set(stages) <= {"perturb", "evaluate", "validate"}:
            raise UserError(
                "`--run.init_from` must be a bundle of this library unless "
                "`--run.stages` holds perturb, evaluate and validate only: models of "
                "other programs can be attacked, not trained. Received: "
                f"init_from={start}, stages={','.join(stages)}."
            )
        load_foreign(start)
        return
    if start is not None:
        try:
            load_bundle(start)
        except BundleError as error:
            raise error.named("--run.init_from", "init_from", start) from error
        return
    needs_encoder = "finetune" in stages and "pretrain" not in stages
    if needs_encoder and not (folder / "encoder").exists():
        raise UserError(
            "`--run.init_from` must name an encoder bundle when `--run.stages` has "
            "finetune without pretrain. Received: init_from=None and no encoder in "
            f"{folder}. Add pretrain to --run.stages or name a bundle."
        )
    kept = (METHODS[config.method].EXPORT, "finetune/model")
    found = any((folder / name).exists() for name in kept)
    attacked = next((x for x in ("perturb", "evaluate") if x in stages), None)
    if attacked and not (found or {"pretrain", "finetune"} & set(stages)):
        raise UserError(
            f"`--run.init_from` must name a bundle when `--run.stages` has {attacked} "
            "without pretrain and finetune. Received: init_from=None and neither "
            f"an {kept[0]} nor a fine-tuned model in {folder}. Add one of those stages "
            "to --run.stages or name a bundle."
        )


def _require_encoders(config: ExperimentConfig) -> None:
    """Refuses a benchmark of anything but bundles with an encoder."""
    for name, path in named_encoders(config).items():
        try:
            read_encoder(path)
        except BundleError as error:
            raise error.named("--benchmark.encoders", name, path) from error
        except UserError as error:
            raise UserError(
                "`--benchmark.encoders` must name bundles with an encoder that this "
                f"version can read. Received: {name}={path}. Name an encoder or a "
                "classifier."
            ) from error


def _with_its_shape(config: ExperimentConfig) -> ExperimentConfig:
    """Returns the experiment with the shape of the encoder that it starts from."""
    start, stages = config.run.init_from, config.run.stages
    if start is None or not {"finetune", "baselines"} & set(stages):
        return config
    model = config.model.shaped_like(read_encoder(pathlib.Path(start)))
    told = ("width", "depth", "heads", "patch_size", "positions")
    text = ", ".join(f"{name} {getattr(model, name)}" for name in told)
    print(f"encoder: {start}, which sets --model: {text}", flush=True)
    return dataclasses.replace(config, model=model)


def _say_members(config: ExperimentConfig) -> None:
    """Says which members a training takes over, whatever the flags of new ones say."""
    start = config.run.init_from
    if start is None or not METHODS[config.method].SUPERVISED or is_foreign(start):
        return
    members = read_ensemble(pathlib.Path(start)).members
    kind = type(members[0].encoder).__name__
    text = f"{len(members)} members with encoders {kind}"
    print(f"ensemble: {start}, instead of --ensemble and --conv: {text}", flush=True)


def _require_images(experiment: Experiment) -> None:
    """Refuses data that a later stage could not use, before an earlier one starts."""
    config, stages = experiment.config, experiment.config.run.stages
    if "start" in stages:
        config.start.steps(training_images(experiment).size)
    if "pretrain" in stages:
        config.pretrain.steps(training_images(experiment).size)
    if "finetune" in stages or "baselines" in stages:
        config.finetune.steps(experiment.labelled.size)
    if "evaluate" in stages:
        _require_labels(experiment, config.evaluate.split)
    if "perturb" in stages:
        for name in config.perturb.splits:
            splits = experiment.source.splits
            expectation = f"must name splits of the data: {', '.join(splits)}"
            config.perturb.require(name in splits, "splits", expectation)


def _require_classifier(experiment: Experiment) -> None:
    """Refuses to test a classifier of other images or classes than the data's."""
    run, workdir = experiment.config.run, experiment.workdir
    stages, start = set(run.stages), run.init_from
    if start is not None and is_foreign(start):
        if stages != {"validate"}:
            read_foreign(experiment, start)
        return
    trains = {"start", "pretrain", "finetune"} & stages
    if start is None or trains or "evaluate" not in stages:
        return
    own = any((workdir / name).exists() for name in ("encoder", "finetune/model"))
    model = load_bundle(start)
    model = model.get("ensemble") if isinstance(model, dict) else model
    if isinstance(model, Classifier | Ensemble) and not own:
        require_fit(experiment, start, model)


def _require_labels(experiment: Experiment, name: str) -> None:
    splits = experiment.source.splits
    found = f"which has {', '.join(splits)}"
    if name in splits:
        count, size = np.sum(splits[name].labels == UNLABELLED), splits[name].size
        if not count:
            return
        found = f"with {count} of {size} {name} images without a label"
    raise UserError(
        f"`--data.name` must have labelled {name} images when `--run.stages` has "
        f"evaluate. Received: name={experiment.config.data.name}, {found}."
    )


def _start(experiment: Experiment):
    """Returns the encoder that `--run.init_from` or an earlier run provides."""
    start = experiment.config.run.init_from
    folder = pathlib.Path(start) if start else experiment.workdir / "encoder"
    return read_encoder(folder) if folder.exists() else None


def _estimate(experiment: Experiment) -> int:
    """Prints parameters, memory and time of each training stage."""
    config, stages = experiment.config, experiment.config.run.stages
    images = training_images(experiment)
    if "start" in stages:
        method = make_pretraining(as_start(experiment))
        _print_estimate("start", method, config.start, images)
    if "pretrain" in stages:
        start = method.exports if "start" in stages else start_of(experiment)
        method = make_pretraining(experiment, start)
        _print_estimate(config.method, method, config.pretrain, images)
    if "finetune" in stages:
        encoder = _start(experiment)
        method = make_finetuning(experiment, config.finetune, encoder)
        _print_estimate("finetune", method, config.finetune, experiment.labelled)
    rest = [name for name in stages if name not in ("start", "pretrain", "finetune")]
    if rest:
        print(f"time not included: {', '.join(rest)}", flush=True)
    return 0


def _print_estimate(name: str, method: Method, settings: OptimisationConfig, split):
    steps, size = settings.steps(split.size), settings.batch_size
    workers = distribute.workers()
    seconds = []
    for count in (1, 1, 6):  # Tracing and start, the start alone, five steps more.
        batches = training_batches(
            split,
            batch_size=size,
            steps=count,
            views=method.view_maker,
            partners=method.PARTNERS,
            shares=workers.shares,
        )
        batches = workers.distributed(batches)
        started = time.perf_counter()
        method.fit(batches, steps_per_epoch=count, epochs=1, verbose=0)
        seconds.append(time.perf_counter() - started)
    step = max(seconds[2] - seconds[1], 0.0) / 5
    weights = sum(tf.size(item).numpy() for item in method.trained_variables())
    state = 4 * 4 * weights / 2**20  # Weight, gradient and two slots in float32.
    print(
        f"{name}: {weights:,} trained parameters, {steps:,} steps of {size} images, "
        f"about {state:.1f} MiB of weights, gradients and slots (without activations), "
        f"{seconds[0] - seconds[1]:.1f} s to trace, then {step:.3f} s per step: "
        f"{steps * step / 60:.1f} minutes",
        flush=True,
    )
