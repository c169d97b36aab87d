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
from kerobust.config import Config, UserError, setting
from kerobust.data import Split, evaluation_batches
from kerobust.evaluation.jobs import (
    NAMES,
    Job,
    make_attacks,
    make_jobs,
    run_attack,
    run_clean,
)
from kerobust.evaluation.results import Evaluation, curve_point, doubts, norm_stats
from kerobust.progress import Clock

_PROBE = 8  # Examples whose logits tell models apart.
_PICTURES = 8  # Examples of the first batch that are kept as pictures.


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(Config):
    """Which attacks a classifier must withstand, and on what."""

    SECTION = "evaluate"

    attacks: tuple[str, ...] = setting(
        ("fgsm", "pgd", "momentum_pgd"),
        "Attacks; an example counts as robust if it withstands all of them. autoattack"
        " (and -plus) and its members keep their own steps and queries.",
        choices=NAMES,
    )
    steps: int = setting(20, "Steps of the iterative attacks.", low=1)
    restarts: int = setting(2, "Random restarts of pgd.", low=1)
    batch_size: int = setting(256, "Images per batch; does not change results.", low=1)
    diagnose: bool = setting(
        True,
        "Whether signs of masked gradients are looked for, on 64 of the images.",
    )
    curve: bool = setting(
        True, "Whether PGD is also run at other radii than the threat's."
    )
    epsilons: tuple[float, ...] = setting(
        (),
        "Radii of the PGD curve, in units of the threat's norm; empty = 1/4, 1/2, 1 and"
        " 2 times epsilon. 0 and the radius of a plain grey image are always added.",
        low=0,
    )
    split: str = setting(
        "test",
        "Images to evaluate; choose settings on validation, never on test.",
        choices=("validation", "test"),
    )
    limit: int | None = setting(
        None, "Evaluate this many images, evenly spread; empty = all.", low=1
    )
    seed: int = setting(0, "Seed of the attacks' random starts.", low=0)
    features: str = setting(
        "mean",
        "What linear probes read: the mean of the patch tokens; cls, the class token;"
        " cls_mean, both (DINO's ViT-B); last4_cls, the class tokens of the last four"
        " blocks (DINO's ViT-S).",
        choices=("mean", "cls", "cls_mean", "last4_cls"),
    )

    def __post_init__(self):
        super().__post_init__()
        names = self.attacks
        self.require(
            len(names) > 0 and len(set(names)) == len(names),
            "attacks",
            "must name at least one attack, and each only once",
        )


def evaluate(
    model: Callable[[tf.Tensor], tf.Tensor],
    split: Split,
    threat: AttackConfig,
    config: EvaluateConfig = EvaluateConfig(),
    *,
    state_dir: str | os.PathLike | None = None,
    progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Returns clean and robust accuracy of a classifier, example by example.

    Attack randomness belongs to the example, so the results depend neither on the batch
    size nor on interruptions. Examples that are wrong without attack are left alone and
    count as not robust; restarts go on with what still stands.

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

    def __init__(self, threat: AttackConfig, config: EvaluateConfig = EvaluateConfig()):
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
        models of one kind.
        """
        config = self.config
        if not thorough:
            config = config.replace(curve=False, diagnose=False)
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
        identity = _identity(model, split, self.threat, config)
        state = BatchState(state_dir, identity, logits[:_PROBE].numpy(), say)
        found = self._run(victim, split, jobs + points, state, say)
        suites = self._suite_reports(jobs, found, logits.shape[1])
        return _assemble(found, jobs, points, self, findings, suites)

    def _run(self, victim, split: Split, jobs: list[Job], state, say) -> dict:
        """Returns job key -> arrays of each batch, "clean" among the keys."""
        every = list({job.key: job for job in jobs}.values())
        size = self.config.batch_size
        batches = -(-split.size // size)
        clock = Clock(sum(job.cost for job in every) * batches, say)
        found: dict[str, list] = {job.key: [] for job in every} | {"clean": []}
        for index, batch in enumerate(evaluation_batches(split, size)):
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
        return found

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
    points = [(job.epsilon, flags[job.key]) for job in curve]
    points = [(0.0, correct), *points] if points else []
    extra = {job.key for job in curve} - {job.key for job in jobs}
    seconds = {job.name: merged[job.key]["seconds"] for job in jobs}
    findings = findings + [each for suite in suites.values() for each in suite.findings]
    adapted = [note for suite in suites.values() for note in suite.notes]
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
        curve=[curve_point(*point) for point in points],
        pictures=_pictures(found, jobs, robust),
        notes=[*map(str, findings), *adapted, *doubts(points, robust)],
        findings=findings,
        suites=suites,
    )


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


def _identity(model, split, threat, config) -> dict[str, str]:
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
