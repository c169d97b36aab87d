"""One attack after the other on what still stands, success believed after a look."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from kerobust.attacks.base import Attack
from kerobust.attacks.embedding import EmbeddingDistance
from kerobust.attacks.margins import ranked_goals
from kerobust.attacks.victim import Kind, Victim
from kerobust.randomness import example_keys, fold_in, stream

UNBROKEN, WRONG = -1, -2  # In `Outcome.broken_by`.
_GOALS_APART = 1000  # More restarts than anyone makes.


class Attempt(NamedTuple):
    """One search of one attack for one goal.

    Attributes:
        name: Under which it is reported; part of its randomness.
        attack: What searches; restarts are attempts of their own.
        objective: Kind of objective that it climbs.
        goal: Rank, from 1, of the wrong class to reach among the clean logits; 0: any.
        restart: Number of the try.
        cost: Forwards of one example, a backward counted as two.
    """

    name: str
    attack: Attack
    objective: Kind
    goal: int = 0
    restart: int = 0
    cost: float = 1.0

    def __str__(self):
        goal = f", goal {self.goal}" if self.goal else ""
        return f"{self.name}{goal}, restart {self.restart}"


class Outcome(NamedTuple):
    """What a sequence of attempts did to a batch.

    Attributes:
        adversarial: float32 [B, H, W, C], the last images that were tried.
        predictions: int32 [B] on them.
        broken_by: int32 [B], index of the attempt that fooled the model, `UNBROKEN`, or
            `WRONG` if it was wrong without attack.
        spent: float64 [A, 3], forwards, backwards and seconds of each attempt.
    """

    adversarial: np.ndarray
    predictions: np.ndarray
    broken_by: np.ndarray
    spent: np.ndarray


def run_attempts(
    attempts: list[Attempt],
    victim: Victim,
    images: np.ndarray,
    labels: np.ndarray,
    ids: np.ndarray,
    seed: int,
    epsilon: float,
    *,
    clean: np.ndarray | None = None,
    done: Callable[[Attempt, int], None] = lambda attempt, standing: None,
) -> Outcome:
    """Attacks what a model has right, each attempt what the earlier ones left.

    Success is what the model says when it is shown the images again.

    Args:
        attempts: In order.
        victim: The model.
        images: float32 [B, H, W, C] in [0, 1].
        labels: int [B].
        ids: int [B], names of the examples, from which their randomness comes.
        seed: Seed of all randomness.
        epsilon: Radius, pixel units.
        clean: float32 [B, K], the model's logits of the images if they are known.
        done: Called after each attempt with it and the number of examples it attacked.

    Raises:
        RuntimeError: If an attack leaves its ball or the range [0, 1].
    """
    logits = victim.logits(images).numpy() if clean is None else clean
    adversarial = np.array(images, np.float32)
    predictions = logits.argmax(axis=1).astype(np.int32)
    broken_by = np.where(predictions == labels, UNBROKEN, WRONG).astype(np.int32)
    keys = example_keys(seed, 0, ids)
    spent = []
    for index, attempt in enumerate(attempts):
        before, started = victim.passes(), time.perf_counter()
        standing = np.flatnonzero(broken_by == UNBROKEN)
        if standing.size:
            shown = images[standing]
            given = (shown, logits[standing], labels[standing])
            tried = attempt.attack(
                shown,
                _targets(attempt, victim, *given),
                victim.objective(attempt.objective),
                epsilon=epsilon,
                keys=attempt_keys(attempt, tf.gather(keys, standing)),
            )
            tried = np.asarray(tried)
            check_inside(attempt, shown, tried, epsilon)
            adversarial[standing] = tried
            predictions[standing] = victim.predictions(tried)
            broken_by[standing[predictions[standing] != labels[standing]]] = index
        passes = np.subtract(victim.passes(), before)
        spent.append([*passes, time.perf_counter() - started])
        done(attempt, standing.size)
    return Outcome(adversarial, predictions, broken_by, np.reshape(spent, [-1, 3]))


def attempt_keys(attempt: Attempt, keys):
    """Returns the keys of an attempt, int32 [B, 2], from those of the examples."""
    number = attempt.goal * _GOALS_APART + attempt.restart
    return _folded(keys, tf.constant(stream(attempt.name)), tf.constant(number))


# Compiled, since TensorFlow keeps some memory of what runs eagerly after such traces.
@tf.function(
    input_signature=[
        tf.TensorSpec([None, 2], tf.int32),
        tf.TensorSpec([], tf.int32),
        tf.TensorSpec([], tf.int32),
    ],
    autograph=False,
)
def _folded(keys, word, number):
    """Returns keys int32 [B, 2] with the numbers of a word and of a try folded in."""
    return fold_in(fold_in(keys, word), number)


def _targets(attempt: Attempt, victim: Victim, images, logits, labels):
    if attempt.objective is EmbeddingDistance:
        return victim.embeddings(images)
    labels = tf.constant(labels, tf.int32)
    if not attempt.goal:
        return labels
    return {"labels": labels, "goals": ranked_goals(logits, labels, attempt.goal)}


def check_inside(attempt: Attempt, images, adversarial, epsilon: float) -> None:
    """Raises a `RuntimeError` if an attack has left its ball or the range [0, 1]."""
    norms = attempt.attack.ball.norm(tf.constant(adversarial - images)).numpy()
    limit = epsilon * (1 + 1e-4) + 1e-6  # Room for float32 rounding.
    low, high = adversarial.min(), adversarial.max()
    if not (norms.max() <= limit and low >= -1e-6 and high <= 1 + 1e-6):
        raise RuntimeError(
            f"Attack `{attempt.name}` must stay in its ball and in [0, 1]. Received: "
            f"norm {norms.max():.6g} with epsilon={epsilon:.6g}, pixels from {low:.6g} "
            f"to {high:.6g}. This is a bug of the attack; its results are void."
        )
