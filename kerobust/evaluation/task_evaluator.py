"""Attacks heads of several tasks on one encoder, each judged by all of them."""

import functools
import json
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

import kerobust
from kerobust.attacks import AttackConfig, Finding, TokenMatch, whitening_of
from kerobust.attacks.attempts import Attempt, attempt_keys, check_inside
from kerobust.attacks.objectives import Objective, infer
from kerobust.attacks.tracing import traced
from kerobust.batch_state import BatchState, array_digest, weights_digest
from kerobust.config import UserError
from kerobust.data import Split, evaluation_batches
from kerobust.distribute import workers
from kerobust.evaluation.clean_tokens import clean_tokens
from kerobust.evaluation.task_config import BenchmarkConfig
from kerobust.evaluation.task_findings import diagnosed
from kerobust.evaluation.task_results import ENCODER, Job, Probed, TaskResults
from kerobust.progress import Clock
from kerobust.randomness import example_keys
from kerobust.tasks import Effort
from kerobust.tasks.base import EMBED, PARTS, TASK, embed_suite

CLEAN, _EVERYTHING, _DIAGNOSIS = "clean", "everything", "diagnosis"
_PROBE, _PICTURES = 8, 6
_WHITENING = 1000  # Clean images whose tokens are whitened.


class TaskEvaluator:
    """Attacks every task of an encoder; encoders of one structure compile only once.

    Args:
        threat: Norm and epsilon.
        config: Attacks and images.
    """

    def __init__(self, threat: AttackConfig, config: BenchmarkConfig):
        self.threat, self.config = threat, config
        self._objectives: dict[tuple, tuple[Any, Objective]] = {}
        self._attempts: dict[tuple, list[Attempt]] = {}
        self._functions: dict[int, tuple[Any, Any]] = {}
        self._whitening: dict[tuple[str, int], tf.Variable] = {}

    def __call__(
        self,
        probed: dict[str, Probed],
        split: Split,
        *,
        state_dir: str | os.PathLike | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> TaskResults:
        """Returns what was found; a killed evaluation continues where it was.

        Args:
            probed: Task -> task and model, all on one encoder.
            split: Images with the targets of all the tasks.
            state_dir: Folder for the results of finished batches; None = none.
            progress: Called with lines of progress.

        Raises:
            UserError: If none of the attacked images has a target that counts.
        """
        say = progress or (lambda text: None)
        targets = tuple({each.task.TARGET for each in probed.values()} - {"labels"})
        shown = split.thinned(self.config.limit)
        self._require_targets(probed, shown, targets)
        first = next(iter(evaluation_batches(shown, self.config.batch_size, targets)))
        whitening = None
        if self.config.suite_steps and self.config.whitened:
            whitening = self._whiten(probed, split)
        jobs = self._jobs(probed, whitening)
        outputs = [self._say(each.model, first["images"]) for each in probed.values()]
        probe = np.concatenate([np.ravel(each[:_PROBE]) for each in outputs])[:4096]
        identity = self._identity(probed, shown)
        state = workers().in_turn(lambda: BatchState(state_dir, identity, probe, say))
        found = self._run(probed, shown, jobs, state, say, targets)
        clean = _joined(found.pop(CLEAN), probed)
        everything = {name: records.sum(axis=0) for name, records in clean.items()}
        if shown.size < split.size:
            everything = self._everything(probed, split, targets, state)
        return TaskResults(
            tasks={name: each.task for name, each in probed.items()},
            epsilon=float(self.threat.epsilon),
            clean=clean,
            everything=everything,
            records={key: _joined(parts, probed) for key, parts in found.items()},
            jobs=jobs,
            norms={
                k: max(float(p["norms"].max()) for p in v) for k, v in found.items()
            },
            seconds={k: sum(float(p["seconds"]) for p in v) for k, v in found.items()},
            pictures=self._pictures(probed, first, found),
            diagnosis=self._diagnosis(probed, first, state, say),
        )

    def _diagnosis(self, probed, batch, state, say) -> dict[str, list[Finding]]:
        if not self.config.diagnose:
            return {}
        shown, seed = _valid(batch), self.config.seed

        def work() -> dict[str, np.ndarray]:
            say(f"diagnosis: {', '.join(probed)}")
            found = {
                name: diagnosed(each, shown, self.threat, seed)
                for name, each in probed.items()
            }
            return {name: np.array(json.dumps(signs)) for name, signs in found.items()}

        def kept() -> dict[str, list]:
            key = f"{_DIAGNOSIS}@{float(self.threat.epsilon)!r}"
            arrays, _ = state.get(key, 0, work)
            return {name: json.loads(str(text)) for name, text in arrays.items()}

        signs = workers().by_chief(kept)
        return {name: [Finding(*each) for each in signs[name]] for name in probed}

    def _run(self, probed, split: Split, jobs, state, say, targets) -> dict[str, list]:
        size, own = self.config.batch_size, workers()
        batches = -(-split.size // size)
        shares = sum(map(own.mine, range(batches)))
        clock = Clock(sum(job.attempt.cost for job in jobs) * shares, say)
        found: dict[str, list] = {job.key: [] for job in jobs} | {CLEAN: []}
        for index, batch in enumerate(evaluation_batches(split, size, targets)):
            if not own.mine(index):
                continue
            batch = _valid(batch)
            work = functools.partial(self._judged, probed, batch["images"], batch)
            found[CLEAN].append(state.get(CLEAN, index, work)[0])
            for job in jobs:
                others = functools.partial(self._others, split, index, batch)
                work = functools.partial(self._attacked, probed, job, batch, others)
                arrays, fresh = state.get(job.key, index, work)
                found[job.key].append(arrays)
                where = f"{job.task} {job.attempt.name} at {job.epsilon:.4g}"
                text = f"{where}: batch {index + 1} of {batches}"
                clock.advance(job.attempt.cost, index, text, fresh)
        return {key: own.collect(parts) for key, parts in found.items()}

    def _others(self, split: Split, index: int, batch) -> tf.Tensor:
        """Returns an image for each of a batch, from the other end of the split."""
        first = index * self.config.batch_size + split.size // 2
        positions = (first + np.arange(len(batch["ids"]))) % split.size
        return split.fetch(tf.constant(positions, tf.int32))

    def _attacked(self, probed, job: Job, batch, others) -> dict[str, np.ndarray]:
        """Returns records by judge, and the size of every perturbation."""
        started = time.perf_counter()
        whom = next(iter(probed)) if job.task == ENCODER else job.task
        task, model = probed[whom]
        images, attempt = batch["images"], job.attempt
        keys = attempt_keys(attempt, example_keys(self.config.seed, 0, batch["ids"]))
        objective = self._objective(job, model)
        blind = attempt.name.startswith(EMBED)
        targets = None if blind else task.counted(batch[task.TARGET])
        if isinstance(objective, TokenMatch):
            targets = objective.outputs(others())
        options = {}
        if self.config.step_size is not None and attempt.name in (EMBED, TASK):
            share = job.epsilon / self.threat.epsilon
            options["step_size"] = self.config.step_size * share
        adversarial = attempt.attack(
            images,
            targets,
            objective,
            epsilon=job.epsilon,
            keys=keys,
            **options,
        )
        adversarial = adversarial.numpy()
        check_inside(attempt, images, adversarial, job.epsilon)
        norms = attempt.attack.ball.norm(tf.constant(adversarial - images)).numpy()
        seconds = time.perf_counter() - started
        pictures = {}
        if (attempt.name, job.epsilon) == (TASK, self.threat.epsilon):
            pictures["pictures"] = adversarial[:_PICTURES]
        found = self._judged(probed, adversarial, batch)
        return {**found, **pictures, "norms": norms, "seconds": np.array(seconds)}

    def _objective(self, job: Job, model) -> Objective:
        key = (job.task, job.attempt.name)
        known, objective = self._objectives.get(key, (None, None))
        if known is not model or objective is None:
            objective = job.attempt.objective(model)
            self._objectives[key] = model, objective
        return objective

    def _jobs(self, probed: dict[str, Probed], whitening) -> list[Job]:
        epsilon = float(self.threat.epsilon)
        chosen = self.config.epsilons or tuple(epsilon * x for x in (0.25, 0.5, 2.0))
        radii = [float(x) for x in chosen if x not in (0, epsilon)]
        jobs = []
        for name, (task, _) in probed.items():
            attempts = self._kept(name, task.attempts, whitening)
            jobs += [Job(name, attempt, epsilon) for attempt in attempts]
            if self.config.curve:
                jobs += [Job(name, each, r) for each in attempts[:2] for r in radii]
        if self.config.suite_steps:
            attempts = self._kept(ENCODER, embed_suite, whitening)
            jobs += [Job(ENCODER, attempt, epsilon) for attempt in attempts]
        return jobs

    def _kept(self, name: str, make, whitening) -> list[Attempt]:
        """Returns what `make(effort)` holds; the same objects whenever it is asked."""
        width = 0 if whitening is None else whitening["cls"].shape[0]
        if (name, width) not in self._attempts:
            effort = Effort(
                self.threat.epsilon,
                self.threat.norm,
                self.config.steps,
                self.config.suite_steps,
                whitening,
            )
            self._attempts[name, width] = list(make(effort).values())
        return self._attempts[name, width]

    def _whiten(
        self, probed: dict[str, Probed], split: Split
    ) -> dict[str, tf.Variable]:
        """Returns what whitens clean tokens of the encoder, for each of `PARTS`.

        One variable per width: attacks that were compiled with it see the new values.
        """
        encoder = next(iter(probed.values())).model.encoder
        tokens = clean_tokens(encoder, split, _WHITENING, self.config.batch_size)
        found = {}
        for part, rows in zip(PARTS, tokens, strict=True):
            matrix = whitening_of(rows)
            key = part, matrix.shape[0]
            if key not in self._whitening:
                self._whitening[key] = tf.Variable(matrix, trainable=False)
            self._whitening[key].assign(matrix)
            found[part] = self._whitening[key]
        return found

    def _require_targets(self, probed: dict[str, Probed], split: Split, targets):
        """Refuses images of which nothing is known that metrics count."""
        dense = {
            n: each.task for n, each in probed.items() if each.task.TARGET in targets
        }
        batches = evaluation_batches(split, self.config.batch_size, targets)
        for batch in batches if dense else ():
            rows = _valid(batch)
            dense = {n: x for n, x in dense.items() if not x.known(rows[x.TARGET])}
            if not dense:
                return
        for name, task in dense.items():
            raise UserError(
                f"Attacked images must have {task.TARGET} that count for {name}. "
                f"Received: {split.size} images without any. Attack more of them "
                "(--benchmark.limit), or check --benchmark.void, "
                "--benchmark.depth_most and the units of the files."
            )

    def _everything(self, probed, split: Split, targets, state) -> dict:
        """Returns task -> sum of the records of all images without attack."""
        own, parts = workers(), []
        batches = evaluation_batches(split, self.config.batch_size, targets)
        for index, batch in enumerate(batches):
            if own.mine(index):
                batch = _valid(batch)
                work = functools.partial(self._summed, probed, batch)
                parts.append(state.get(_EVERYTHING, index, work)[0])
        parts = own.collect(parts)
        return {name: sum(part[f"records.{name}"] for part in parts) for name in probed}

    def _summed(self, probed, batch) -> dict[str, np.ndarray]:
        found = self._judged(probed, batch["images"], batch)
        return {name: records.sum(axis=0) for name, records in found.items()}

    def _judged(self, probed, images, batch) -> dict[str, np.ndarray]:
        """Returns the records of all tasks on images, as "records.TASK"."""
        found = {}
        for name, (task, model) in probed.items():
            outputs = self._say(model, images)
            found[f"records.{name}"] = task.records(outputs, batch[task.TARGET])
        return found

    def _say(self, model, images) -> tf.Tensor:
        """Returns a model's outputs on images; compiled once per model."""
        known, function = self._functions.get(id(model), (None, None))
        if known is not model or function is None:
            shape = [None, *images.shape[1:]]
            signature = [tf.TensorSpec(shape, tf.float32)]
            function = traced(functools.partial(infer, model), signature)
            self._functions[id(model)] = model, function
        return function(tf.constant(images))

    def _identity(self, probed: dict[str, Probed], split: Split) -> dict[str, str]:
        config = self.config
        weights = {n: weights_digest(each.model) for n, each in probed.items()}
        return {
            "version": kerobust.__version__,
            **{f"weights of {name}": digest for name, digest in weights.items()},
            "examples": array_digest(split.ids),
            "norm": self.threat.norm,
            **{
                name: str(getattr(config, name))
                for name in (
                    *("steps", "suite_steps", "step_size", "batch_size", "seed"),
                    *("window", "stride", "average", "void", "depth_most"),
                )
            },
        }

    def _pictures(self, probed, first, found) -> dict[str, dict]:
        batch, shown = _valid(first), {}
        for name, (task, model) in probed.items():
            parts = found[f"{name}.{TASK}@{float(self.threat.epsilon)!r}"]
            attacked = parts[0]["pictures"]
            images = batch["images"][: len(attacked)]
            clean, adversarial = (
                task.predictions(self._say(model, each)).numpy()
                for each in (images, attacked)
            )
            shown[name] = {
                "images": images,
                "attacked": attacked,
                "targets": batch[task.TARGET][: len(attacked)],
                "clean": clean,
                "adversarial": adversarial,
            }
        return shown


def _valid(batch) -> dict[str, np.ndarray]:
    """Returns the real rows of a batch."""
    valid = batch["valid"].numpy()
    return {name: values.numpy()[valid] for name, values in batch.items()}


def _joined(parts: list[dict], probed) -> dict[str, np.ndarray]:
    """Returns the records of all batches by judging task, [N, ...]."""
    return {
        name: np.concatenate([part[f"records.{name}"] for part in parts])
        for name in probed
    }
