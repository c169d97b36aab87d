"""How Auto-PGD moves and when it changes its step: one rule for dense, one for sparse.

Both look at windows of steps between checkpoints. What they remember of each example is
a `Trail`.

References:
    Croce & Hein, 2020, arXiv:2003.01690, section 3 (`HalvingRule`);
    Croce & Hein, 2021, arXiv:2103.01208, algorithm 1 (`SparseRule`).
"""

from typing import NamedTuple

import tensorflow as tf

from kerobust.attacks.balls import NormBall, flatten, per_example


class Trail(NamedTuple):
    """Where a search is, where it was best, and what its rule remembers.

    Attributes:
        images, previous: float32 [B, H, W, C], this point and the one before.
        gradient: float32 [B, H, W, C] at `images`.
        values: float32 [B], the objective at `images`.
        peak_images, peak_gradient, peak_values: The point of the largest value so far.
        step_size: float32 [B].
        memory: The rule's own tensors with leading B, by name.
    """

    images: tf.Tensor
    previous: tf.Tensor
    gradient: tf.Tensor
    values: tf.Tensor
    peak_images: tf.Tensor
    peak_gradient: tf.Tensor
    peak_values: tf.Tensor
    step_size: tf.Tensor
    memory: dict[str, tf.Tensor]

    def back_to_peak(self, mask: tf.Tensor) -> "Trail":
        """Returns the trail with the examples in `mask`, bool [B], at their peak."""
        mask = per_example(mask, self.images)
        return self._replace(
            images=tf.where(mask, self.peak_images, self.images),
            gradient=tf.where(mask, self.peak_gradient, self.gradient),
        )


class HalvingRule:
    """Steps with momentum, halved where the objective rises too seldom.

    Args:
        ball: `NormBall`, linf or l2.
        rises: Share of rising steps, in [0, 1], that a window must exceed.
    """

    momentum = 0.25

    def __init__(self, ball: NormBall, rises: float):
        self.ball = ball
        self.rises = rises

    def windows(self, steps: int) -> list[int]:
        """Returns for each step the length of the window that it ends, 0 for none."""
        lengths = [0] * steps
        length, end = max(22 * steps // 100, 1), 0
        while (end := end + length) <= steps:
            lengths[end - 1] = length
            length = max(length - max(3 * steps // 100, 1), max(6 * steps // 100, 1))
        return lengths

    def begin(self, images, values, resume) -> dict[str, tf.Tensor]:
        """Returns the memory at the start; `resume` makes no difference here."""
        return {
            "rises": tf.zeros_like(values),
            # True, so that only the first criterion can hold at the first checkpoint.
            "halved": tf.ones_like(values, tf.bool),
            "checked": values,
        }

    def move(self, opens, trail: Trail, room):
        """Returns the next point, float32 [B, H, W, C].

        Args:
            opens: bool scalar, whether it is the first move, which has no momentum.
            trail: Where the search is.
            room: `NormBall.room` of the ball.
        """
        x, size = trail.images, per_example(trail.step_size, trail.images)
        ahead = x + size * self.ball.ascent_direction(trail.gradient)
        change = self.ball.confine(ahead, room) - x
        inertia = tf.where(opens, 0.0, self.momentum)
        blend = (1.0 - inertia) * change + inertia * (x - trail.previous)
        return self.ball.confine(x + blend, room)

    def observe(self, trail: Trail, values) -> dict[str, tf.Tensor]:
        """Returns the memory after a step that led to `values` float32 [B]."""
        rose = tf.cast(values > trail.values, tf.float32)
        return trail.memory | {"rises": trail.memory["rises"] + rose}

    def adapt(self, trail: Trail, window, images, limits) -> Trail:
        """Returns the trail after a checkpoint that ends a window of some steps."""
        memory = trail.memory
        seldom = memory["rises"] <= self.rises * tf.cast(window, tf.float32)
        stuck = ~memory["halved"] & (memory["checked"] >= trail.peak_values)
        halve = seldom | stuck
        memory = {
            "rises": tf.zeros_like(memory["rises"]),
            "halved": halve,
            "checked": trail.peak_values,
        }
        size = tf.where(halve, trail.step_size / 2.0, trail.step_size)
        return trail.back_to_peak(halve)._replace(step_size=size, memory=memory)


class SparseRule:
    """Steps in the l1 ball on as many coordinates as the perturbation has, over 1.5.

    Args:
        ball: `NormBall`, l1.
        compat: Whether to move one coordinate more where the number is no whole one, as
            the original code does; two coordinates then never become one.
    """

    first_share, shrink, steps_smaller, support_falls = 0.2, 1.5, 10.0, 0.95

    def __init__(self, ball: NormBall, compat: bool = False):
        self.ball = ball
        self.compat = compat

    def windows(self, steps: int) -> list[int]:
        """Returns for each step the length of the window that it ends, 0 for none."""
        length = max(4 * steps // 100, 1)
        return [0 if (step + 1) % length else length for step in range(steps)]

    def begin(self, images, values, resume) -> dict[str, tf.Tensor]:
        """Returns the memory at the start.

        Args:
            images: float32 [B, H, W, C], the perturbation at the start.
            values: float32 [B].
            resume: bool scalar, whether its support says how many coordinates to move.
        """
        size = float(images.shape[1:].num_elements())
        support = _support(images)
        return {
            "share": tf.where(resume, support / size / self.shrink, self.first_share),
            "support": tf.where(resume, support, size),
        }

    def move(self, opens, trail: Trail, room):
        """Returns the next point, float32 [B, H, W, C]; see `HalvingRule.move`."""
        slope = tf.sort(flatten(tf.abs(trail.gradient)), axis=1)
        size = slope.shape[1]
        if self.compat:
            first = tf.cast((1.0 - trail.memory["share"]) * size, tf.int32)
        else:  # What is added keeps 2 / 1.5 * 1.5 from becoming 1.
            first = size - tf.cast(trail.memory["share"] * size + 1e-3, tf.int32)
        first = tf.clip_by_value(first, 0, size - 1)
        cut = tf.gather(slope, first, batch_dims=1)
        chosen = tf.abs(trail.gradient) >= per_example(cut, trail.gradient)
        signs = tf.where(chosen, tf.sign(trail.gradient), 0.0)
        length = tf.math.divide_no_nan(trail.step_size, self.ball.norm(signs))
        return self.ball.confine(
            trail.images + per_example(length, signs) * signs, room
        )

    def observe(self, trail: Trail, values) -> dict[str, tf.Tensor]:
        """Returns the memory, which single steps leave alone."""
        return trail.memory

    def adapt(self, trail: Trail, window, images, limits) -> Trail:
        """Returns the trail after a checkpoint.

        Args:
            trail: Before it.
            window: Length of the window that it ends.
            images: float32 [B, H, W, C], the clean images.
            limits: float32 [B], the step size at the start, which is the largest.
        """
        support = _support(trail.peak_images - images)
        sparser = support < self.support_falls * trail.memory["support"]
        size = tf.maximum(trail.step_size / self.shrink, limits / self.steps_smaller)
        count = float(images.shape[1:].num_elements())
        memory = {"share": support / count / self.shrink, "support": support}
        size = tf.where(sparser, limits, size)
        return trail.back_to_peak(sparser)._replace(step_size=size, memory=memory)


def _support(perturbation: tf.Tensor) -> tf.Tensor:
    """Returns how many numbers of each example are not zero, float32 [B]."""
    return tf.math.count_nonzero(flatten(perturbation), axis=1, dtype=tf.float32)
