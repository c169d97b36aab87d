"""Robust accuracy as a function of the radius, example by example."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from kerobust.attacks import checks
from kerobust.attacks.arguments import as_tensors
from kerobust.attacks.base import Attack
from kerobust.attacks.objectives import as_objective
from kerobust.randomness import example_keys


class SecurityCurve(NamedTuple):
    """What withstands an attack at which radius.

    Attributes:
        epsilons: float64 [E], growing.
        robust: bool [E, N], right without attack and under it at every radius so far.
    """

    epsilons: np.ndarray
    robust: np.ndarray

    @property
    def robust_accuracy(self) -> np.ndarray:
        """Share of robust examples at each radius, float64 [E]; it never rises."""
        return self.robust.mean(axis=1)


def security_curve(
    attack: Attack,
    model,
    images,
    labels,
    epsilons: Sequence[float],
    *,
    batch_size: int = 256,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> SecurityCurve:
    """Returns which examples withstand an attack at each of several radii.

    A ball holds all smaller ones, so an example that was fooled once (or is wrong
    without attack: radius 0) counts as fooled at every larger radius and is not
    attacked again; the others fill the batches up. One compilation serves all radii.
    Neither the batch size nor the other examples change a result: row i has the random
    key `example_keys(seed, 0, i)` at every radius.

    Args:
        attack: Any attack; `stop_when_fooled` makes it quicker. For `MSD` and `Union`
            the radii are factors of theirs.
        model: Victim or `Objective` that knows success, see `Attack`.
        images: float [N, H, W, C] in [0, 1].
        labels: Targets with leading N, for classifiers int [N].
        epsilons: Radii in any order; repeated ones count once. Radius 0 gives the clean
            accuracy.
        batch_size: Most images attacked at a time.
        seed: Seed of the attack's noise.
        progress: Called with a line of text after every radius.

    Raises:
        ValueError: If there are no images or no radii, or a radius is out of range.
        TypeError: If the objective has no notion of success.

    Example:
        attack = PGD(steps=50, stop_when_fooled=True)
        curve = security_curve(attack, model, images, labels, [0, 2 / 255, 8 / 255])
    """
    images, radii = _checked(attack, images, epsilons)
    checks.check_count("batch_size", batch_size)
    targets = tf.nest.map_structure(np.asarray, labels)
    objective = as_objective(model, attack.default_objective)
    say = progress or (lambda text: None)

    def look(images, targets, keys):
        return objective.fooled(objective.outputs(images), targets)

    def attacked(images, targets, keys):
        options = {"epsilon": float(radius), "keys": keys, "return_info": True}
        return attack(images, targets, objective, **options)[1].success

    batches = _Batches(images, targets, seed, int(batch_size))
    standing = ~batches.judged(look, np.arange(len(images)))
    robust = []
    for radius in radii:
        if radius > 0:
            rows = np.flatnonzero(standing)
            standing[rows] = ~batches.judged(attacked, rows)
        robust.append(standing.copy())
        say(f"epsilon {radius:.4g}: {standing.sum()} of {len(images)} withstand")
    return SecurityCurve(radii, np.stack(robust))


def _checked(attack: Attack, images, epsilons) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and growing radii as arrays; raises if they make no curve."""
    images = np.asarray(images)
    checks.check_images(images)
    radii = np.unique(np.asarray(epsilons, np.float64))
    for name, values in (("images", images), ("epsilons", radii)):
        if not len(values):
            raise ValueError(f"`{name}` must hold at least one. Received: none.")
    most = attack.ball.largest(images[0].size)
    checks.check_radius("epsilons", radii, most, attack.norm)
    return images, radii


class _Batches:
    """Images and targets of which any rows can be tried in batches.

    Args:
        images: float [N, H, W, C].
        targets: Nest of arrays with leading N.
        seed: Seed of the rows' random keys.
        size: Rows per batch.
    """

    def __init__(self, images: np.ndarray, targets, seed: int, size: int):
        self.images = images
        self.targets = targets
        self.seed = seed
        self.size = size

    def judged(self, judge: Callable, rows: np.ndarray) -> np.ndarray:
        """Returns bool [M] of `judge(images, targets, keys)` for int rows [M]."""
        parts = [rows[:0].astype(bool)]
        for start in range(0, len(rows), self.size):
            batch = rows[start : start + self.size]
            images = tf.constant(self.images[batch], tf.float32)
            chosen = [each[batch] for each in tf.nest.flatten(self.targets)]
            targets = as_tensors(tf.nest.pack_sequence_as(self.targets, chosen))
            keys = example_keys(self.seed, 0, batch)
            fooled = judge(images, targets, keys)
            if fooled is None:
                raise TypeError(
                    "`model` must know success: only then some examples are robust. "
                    "Received: an objective whose `fooled` is None."
                )
            parts.append(np.asarray(fooled))
        return np.concatenate(parts)
