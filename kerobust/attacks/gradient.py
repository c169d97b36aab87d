"""Gradient ascent inside a norm ball: FGSM, PGD, and PGD with momentum or decay."""

import math

import tensorflow as tf

from kerobust.attacks.balls import flatten, per_example
from kerobust.attacks.base import Attack
from kerobust.attacks.candidates import Candidate
from kerobust.attacks.checks import check_count
from kerobust.attacks.standing import climb

_OWN = 0.75  # Share of a step in the move of `DecayingPGD`; the rest is the last move.


@tf.keras.saving.register_keras_serializable("kerobust")
class PGD(Attack):
    """Projected gradient ascent on an objective inside a norm ball.

    Costs `steps` forwards and backwards, one forward more for keep="best".

    Args:
        epsilon: Radius of the ball, pixel units of images in [0, 1].
        steps: Number of gradient steps, at least 1.
        random_start: Whether the search starts at a random point of the ball.
        **kwargs: See `Attack`. `step_size` None = min(2.5 epsilon / steps, epsilon).

    Raises:
        ValueError: If `steps` is below 1, and for what `Attack` refuses.

    References:
        Madry et al., 2018, arXiv:1706.06083, section 2.1; 2.5 epsilon / steps: C.
    """

    def __init__(
        self,
        epsilon: float | None = None,
        *,
        steps: int = 10,
        random_start: bool = True,
        **kwargs,
    ):
        super().__init__(epsilon, random_start=random_start, **kwargs)
        check_count("steps", steps)
        self.steps = int(steps)

    def get_config(self):
        return super().get_config() | {"steps": self.steps}

    def _default_step_size(self, epsilon):
        return tf.minimum(2.5 * epsilon / self.steps, epsilon)

    def _accumulate(self, gradient, memory):
        """Returns what the next step follows, from the gradient and the last result."""
        return gradient

    def _look(self, index, adversarial, targets, objective, keys):
        """Returns the gradient at a point, and the candidate; keys int32 [B, 2]."""
        return self._differentiated(index, adversarial, targets, objective)

    def _search(self, images, start, targets, objective, epsilon, step_size, keys):
        best = self.keep == "best"

        def step(index, given, moving, found):
            targets, length, room, keys = given
            point = (index, moving[0], targets, objective)
            gradient, here = self._look(*point, keys)
            moving = self._advance(index, moving, gradient, length, room)
            return moving, found.or_better(here) if best else found

        def finish(given, moving, found):
            last = Candidate.after(moving[0], self.steps)
            if not best:
                return last
            return found.or_better(last.assessed(objective, given[0]))

        return climb(
            step,
            finish,
            given=(
                targets,
                per_example(step_size, images),
                self.ball.room(images, epsilon),
                keys,
            ),
            moving=(start, tf.zeros_like(start)),
            found=Candidate.worst(start) if best else (),
            steps=self.steps,
            leave=self.stop_when_fooled,
        )

    def _advance(self, index, moving, gradient, length, room):
        """Returns (images, memory) after step `index` from (images, memory)."""
        adversarial, memory = moving
        memory = self._accumulate(gradient, memory)
        return self._move(adversarial, memory, length, room), memory

    def _move(self, adversarial, memory, length, room):
        """Returns the images one step along `memory`, inside the ball."""
        direction = self.ball.ascent_direction(
            memory, lower=-adversarial, upper=1.0 - adversarial
        )
        return self.ball.confine(adversarial + length * direction, room)


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
        self, epsilon: float | None = None, *, random_start: bool = False, **kwargs
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
        epsilon: float | None = None,
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
        return gradient + (memory if self.decay == 1.0 else self.decay * memory)


@tf.keras.saving.register_keras_serializable("kerobust")
class DecayingPGD(PGD):
    """PGD whose steps shrink from 2 epsilon along a cosine, with a share of the last.

    Large steps first, and nothing that depends on values: for objectives that do not
    grow steadily while the victim does worse, such as `ReweightedEnsemble`.

    Args:
        epsilon: Radius of the ball, pixel units of images in [0, 1].
        **kwargs: See `PGD`. `step_size` is the first, largest one; None = 2 epsilon.

    References:
        Yu, Gao & Xu, 2022, arXiv:2211.08008, and its code (`decay_step=cosine`).
    """

    def _default_step_size(self, epsilon):
        return 2.0 * epsilon

    def _advance(self, index, moving, gradient, length, room):
        adversarial, last = moving
        turn = math.pi * tf.cast(index, tf.float32) / self.steps
        length = length * (0.5 + 0.5 * tf.cos(turn))
        ahead = self._move(adversarial, gradient, length, room)
        own = tf.where(index > 0, _OWN, 1.0)
        moved = adversarial + own * (ahead - adversarial) + (1.0 - own) * last
        moved = self.ball.confine(moved, room)
        return moved, moved - adversarial
