"""The stage that compares frozen encoders across tasks and data sets."""

import dataclasses
import json
import pathlib
import re
from typing import Any

import numpy as np

from kerobust import run_folder
from kerobust.batch_state import path_digest, write_atomically
from kerobust.config import UserError
from kerobust.data import datasets
from kerobust.data.datasets import DataConfig, DataSource
from kerobust.data.splits import UNLABELLED, Split
from kerobust.data.views import evaluation_batches
from kerobust.distribute import workers
from kerobust.evaluation.probes import fit_heads, whole_image
from kerobust.evaluation.task_config import BenchmarkConfig
from kerobust.evaluation.task_evaluator import TaskEvaluator
from kerobust.evaluation.task_report import (
    compared,
    curve_figure,
    markdown,
    picture_of,
    summary,
    tables,
    write_task_report,
)
from kerobust.evaluation.task_results import Probed, TaskResults
from kerobust.experiment import ExperimentConfig
from kerobust.models.bundle import load_bundle, read_info, save_bundle
from kerobust.progress import shown_line
from kerobust.tasks import Classification, Depth, Segmentation, Task
from kerobust.workflows.evaluating import into_equal
from kerobust.workflows.preparing import Experiment
from kerobust.workflows.training import read_encoder

FOLDER = "benchmark"
_MEANT = 1000  # Training images of which the mean depth is taken.


def benchmark(experiment: Experiment) -> dict:
    """Fits heads on every encoder, attacks them, writes and prints the report.

    A killed run continues: finished heads and finished batches of attacks are kept.

    Returns:
        The report, see `write_task_report`.

    Raises:
        UserError: If there is no encoder, or no data set fits any of the tasks.
    """
    config = experiment.config.benchmark
    encoders = named_encoders(experiment.config)
    found: dict[str, dict[str, Any]] = {}
    pictures: dict[str, bytes] = {}
    for source in _sources(experiment, config):
        tasks = tasks_of(source, config)
        results, rows = _on_source(experiment, source, tasks, encoders)
        parts = {name: _part(results, rows, name) for name in tasks}
        depth = tasks.get("depth")
        if isinstance(depth, Depth):
            parts["depth"]["constant"] = _constant(depth, source, config)
        found[source.name] = parts
        for name, part in parts.items():
            title = f"{name} on {source.name}"
            pictures[f"curve {_plain(title)}"] = curve_figure(part, title)
            if name != "classification":
                first = next(iter(results.values())).pictures[name]
                pictures[_plain(title)] = picture_of(first, name, config.depth_most)
    report = _report(experiment, encoders, found)
    if workers().place.chief:
        folder = experiment.workdir / FOLDER
        write_task_report(folder, report, pictures)
        for section in tables(report):
            print(f"\n{markdown(section)}")
        print(f"\nreport: {folder / 'report.html'}", flush=True)
    return report


def named_encoders(experiment: ExperimentConfig) -> dict[str, pathlib.Path]:
    """Returns name -> folder of the encoders to compare.

    Raises:
        UserError: If one is missing, or two have one name.
    """
    config, run = experiment.benchmark, experiment.run
    own = pathlib.Path(run.workdir) / "encoder"
    given = config.encoders or (str(run.init_from or own),)
    found: dict[str, pathlib.Path] = {}
    for text in given:
        name, _, folder = text.rpartition("=")
        path = pathlib.Path(folder).expanduser()
        name = name or path.name
        config.require(
            path.exists(),
            "encoders",
            f"must name folders of bundles; {path} is not there",
            "Train an encoder first, for example with --method=dino.",
        )
        config.require(
            name not in found,
            "encoders",
            f"must have a name of its own for each encoder; {name} is there twice",
            "Write NAME=FOLDER.",
        )
        found[name] = path
    return found


def tasks_of(source: DataSource, config: BenchmarkConfig) -> dict[str, Task]:
    """Returns the wanted tasks for which a data set has targets."""
    train, test = source.splits["train"], source.splits.get("test")
    if test is None:
        return {}
    kinds = train.annotations
    found: dict[str, Task] = {}
    labelled = not any(np.any(x.labels == UNLABELLED) for x in (train, test))
    if labelled and source.num_classes > 1:
        task = Classification(source.num_classes, pooling=config.features)
        found["classification"] = task
    if "masks" in kinds:
        found["segmentation"] = Segmentation(len(source.mask_names), config.void)
    if "depths" in kinds:
        found["depth"] = Depth(config.depth_most, bins=config.depth_bins)
    return {name: found[name] for name in config.tasks if name in found}


def _sources(experiment: Experiment, config: BenchmarkConfig) -> list[DataSource]:
    """Returns the data sets that are there and have targets for one of the tasks."""
    data, found, reasons = experiment.config.data, [], []
    for name in config.data or (data.name,):
        try:
            source = experiment.source
            if name != data.name:
                source = datasets.load(dataclasses.replace(data, name=name))
                print(f"data: {source.summary()}", flush=True)
        except UserError as error:
            reasons.append(f"{name}: {error}")
            print(f"data: {name} is left out. {error}", flush=True)
            continue
        if tasks_of(source, config):
            found.append(source)
        else:
            reasons.append(f"{name} has no labels, masks or depths for them")
            print(f"data: {reasons[-1]}: left out.", flush=True)
    if not found:
        raise UserError(
            "`--benchmark.tasks` must hold a task for which a data set has labels, "
            f"masks or depths. Received: tasks={','.join(config.tasks)}; "
            f"{'; '.join(reasons)}. Try --data.name=scenes, which has all three."
        )
    return found


def _on_source(experiment, source, tasks, encoders):
    """Returns encoder -> `TaskResults` on one data set, and -> task -> `summary`."""
    config = experiment.config.benchmark
    evaluator = TaskEvaluator(experiment.config.attack, config)
    known: list = []
    whole: dict[int, Any] = {}
    results: dict[str, TaskResults] = {}
    rows: dict[str, dict[str, dict]] = {}
    shape = source.image_shape
    for name, path in encoders.items():
        print(f"benchmark: {name} on {source.name}", flush=True)
        folder = experiment.workdir / FOLDER / _plain(source.name) / _plain(name)
        _fit(experiment, source, tasks, path, folder)
        probed = {}
        for task_name, task in tasks.items():
            predictor = into_equal(known, load_bundle(folder / task_name))
            if id(predictor) not in whole:  # Attacks compile once per object.
                whole[id(predictor)] = whole_image(predictor, shape, config)
            probed[task_name] = Probed(task, whole[id(predictor)])
        results[name] = evaluator(
            probed,
            source.splits["test"],
            state_dir=folder / "batches",
            progress=shown_line(),
        )
        rows[name] = {task: summary(results[name], task) for task in tasks}
        if workers().place.chief:
            text = json.dumps(rows[name], indent=1)
            write_atomically(folder / "results.json", text.encode())
    return results, rows


def _fit(experiment: Experiment, source: DataSource, tasks, encoder, folder) -> None:
    """Fits and writes the heads that no earlier run has written to `folder`."""
    config = experiment.config.benchmark
    heads = ("features", "head_epochs", "head_batch_size", "head_rate", "head_decay")
    shape = ("depth_bins", "depth_most", "void", "window", "stride", "seed")
    about = {
        "encoder": path_digest(encoder),
        "data": source.digest,
        **{
            name: str(getattr(experiment.config.data, name))
            for name in ("image_size", "label_fraction", "label_seed")
        },
        **{name: str(getattr(config, name)) for name in (*heads, *shape)},
    }
    missing = {
        name: task
        for name, task in tasks.items()
        if not workers().agreed(_is_fitted(folder / name, about))
    }
    if not missing:
        return
    train, say = _labelled(source, experiment.config.data), shown_line()
    fitted = fit_heads(missing, read_encoder(encoder), train, config, say)

    def save() -> None:
        for name, predictor in fitted.items():
            save_bundle(predictor, folder / name, about)

    workers().by_chief(save)


def _labelled(source: DataSource, config: DataConfig) -> Split:
    """Returns the training images that heads may use, see `--data.label_fraction`."""
    train = source.splits["train"]
    if np.any(train.labels != UNLABELLED):
        return datasets.labelled_subset(train, config.label_fraction, config.label_seed)
    return train.thinned(max(1, round(config.label_fraction * train.size)))


def _is_fitted(folder: pathlib.Path, about: dict) -> bool:
    return folder.exists() and read_info(folder) == about


def _part(results: dict[str, TaskResults], rows: dict, task: str) -> dict:
    """Returns the report of one task: all encoders, each against those after it."""
    pairs = compared(results, task)
    return {"encoders": {name: {**rows[name][task], **pairs[name]} for name in results}}


def _constant(task: Depth, source: DataSource, config: BenchmarkConfig) -> dict:
    """Returns what the mean depth of training images gets on the attacked ones."""
    train = _depths(source.splits["train"].thinned(_MEANT))
    truth = _depths(source.splits["test"].thinned(config.limit))
    depth = task.constant(train)
    records = task.records(np.full_like(truth, depth), truth)
    return {"depth": depth, **task.metrics(records.sum(axis=0))}


def _depths(split: Split) -> np.ndarray:
    batches = evaluation_batches(split, 64, ("depths",))
    return np.concatenate([batch["depths"] for batch in batches])[: split.size]


def _report(experiment: Experiment, encoders: dict, found: dict) -> dict:
    config = experiment.config
    environment = run_folder.environment(experiment.source.digest)
    return {
        "title": f"kerobust benchmark: {', '.join(encoders)}",
        "command": environment["command"],
        "environment": environment,
        "threat": dataclasses.asdict(config.attack),
        "settings": config.to_flags(),
        "encoders": {name: path_digest(path) for name, path in encoders.items()},
        "data": found,
    }


def _plain(text: str) -> str:
    """Returns text fit for the name of a file."""
    return re.sub(r"[^\w.-]+", "_", text)
