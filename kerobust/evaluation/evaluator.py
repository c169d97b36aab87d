"""Attacks a classifier and counts, example by example, what it withstands."""

import dataclasses
import functools
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

import kerobust
from kerobust.attacks import AttackConfig
from kerobust.attacks.autoattack import AutoAttack
from kerobust.attacks.diagnostics import diagnose
from kerobust.attacks.masking.findings import Finding
from kerobust.attacks.suite_report import assemble
from kerobust.attacks.victim import Victim
from kerobust.batch_state import BatchState, array_digest, weights_digest
from kerobust.config import UserError
from kerobust.data import Split, evaluation_batches
from kerobust.distribute import workers
from kerobust.evaluation.config import EMBED, NEEDS, EvaluateConfig
from kerobust.evaluation.jobs import (
    Job,
    make_attacks,
    make_jobs,
    run_attack,
    run_clean,
)
from kerobust.evaluation.results import Evaluation, curve_point, doubts, norm_stats
from kerobust.progress import Clock

_DEFAULT = EvaluateConfig()
_PROBE = 8  # Examples whose logits tell models apart.
_PICTURES = 8  # Examples of the first batch that are kept as pictures.


def evaluate(
    model: Callable[[tf.Tensor], tf.Tensor],
    split: Split,
    threat: AttackConfig,
    config: EvaluateConfig = _DEFAULT,
    *,
    state_dir: str | os.PathLike | None = None,
    progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Returns clean and robust accuracy of a classifier, example by example.

    Attack randomness belongs to the example, so the results depend neither on the batch
    size nor on interruptions nor on how many workers share the batches (see
    `kerobust.distribute.start`; all of them get all results). Examples that are wrong
    without attack are left alone and count as not robust; restarts go on with what
    still stands.

    Args:
        model: Maps images float32 [B, H, W, C] in [0, 1] to logits [B, K]; a Keras
            model is called with `training=False`.
        split: Labelled examples.
        threat: Norm and epsilon of the attacks.
        config: What to run.
        state_dir: Where finished batches are kept, so that a rerun after a kill redoes
            only the batch that was running; None = nowhere.
        progress: Called with a line of text after every attack on a batch.

    Raises:
        UserError: If the split or the model's output cannot be evaluated.
        RuntimeError: If an attack leaves its ball or the range [0, 1].
    """
    evaluator = Evaluator(threat, config)
    return evaluator(model, split, state_dir=state_dir, progress=progress)


class Evaluator:
    """`evaluate` for several models; one object with new weights compiles only once.

    Args:
        threat: Norm and epsilon of the attacks.
        config: What to run.
    """

    def __init__(self, threat: AttackConfig, config: EvaluateConfig = _DEFAULT):
        self.threat = threat
        self.config = config
        self._attacks = make_attacks(threat, config)
        self._victim: Victim | None = None

    def __call__(
        self,
        model: Callable[[tf.Tensor], tf.Tensor],
        split: Split,
        *,
        thorough: bool = True,
        state_dir: str | os.PathLike | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Evaluation:
        """Returns what `evaluate` returns; without curve and diagnosis if not thorough.

        Both tell about the attacks as much as about the model: once is enough for
        models of one kind, unless the configuration wants every curve.
        """
        config = _fitting(self.config, model)
        if not thorough:
            curve = config.curve and config.every_curve
            config = config.replace(curve=curve, diagnose=False)
        _check_split(split)
        split = split.thinned(config.limit)
        if self._victim is None or self._victim.model is not model:
            self._victim = Victim(model)
        victim, say = self._victim, progress or (lambda text: None)
        first = next(iter(evaluation_batches(split, config.batch_size)))
        logits = victim.logits(first["images"])
        findings = self._findings(model, first) if config.diagnose else []
        jobs, points = make_jobs(
            self._attacks, self.threat, config, split.image_shape, logits.shape[1]
        )
        identity = evaluation_identity(model, split, self.threat, config)
        probe = logits[:_PROBE].numpy()
        state = workers().in_turn(lambda: BatchState(state_dir, identity, probe, say))
        found = self._run(victim, split, jobs + points, state, say)
        suites = self._suite_reports(jobs, found, logits.shape[1])
        return _assemble(found, jobs, points, self, findings, suites)

    def _run(self, victim, split: Split, jobs: list[Job], state, say) -> dict:
        """Returns job key -> arrays of each batch, "clean" among the keys."""
        every = list({job.key: job for job in jobs}.values())
        size, own = self.config.batch_size, workers()
        batches = -(-split.size // size)
        shares = sum(map(own.mine, range(batches)))
        clock = Clock(sum(job.cost for job in every) * shares, say)
        found: dict[str, list] = {job.key: [] for job in every} | {"clean": []}
        for index, batch in enumerate(evaluation_batches(split, size)):
            if not own.mine(index):
                continue
            work = functools.partial(run_clean, victim, batch)
            found["clean"].append(state.get("clean", index, work)[0])
            for job in every:
                pictures = _PICTURES if index == 0 else 0
                given = (victim, job, batch, self.config.seed, pictures)
                work = functools.partial(run_attack, *given)
                arrays, fresh = state.get(job.key, index, work)
                found[job.key].append(arrays)
                where = f"{job.name} at {job.epsilon:.4g}: batch {index + 1}"
                clock.advance(job.cost, index, f"{where} of {batches}", fresh)
        return {key: own.collect(parts) for key, parts in found.items()}

    def _findings(self, model, batch) -> list[Finding]:
        valid = batch["valid"].numpy()
        images, labels = batch["images"].numpy()[valid], batch["labels"].numpy()[valid]
        threat = self.threat
        return diagnose(
            model, images, labels, threat.epsilon, threat.norm, seed=self.config.seed
        )

    def _suite_reports(self, jobs: list[Job], found: dict, classes: int) -> dict:
        """Returns name -> `AutoAttackReport` of the suites among the jobs."""
        reports = {}
        for job in jobs:
            suite = self._attacks[job.name]
            if not isinstance(suite, AutoAttack):
                continue
            parts = [
                clean | attacked | {"classes": classes}
                for clean, attacked in zip(found["clean"], found[job.key], strict=True)
            ]
            for part in parts:  # The pictures of the first batch are kept elsewhere.
                part.pop("adversarial")
            reports[job.name] = assemble(suite, job.attempts, parts, [])
        return reports


def _assemble(found, jobs, curve, evaluator, findings, suites) -> Evaluation:
    threat, config = evaluator.threat, evaluator.config
    merged = {key: _merge(parts) for key, parts in found.items()}
    clean = merged["clean"]
    labels, correct = clean["labels"], clean["predictions"] == clean["labels"]
    flags = {
        key: correct & (arrays["predictions"] == labels)
        for key, arrays in merged.items()
    }
    robust = {job.name: flags[job.key] for job in jobs}
    points = {name: [(0.0, correct)] for name in {job.name for job in curve}}
    for job in curve:
        points[job.name].append((job.epsilon, flags[job.key]))
    extra = {job.key for job in curve} - {job.key for job in jobs}
    seconds = {job.name: merged[job.key]["seconds"] for job in jobs}
    findings = findings + [each for suite in suites.values() for each in suite.findings]
    return Evaluation(
        threat={"epsilon": float(threat.epsilon), "norm": threat.norm},
        settings=dataclasses.asdict(config),
        ids=clean["ids"],
        labels=labels,
        clean=correct,
        robust=robust,
        norms={
            job.name: norm_stats(merged[job.key]["norms"], correct, job.epsilon)
            for job in jobs
        },
        seconds=seconds | {"curve": sum(merged[key]["seconds"] for key in extra)},
        curve=[curve_point(*point) for point in points.get("pgd", ())],
        embed_curve=[curve_point(*point) for point in points.get(EMBED, ())],
        pictures=_pictures(found, jobs, robust),
        notes=[
            *map(str, findings),
            *(note for suite in suites.values() for note in suite.notes),
            *doubts(points.get("pgd", []), robust),
            *_left_out(config, robust),
        ],
        findings=findings,
        suites=suites,
    )


def _fitting(config: EvaluateConfig, model) -> EvaluateConfig:
    """Returns the configuration without attacks on what the model has not."""
    lost = [name for name, (part, _) in NEEDS.items() if not hasattr(model, part)]
    attacks, curves = (
        tuple(name for name in names if name not in lost)
        for names in (config.attacks, config.curve_attacks)
    )
    if not attacks:
        reasons = " and ".join(NEEDS[name][1] for name in config.attacks)
        raise UserError(
            "`--evaluate.attacks` must name another attack than "
            f"{' and '.join(config.attacks)} for a model that is {reasons}. "
            f"Received: attacks={config.attacks}. Add pgd."
        )
    return config.replace(attacks=attacks, curve_attacks=curves)


def _left_out(config: EvaluateConfig, robust: dict) -> list[str]:
    return [
        f"The model is {reason}, so {name} was left out, of the worst case too."
        for name, (_, reason) in NEEDS.items()
        if name in config.attacks and name not in robust
    ]


def _merge(parts: list[dict]) -> dict:
    """Joins the batches' values per example; seconds are added up."""
    names = parts[0].keys() & {"ids", "labels", "predictions", "norms"}
    merged = {name: np.concatenate([part[name] for part in parts]) for name in names}
    return merged | {"seconds": sum(float(part.get("seconds", 0)) for part in parts)}


def _pictures(found, jobs: list[Job], robust) -> dict:
    """Returns examples of the first batch under the attack that harms most."""
    job = min(jobs, key=lambda job: robust[job.name].sum())
    clean, attacked = found["clean"][0], found[job.key][0]
    rows = attacked["rows"]
    return {
        "attack": job.name,
        "clean": attacked["clean"],
        "adversarial": attacked["adversarial"],
        "ids": clean["ids"][rows],
        "labels": clean["labels"][rows],
        "clean_predictions": clean["predictions"][rows],
        "adversarial_predictions": attacked["predictions"][rows],
    }


def evaluation_identity(
    model, split: Split, threat: AttackConfig, config: EvaluateConfig
) -> dict[str, str]:
    """Returns what stored results depend on; attacks and radii are in file names."""
    return {
        "version": kerobust.__version__,
        "weights of the model": weights_digest(model),
        "examples": array_digest(split.ids),
        "labels": array_digest(split.labels),
        "norm": threat.norm,
        "steps": str(config.steps),
        "restarts": str(config.restarts),
        "batch_size": str(config.batch_size),
        "seed": str(config.seed),
    }


def _check_split(split: Split) -> None:
    labels = np.asarray(split.labels)
    if not labels.size or labels.min() < 0:
        raise UserError(
            "`split` must hold labelled examples only. Received: "
            f"{labels.size} examples, {np.sum(labels < 0)} of them without a label."
        )
