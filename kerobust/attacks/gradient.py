"""Gradient ascent inside a norm ball: FGSM, PGD and PGD with momentum."""

import tensorflow as tf

from kerobust.attacks.balls import flatten, per_example
from kerobust.attacks.base import Attack
from kerobust.attacks.candidates import Candidate
from kerobust.attacks.checks import check_count
from kerobust.attacks.precision import in_precision


@tf.keras.saving.register_keras_serializable("kerobust")
class PGD(Attack):
    """Projected gradient ascent on an objective inside a norm ball.

    Costs `steps` forwards and backwards, one forward more for keep="best".

    Args:
        epsilon: Radius of the ball, pixel units of images in [0, 1].
        steps: Number of gradient steps, at least 1.
        random_start: Whether the search starts at a random point of the ball.
        stop_when_fooled: Whether an example leaves the search, and the batch, as soon
            as it fools the victim: the same success up to rounding, smaller loss, less
            work. For evaluation; sets keep="best" and needs precision="float32".
        **kwargs: See `Attack`. `step_size` None = min(2.5 epsilon / steps, epsilon).

    Raises:
        ValueError: If `steps` is below 1, if `stop_when_fooled` meets another `keep` or
            `precision`, and for what `Attack` refuses.

    References:
        Madry et al., 2018, arXiv:1706.06083, section 2.1; 2.5 epsilon / steps: C.
    """

    def __init__(
        self,
        epsilon: float = 8 / 255,
        *,
        steps: int = 10,
        random_start: bool = True,
        stop_when_fooled: bool = False,
        keep: str | None = None,
        **kwargs,
    ):
        super().__init__(
            epsilon,
            random_start=random_start,
            keep="best" if stop_when_fooled and keep is None else keep,
            **kwargs,
        )
        check_count("steps", steps)
        if stop_when_fooled and (self.keep, self.precision) != ("best", "float32"):
            raise ValueError(
                '`stop_when_fooled` must have keep="best" and precision="float32": it '
                "ends at the first point that fools, which must then fool indeed. "
                f"Received: keep={self.keep}, precision={self.precision}."
            )
        self.steps = int(steps)
        self.stop_when_fooled = stop_when_fooled

    def get_config(self):
        own = {"steps": self.steps, "stop_when_fooled": self.stop_when_fooled}
        return super().get_config() | own

    def _default_step_size(self, epsilon):
        return tf.minimum(2.5 * epsilon / self.steps, epsilon)

    def _accumulate(self, gradient, memory):
        """Returns what the next step follows, from the gradient and the last result."""
        return gradient

    def _search(self, images, start, targets, objective, epsilon, step_size, keys):
        if self.stop_when_fooled:
            given = (targets, objective, epsilon, step_size)
            return self._search_standing(images, start, *given)
        length, room = per_example(step_size, images), self.ball.room(images, epsilon)

        def step(index, adversarial, memory, best):
            gradient, here = self._gradient(index, adversarial, targets, objective)
            if self.keep == "best":
                best = best.or_better(here)
            memory = self._accumulate(gradient, memory)
            moved = self._move(adversarial, memory, length, room)
            return index + 1, moved, memory, best

        best = Candidate.worst(start) if self.keep == "best" else ()
        _, adversarial, _, best = tf.while_loop(
            lambda index, *_: index < self.steps,
            step,
            (0, start, tf.zeros_like(start), best),
            parallel_iterations=1,
            maximum_iterations=self.steps,
        )
        last = Candidate.after(adversarial, self.steps)
        if self.keep == "last":
            return last
        return best.or_better(last.assessed(objective, targets))

    def _search_standing(self, images, start, targets, objective, epsilon, step_size):
        """Returns what `_search` does, from steps on what is not fooled yet."""
        length, room = per_example(step_size, images), self.ball.room(images, epsilon)

        def at(rows, nest):
            return tf.nest.map_structure(lambda each: tf.gather(each, rows), nest)

        def step(index, rows, adversarial, memory, best):
            own = at(rows, targets)
            gradient, here = self._gradient(index, adversarial, own, objective)
            best = best.replaced(rows, at(rows, best).or_better(here))
            standing = tf.where(~here.fooled)[:, 0]
            kept = at(standing, (rows, adversarial, gradient, memory))
            rows, adversarial, gradient, memory = kept
            memory = self._accumulate(gradient, memory)
            moved = self._move(adversarial, memory, *at(rows, (length, room)))
            return index + 1, rows, moved, memory, best

        def unfinished(index, rows, *_):
            return (index < self.steps) & (tf.size(rows) > 0)

        state = (tf.range(tf.shape(start)[0]), start, tf.zeros_like(start))
        any_rows = [tf.TensorShape([None, *each.shape[1:]]) for each in state]
        best = Candidate.worst(start)
        shapes = tf.nest.map_structure(lambda each: each.shape, best)
        _, rows, adversarial, _, best = tf.while_loop(
            unfinished,
            step,
            (0, *state, best),
            shape_invariants=(tf.TensorShape([]), *any_rows, shapes),
            parallel_iterations=1,
            maximum_iterations=self.steps,
        )
        last = Candidate.after(adversarial, self.steps)

        def judge():
            found = last.assessed(objective, at(rows, targets))
            return best.replaced(rows, at(rows, best).or_better(found))

        return tf.cond(tf.size(rows) > 0, judge, lambda: best)

    def _move(self, adversarial, memory, length, room):
        """Returns the images one step along `memory`, inside the ball."""
        direction = self.ball.ascent_direction(
            memory, lower=-adversarial, upper=1.0 - adversarial
        )
        return self.ball.confine(adversarial + length * direction, room)

    def _gradient(self, index, adversarial, targets, objective):
        """Returns the gradient of each example's value, and the judged candidate."""

        def differentiate(adversarial, targets):
            return _differentiate(adversarial, targets, objective)

        found = in_precision(self.precision, differentiate, adversarial, targets)
        gradient, values, fooled = found
        if self.precision != "float32":  # Success is believed in float32 only.
            fooled = tf.zeros_like(fooled)
        here = Candidate.after(adversarial, index)
        return gradient, here._replace(values=values, fooled=fooled)


@tf.keras.saving.register_keras_serializable("kerobust")
class FGSM(PGD):
    """One step of gradient ascent, by default of size epsilon from the image itself.

    With `random_start` it is the attack of fast adversarial training: from a random
    point of the ball, with a step of 1.25 epsilon, projected.

    Args:
        epsilon: Radius of the ball, pixel units of images in [0, 1].
        random_start: Whether to start at a random point of the ball.
        **kwargs: See `Attack`.

    References:
        Goodfellow et al., 2015, arXiv:1412.6572, section 4; with random start Wong et
        al., 2020, arXiv:2001.03994, algorithm 3.
    """

    def __init__(
        self, epsilon: float = 8 / 255, *, random_start: bool = False, **kwargs
    ):
        super().__init__(epsilon, steps=1, random_start=random_start, **kwargs)

    def get_config(self):
        config = super().get_config()
        del config["steps"]
        return config

    def _default_step_size(self, epsilon):
        return 1.25 * epsilon if self.random_start else epsilon


@tf.keras.saving.register_keras_serializable("kerobust")
class MomentumPGD(PGD):
    """PGD along an average of all gradients so far (MI-FGSM); transfers better.

    Args:
        epsilon: Radius of the ball, pixel units of images in [0, 1].
        decay: Weight of the past in the average, at least 0; 0 gives PGD.
        random_start: Whether the search starts at a random point of the ball.
        **kwargs: See `PGD`.

    Raises:
        ValueError: If `decay` is negative.

    References:
        Dong et al., 2018, arXiv:1710.06081, algorithm 1.

    Differences:
        The default step is that of `PGD` instead of epsilon / steps.
    """

    def __init__(
        self,
        epsilon: float = 8 / 255,
        *,
        decay: float = 1.0,
        random_start: bool = False,
        **kwargs,
    ):
        super().__init__(epsilon, random_start=random_start, **kwargs)
        if decay < 0:
            raise ValueError(f"`decay` must be at least 0. Received: decay={decay}.")
        self.decay = float(decay)

    def get_config(self):
        return super().get_config() | {"decay": self.decay}

    def _accumulate(self, gradient, memory):
        size = tf.reduce_sum(tf.abs(flatten(gradient)), axis=1)
        gradient = tf.math.divide_no_nan(gradient, per_example(size, gradient))
        return self.decay * memory + gradient


def _differentiate(images, targets, objective):
    """Returns (gradient of each example's value, values [B], fooled bool [B])."""
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
    # A step along NaN would leave the ball for good.
    gradient = tf.where(tf.math.is_finite(gradient), gradient, 0.0)
    return gradient, here.values, here.fooled
