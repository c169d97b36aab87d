"""Gradients of objectives with respect to images."""

import tensorflow as tf

from kerobust.attacks.candidates import Candidate
from kerobust.attacks.objectives import Objective
from kerobust.attacks.precision import in_precision
from kerobust.attacks.stochastic import Averaged


def differentiate(
    images: tf.Tensor, targets, objective: Objective, precision: str = "float32"
):
    """Returns (gradient float32 [B, H, W, C], values float32 [B], fooled bool [B]).

    The gradient is that of each example's own value; what is not finite in it is 0. An
    `Averaged` objective is differentiated draw by draw, in the memory of one.

    Args:
        images: float32 [B, H, W, C].
        targets: Nest of tensors with leading B.
        objective: What is differentiated.
        precision: See `in_precision`.

    Raises:
        ValueError: If no path leads from the values to the images.
    """

    def one(objective):
        def found(images, targets):
            return _differentiate(images, targets, objective)

        return in_precision(precision, found, images, targets)

    if not isinstance(objective, Averaged):
        return one(objective)

    def draw(index, gradient, values, fooled):
        found = one(objective.objective)
        votes = tf.cast(found[2], tf.float32)
        return index + 1, gradient + found[0], values + found[1], fooled + votes

    none = tf.zeros_like(images[:, 0, 0, 0])
    _, *sums = tf.while_loop(
        lambda index, *_: index < objective.draws,
        draw,
        (0, tf.zeros_like(images), none, none),
        parallel_iterations=1,
    )
    gradient, values, votes = (each / objective.draws for each in sums)
    return gradient, values, votes > 0.5


def _differentiate(images, targets, objective):
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        outputs = objective.outputs(images)
        here = Candidate.after(images, 0).judged(objective, outputs, targets)
    gradient = tape.gradient(here.values, images)
    if gradient is None:
        raise ValueError(
            "`victim` must be differentiable with respect to the images. Received: "
            f"{type(objective).__name__} without a path to them."
        )
    # A step along NaN would leave the ball for good. Their sum tells whether there is
    # anything to mend, in a tenth of the time that mending takes.
    gradient = tf.cond(
        tf.math.is_finite(tf.reduce_sum(gradient)),
        lambda: gradient,
        lambda: tf.where(tf.math.is_finite(gradient), gradient, 0.0),
    )
    return gradient, here.values, here.fooled
