"""Attacks what an encoder says about images, without labels, and measures the harm.

The attack is the one that `Evaluator` calls embed. Here it meets every image, right or
wrong, and several judges: distances, nearest neighbours, and the classifier.
"""

import functools
import math
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from kerobust.attacks import PGD, AttackConfig
from kerobust.attacks.attempts import Attempt, attempt_keys, check_inside
from kerobust.attacks.balls import BALLS, canonical_norm
from kerobust.attacks.embedding import EmbeddingDistance
from kerobust.attacks.victim import Victim
from kerobust.batch_state import BatchState
from kerobust.config import UserError
from kerobust.data import Split, evaluation_batches
from kerobust.evaluation.attention import attention_panel
from kerobust.evaluation.config import EMBED, EvaluateConfig, RepresentConfig
from kerobust.evaluation.drift import (
    drift,
    neighbours,
    normalisation_control,
    normalisation_of,
)
from kerobust.evaluation.evaluator import evaluation_identity
from kerobust.progress import Clock
from kerobust.randomness import example_keys

_PROBE = 8  # Examples whose logits tell models apart.


class Representation:
    """Examines the encoders of several classifiers; equal ones compile only once.

    The attack maximises the mean squared difference between the class tokens of the
    attacked and the clean image from a random start. Like `Evaluator` it gives every
    example its own randomness: its images are those of the attack embed.

    Args:
        threat: Norm and epsilon of the attacks.
        settings: Steps, seed and batch size of the attacks.
        config: What else to measure, and where.

    References:
        Kowalczuk et al., 2024, arXiv:2407.12588 (the attack and the classifier as its
        judge); Caron et al., 2021, arXiv:2104.14294, appendix F.1 (nearest neighbours).

    Differences:
        Steps are 2.5 epsilon / steps long: fixed ones can be too short to leave the
        neighbourhood of the random start, or too long for the ball.
    """

    def __init__(
        self,
        threat: AttackConfig,
        settings: EvaluateConfig,
        config: RepresentConfig,
    ):
        self.threat = threat
        self.settings = settings
        self.config = config
        self.radii = config.radii(threat)
        self._attempts = {
            norm: Attempt(
                EMBED,
                PGD(norm=norm, steps=settings.steps, random_start=True),
                EmbeddingDistance,
            )
            for norm in {norm for norm, _ in self.radii}
        }
        self._victim: Victim | None = None

    def __call__(
        self,
        model: Callable[[tf.Tensor], tf.Tensor],
        bank: Split,
        split: Split,
        *,
        state_dir: str | os.PathLike | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> dict:
        """Returns what was found about a classifier with an encoder.

        Args:
            model: See `evaluate`; its attribute `encoder` maps images to `Tokens`.
            bank: Labelled images that vote, never attacked.
            split: Labelled images that are attacked.
            state_dir, progress: See `evaluate`.

        Returns:
            dict of values that JSON can hold, but for the pixels:
            "images", "steps": int, how many images and how many steps per attack.
            "drift": per radius {"norm", "epsilon", "cosine", "distance", "correct",
            "values"}: {"mean", "median", "q90"} of 1 - cosine and of the Euclidean
            distance of the class tokens; `share` of right without and under attack;
            1 - cosine of every image.
            "knn": per number of neighbours and radius {"norm", "epsilon", "k", "clean",
            "robust"}, two `share`s; robust = right without and under attack.
            "normalisation": {"inside", "with", "without"}: whether the encoder
            normalises, `share` of right with it and when it is undone.
            "attention": uint8 [H, W, 3], see `attention_panel`, or None.

        Raises:
            UserError: If there is no encoder, or a radius is out of range.
        """
        split = split.thinned(self.settings.limit).thinned(self.config.limit)
        if self._victim is None or self._victim.model is not model:
            self._victim = Victim(model)
        _check(model, self.radii, split.image_shape)
        victim, say = self._victim, progress or (lambda text: None)
        first = next(iter(evaluation_batches(split, self.settings.batch_size)))
        logits = victim.logits(first["images"])[:_PROBE].numpy()
        identity = evaluation_identity(model, split, self.threat, self.settings)
        identity["maps"] = str(self.config.maps)
        state = BatchState(state_dir, identity, logits, say)
        clean, attacked = self._run(victim, split, state, say)
        threat = (self.threat.norm, float(self.threat.epsilon))
        votes = _features(victim, bank, self.settings.batch_size)
        labels = np.asarray(bank.labels)
        voting = (self.config.neighbours, self.config.temperature)
        return {
            "images": len(clean["labels"]),
            "steps": self.settings.steps,
            "drift": [drift(clean, attacked[key], *key) for key in self.radii],
            "knn": neighbours(votes, labels, clean, attacked, *voting),
            "normalisation": normalisation_control(victim.model.encoder, clean),
            "attention": _attention(victim.model.encoder, attacked[threat]),
        }

    def _run(self, victim: Victim, split: Split, state, say) -> tuple[dict, dict]:
        """Returns arrays [N, ...] without attack, and by (norm, epsilon) under it."""
        size = self.settings.batch_size
        batches = -(-split.size // size)
        clock = Clock(float(len(self.radii) * batches), say)
        clean: list[dict] = []
        attacked: dict[tuple, list[dict]] = {key: [] for key in self.radii}
        for index, batch in enumerate(evaluation_batches(split, size)):
            batch = {name: batch[name].numpy()[batch["valid"]] for name in batch}
            work = functools.partial(_look, victim, batch)
            clean.append(state.get("clean", index, work)[0])
            for norm, epsilon in self.radii:
                attempt, shown = self._attempts[norm], 0 if index else self.config.maps
                given = (victim, attempt, batch, epsilon, self.settings.seed, shown)
                work = functools.partial(_attack, *given)
                key = f"{EMBED}-{norm}@{epsilon!r}"
                arrays, fresh = state.get(key, index, work)
                attacked[norm, epsilon].append(arrays)
                where = f"representation, {norm} at {epsilon:.4g}: batch {index + 1}"
                clock.advance(1.0, index, f"{where} of {batches}", fresh)
        joined = {key: _joined(parts) for key, parts in attacked.items()}
        return _joined(clean), joined


def _check(model, radii: list[tuple[str, float]], image_shape) -> None:
    if not hasattr(model, "encoder"):
        raise UserError(
            "`model` must be a classifier with an encoder, such as `Classifier`. "
            f"Received: model={type(model).__name__}, without the attribute `encoder`."
        )
    for norm, epsilon in radii:
        largest = BALLS[canonical_norm(norm)].largest(math.prod(image_shape))
        if epsilon > largest:
            raise UserError(
                "`--represent.epsilons` and `--represent.l2_epsilons` must be at most "
                f"{largest:g}, the largest {norm} change of these images. Received: "
                f"epsilon={epsilon}. Pixels lie in [0, 1]: write 8/255, not 8."
            )


def _attention(encoder, attacked: dict) -> np.ndarray | None:
    if not len(attacked["shown"]) or not hasattr(encoder, "last_attention"):
        return None
    return attention_panel(encoder, attacked["shown"], attacked["adversarial"])


def _look(victim: Victim, batch: dict) -> dict[str, np.ndarray]:
    """Returns what the model says without attack, with and without normalisation."""
    images = batch["images"]
    mean, std = normalisation_of(victim.model.encoder)
    # The encoder takes this off again: its first layer gets the pixels as they are.
    raw = (images * std + mean).astype(np.float32)
    return {
        "labels": batch["labels"],
        "features": victim.embeddings(images).numpy(),
        "predictions": victim.predictions(images),
        "raw_predictions": victim.predictions(raw),
    }


def _attack(
    victim: Victim, attempt: Attempt, batch: dict, epsilon: float, seed: int, shown: int
) -> dict[str, np.ndarray]:
    """Returns what the model says under attack, and the first images of both kinds."""
    images = batch["images"]
    adversarial = attempt.attack(
        images,
        victim.embeddings(images),
        victim.objective(attempt.objective),
        epsilon=epsilon,
        keys=attempt_keys(attempt, example_keys(seed, 0, batch["ids"])),
    ).numpy()
    check_inside(attempt, images, adversarial, epsilon)
    return {
        "features": victim.embeddings(adversarial).numpy(),
        "predictions": victim.predictions(adversarial),
        "shown": images[:shown],
        "adversarial": adversarial[:shown],
    }


def _features(victim: Victim, split: Split, size: int) -> np.ndarray:
    """Returns the class tokens of all images, float32 [N, D]."""
    batches = evaluation_batches(split, size)
    parts = [
        victim.embeddings(batch["images"]).numpy()[batch["valid"]] for batch in batches
    ]
    return np.concatenate(parts)


def _joined(parts: list[dict]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
