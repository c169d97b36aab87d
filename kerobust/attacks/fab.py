"""FAB: the closest image on the other side of the decision boundary."""

import tensorflow as tf

from kerobust.attacks.balls import flatten, per_example
from kerobust.attacks.base import Attack
from kerobust.attacks.candidates import Candidate
from kerobust.attacks.checks import check_count
from kerobust.attacks.hyperplane import dual_norm, to_hyperplane
from kerobust.attacks.margins import TargetedCrossEntropy
from kerobust.attacks.objectives import (
    LogitMargin,
    LogitObjective,
    SoftCrossEntropy,
    class_indices,
)
from kerobust.attacks.standing import climb
from kerobust.randomness import normal, uniform

_LEAST = 1e-8  # Of the two distances to a plane, so that their ratio exists.
_TINY = 1e-30  # Above float32's smallest normal number, below any real slope.


@tf.keras.saving.register_keras_serializable("kerobust")
class FAB(Attack):
    """Fast adaptive boundary attack: looks for the smallest change that fools.

    Every step replaces the boundary between the label and another class by its tangent
    plane, goes beyond it by the shortest way inside [0, 1], pulled a little towards the
    clean image, and from a point that fools goes back part of the way. The result is
    the closest point that fools, if its norm is at most epsilon, else the clean image,
    bit for bit; `AttackInfo.norm` is how close. With the largest possible epsilon it is
    a minimum-norm attack. Examples misclassified without attack stay as they are.

    Targets int [B] mean the nearest boundary of all: K - 1 backwards per step for K
    classes, in the memory of one. Targets {"labels", "goals"} with `TargetedMargin`
    mean that to the goal: one backward (FAB-T); any wrong class still counts. Either
    way 2 forwards per step, and one more per search. The objective says what is logits
    and label, and judges the result; its values do not steer the search.

    Args:
        epsilon: Largest norm of a result, pixel units of images in [0, 1].
        steps: Number of steps, at least 1.
        max_pull: Largest weight of the way from the clean image against that from the
            current point, in [0, 1].
        overshoot: Length of a step in distances to the plane, at least 1.
        backward: Share of the perturbation kept at a point that fools, in (0, 1].
        random_start: Whether restarts after the first start at random, at distance
            epsilon / 2. The first starts at the image: one search uses no randomness.
        keep: "best" only, the closest point; with restarts, the closest of all.
        precision: "float32" only: points lie too close to the boundary for less.
        **kwargs: See `Attack`. `step_size` has no meaning here. With `stop_when_fooled`
            examples leave at their first point within epsilon, which is not minimal.

    Raises:
        ValueError: For arguments out of range.
        TypeError: At the call, for objectives that are not on logits [B, K] and labels.

    References:
        Croce & Hein, 2020, arXiv:1907.02044, algorithm 1.

    Differences:
        As in AutoAttack: random starts are at distance epsilon / 2 whatever was found
        before, and there is no final search on the line to the best point. Unlike there
        the margin of a class is divided by its slope whatever its scale (1e-12 is added
        there), and slopes that are not finite count as 0.
    """

    default_objective = LogitMargin

    def __init__(
        self,
        epsilon: float | None = None,
        *,
        steps: int = 100,
        max_pull: float = 0.1,
        overshoot: float = 1.05,
        backward: float = 0.9,
        keep: str | None = "best",
        precision: str = "float32",
        **kwargs,
    ):
        super().__init__(epsilon, keep=keep or "best", precision=precision, **kwargs)
        check_count("steps", steps)
        for name, value, fits, range_ in (
            ("max_pull", max_pull, 0 <= max_pull <= 1, "in [0, 1]"),
            ("overshoot", overshoot, 1 <= overshoot < float("inf"), "at least 1"),
            ("backward", backward, 0 < backward <= 1, "above 0 and at most 1"),
            ("keep", keep, self.keep == "best", '"best": FAB returns the closest'),
            ("precision", precision, precision == "float32", '"float32" for FAB'),
        ):
            if not fits:
                raise ValueError(
                    f"`{name}` must be {range_}. Received: {name}={value}."
                )
        self.steps = int(steps)
        self.max_pull = float(max_pull)
        self.overshoot = float(overshoot)
        self.backward = float(backward)

    def get_config(self):
        names = ("steps", "max_pull", "overshoot", "backward")
        return super().get_config() | {name: getattr(self, name) for name in names}

    def _start(self, images, epsilon, keys, restart):
        draw = uniform if self.norm == "linf" else normal
        noise = draw(keys, images.shape[1:])
        if self.norm == "linf":
            noise = 2.0 * noise - 1.0
        distance = tf.where(restart > 0, epsilon / 2, 0.0)
        length = tf.math.divide_no_nan(distance, self.ball.norm(noise))
        start = images + per_example(length, noise) * noise
        return tf.clip_by_value(start, 0.0, 1.0)

    def _legal(self, images, adversarial, epsilon):
        # Nothing outside the ball was accepted; rounding could undo what fools by a
        # hair. No change at all is sure where epsilon is 0.
        return tf.where(per_example(epsilon > 0, images), adversarial, images)

    def _better(self, images, best, other):
        norms = [self.ball.norm(each.images - images) for each in (best, other)]
        closer = other.fooled & (norms[1] < norms[0])
        return best.unless(closer | ~best.fooled, other)

    def _search(self, images, start, targets, objective, epsilon, step_size, keys):
        _check_objective(objective)
        clean = Candidate.after(images, 0).assessed(objective, targets)

        def step(index, given, moving, found):
            images, targets, epsilon = given
            adversarial, closest = moving
            inside = tf.clip_by_value(images, 0.0, 1.0)
            plane = _tangent_plane(self.norm, adversarial, targets, objective)
            adversarial = self._beyond(adversarial, inside, *plane)
            here = Candidate.after(adversarial, index + 1).assessed(objective, targets)
            norm = self.ball.norm(adversarial - images)
            closer = here.fooled & (norm <= epsilon) & (norm < closest)
            back = inside + self.backward * (adversarial - inside)
            back = tf.where(per_example(here.fooled, back), back, adversarial)
            return (back, tf.where(closer, norm, closest)), found.unless(closer, here)

        return climb(
            step,
            lambda given, moving, found: found,
            given=(images, targets, epsilon),
            # Nothing is closer than an image that fools as it is.
            moving=(
                tf.clip_by_value(start, 0.0, 1.0),
                tf.where(clean.fooled, 0.0, float("inf")),
            ),
            found=clean,
            steps=self.steps,
            leave=self.stop_when_fooled,
        )

    def _beyond(self, adversarial, images, normals, offsets):
        """Returns points beyond planes, from the current and from the clean images."""
        points = tf.concat([flatten(adversarial), flatten(images)], axis=0)
        twice = [tf.concat([each, each], axis=0) for each in (normals, offsets)]
        ways = to_hyperplane(self.norm, points, *twice)
        here, clean = tf.split(tf.maximum(self.ball.norm(ways), _LEAST), 2)
        pull = tf.minimum(here / (here + clean), self.max_pull)[:, tf.newaxis]
        here, clean = tf.split(points + self.overshoot * ways, 2)
        moved = (1.0 - pull) * here + pull * clean
        return tf.reshape(tf.clip_by_value(moved, 0.0, 1.0), tf.shape(images))


def _tangent_plane(norm, adversarial, targets, objective):
    """Returns normals float32 [B, d] and offsets float64 [B] of tangent planes.

    Where normal . z = offset the logits of the label and of another class are equal to
    first order: the goal, or without goals the class for which that is nearest.
    """
    goals = targets["goals"] if isinstance(targets, dict) else None
    labels = class_indices(targets if goals is None else targets["labels"])
    with tf.GradientTape(watch_accessed_variables=False, persistent=True) as tape:
        tape.watch(adversarial)
        logits = objective.outputs(adversarial)
    classes = tf.shape(logits)[1]

    def tangent(rivals):
        pair = tf.one_hot(rivals, classes) - tf.one_hot(labels, classes)
        slopes = tape.gradient(logits, adversarial, output_gradients=pair)
        if slopes is None:
            raise ValueError(
                "`victim` must be differentiable with respect to the images. Received: "
                f"{type(objective).__name__} without a path to them."
            )
        rival, own = (
            tf.gather(logits, each, axis=1, batch_dims=1) for each in (rivals, labels)
        )
        # One NaN would spread to all pixels.
        return flatten(tf.where(tf.math.is_finite(slopes), slopes, 0.0)), rival - own

    if goals is None:
        none = tf.zeros_like(flatten(adversarial)), tf.zeros_like(logits[:, 0])
        slopes, margins = _nearest(norm, tangent, labels, classes, none)
    else:
        slopes, margins = tangent(class_indices(goals))
    margins = tf.where(tf.math.is_finite(margins), margins, 0.0)
    # A margin is a small difference of large sums.
    points = tf.cast(flatten(adversarial), tf.float64)
    heights = tf.reduce_sum(tf.cast(slopes, tf.float64) * points, axis=1)
    return slopes, heights - tf.cast(margins, tf.float64)


def _nearest(norm, tangent, labels, classes, none):
    """Returns what `tangent` says of each example's nearest other class.

    Only the nearest so far is kept, and the graph holds one class, whatever `classes`.
    """

    def consider(turn, best, distance):
        slopes, margins = other = tangent((labels + turn) % classes)
        other_distance = tf.abs(margins) / tf.maximum(dual_norm(norm, slopes), _TINY)
        nearer = other_distance < distance  # Never so for NaN and infinite margins.
        best = tf.nest.map_structure(
            lambda old, new: tf.where(per_example(nearer, old), new, old), best, other
        )
        return turn + 1, best, tf.where(nearer, other_distance, distance)

    return tf.while_loop(
        lambda turn, *_: turn < classes,
        consider,
        (1, none, tf.fill(tf.shape(labels), float("inf"))),
        parallel_iterations=1,
    )[1]


def _check_objective(objective):
    """Raises a `TypeError` unless an objective has logits and labels."""
    other = isinstance(objective, SoftCrossEntropy | TargetedCrossEntropy)
    if other or not isinstance(objective, LogitObjective):
        raise TypeError(
            "`victim` must be a callable that maps images to logits [B, K], or an "
            "objective on them that knows the label, such as LogitMargin or "
            f"TargetedMargin, for FAB. Received: {type(objective).__name__}."
        )
