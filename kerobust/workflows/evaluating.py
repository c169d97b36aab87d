"""The stage that tests: every network under the same attacks on the same images."""

import dataclasses
import json
import pathlib

import tensorflow as tf

from kerobust import run_folder
from kerobust.batch_state import weights_digest, write_atomically
from kerobust.data.splits import Split
from kerobust.distribute import workers
from kerobust.evaluation.diversity import Diversity
from kerobust.evaluation.evaluator import Evaluator
from kerobust.evaluation.events import write_events, write_shared
from kerobust.evaluation.plots import heat_map
from kerobust.evaluation.report import compare, row, table, write_report
from kerobust.evaluation.representation import Representation
from kerobust.evaluation.results import Evaluation
from kerobust.evaluation.sections import sentence
from kerobust.progress import shown_line
from kerobust.workflows.contenders import (
    Contender,
    contenders,
    provenance,
    read_ensemble,
)
from kerobust.workflows.preparing import Experiment
from kerobust.workflows.validating import results_folder

_NOTHING_SHARED = (
    "Its members have fewer than two images right together, so that what they share "
    "could not be examined."
)


def evaluate(experiment: Experiment) -> dict[str, Evaluation]:
    """Attacks every network of the experiment; writes the report, returns the results.

    Workers share the attacks; the chief does the rest.
    """
    config, workdir = experiment.config, experiment.workdir
    chief = workers().place.chief
    evaluator = Evaluator(config.attack, config.evaluate)
    study = _Study(experiment)
    results: dict[str, Evaluation] = {}
    about: dict[str, Contender] = {}
    known: list = []
    split = experiment.source.splits[config.evaluate.split]
    origin = provenance(experiment)
    for contender in contenders(experiment):
        name = contender.name
        folder = results_folder(workdir, name)
        print(f"evaluate: {name}", flush=True)
        model = into_equal(known, contender.model)
        _adopt(model)
        progress = shown_line()
        results[name] = evaluator(
            model,
            split,
            thorough=not results,  # Attacks need one curve and one diagnosis.
            state_dir=folder / "batches",
            progress=progress,
        )
        about[name] = contender
        if chief:
            study.examine(name, model, split, folder, progress)
            _write_results(experiment, name, folder, results[name], origin)
    if chief:
        content = _report(experiment, results, about)
        study.add_to(content, workdir / "evaluate" / "tensorboard")
        _publish(workdir, content)
    return results


class _Study:
    """What is asked of encoders and of ensembles beside accuracy under attack."""

    def __init__(self, experiment: Experiment):
        self._config, self._bank = experiment.config, experiment.labelled
        config = experiment.config
        self._representation = Representation(
            config.attack, config.evaluate, config.represent
        )
        folders = map(pathlib.Path, config.diversity.surrogates)
        surrogates = {str(folder): read_ensemble(folder) for folder in folders}
        self._diversity = Diversity(config.diversity, surrogates)
        self._encoders: dict[str, dict] = {}
        self._ensembles: dict[str, dict] = {}
        self._notes: list[str] = []

    def examine(self, name: str, model, split: Split, folder: pathlib.Path, progress):
        """Examines what there is: an encoder, or members."""
        wanted = self._config.evaluate
        if wanted.represent and hasattr(model, "encoder"):
            self._encoders[name] = self._representation(
                model,
                self._bank,
                split,
                state_dir=folder / "representation",
                progress=progress,
            )
        if wanted.diversity and len(getattr(model, "members", ())) > 1:
            found = self._diversity(model, split.thinned(wanted.limit))
            if found is None:
                self._notes.append(f"{name}: {_NOTHING_SHARED}")
            else:
                self._ensembles[name] = found
                picture = heat_map(found["transfer"]["success"])
                write_atomically(folder / "transfer.png", picture)

    def add_to(self, content: dict, events: pathlib.Path) -> None:
        """Adds what was found to a report and writes its events."""
        content["notes"] += self._notes
        if self._encoders:
            write_events(events, self._encoders)
            content["representation"] = self._encoders
        if self._ensembles:
            write_shared(events, self._ensembles)
            content["diversity"] = self._ensembles


def _publish(workdir, content: dict) -> None:
    """Writes the report, prints what matters of it and says where it is."""
    paths = write_report(workdir, content)
    print(f"\n{table(content['rows'])}\n")
    for text in (*map(sentence, content["comparisons"]), *content["notes"]):
        print(text)
    print(f"\nreport: {paths['html']}\ncurves: tensorboard --logdir {workdir}")


def _write_results(experiment, name: str, folder, result: Evaluation, origin: dict):
    """Writes what was found about one network into its folder."""
    found = {"results": {**result.to_dict(), "about": origin}}
    for suite, report in result.suites.items():
        if report.suite["version"] != "custom":
            about = {"name": name, "dataset": experiment.source.name}
            found[f"model_info_{suite}"] = report.model_info(**about)
    for file, content in found.items():
        text = json.dumps(content, indent=1)
        write_atomically(folder / f"{file}.json", text.encode())


def _adopt(model) -> None:
    """Gives a model the chief's weights if a worker's own fit came out otherwise.

    Linear probes are fitted by every worker, and machines round differently.
    """
    if workers().differing(lambda: weights_digest(model)) is not None:
        own = {str(i): array for i, array in enumerate(model.get_weights())}
        chiefs = workers().of_chief(own)
        model.set_weights([chiefs[name] for name in own])


def into_equal(known: list, model):
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


def _report(experiment: Experiment, results: dict, about: dict) -> dict:
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
        "rows": [
            row(name, results[name], about[name].cost, about[name].protocol)
            for name in results
        ],
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
        "embed_curves": {
            name: it.embed_curve for name, it in results.items() if it.embed_curve
        },
        "pictures": {first: results[first].pictures},
        "notes": doubts,
    }
