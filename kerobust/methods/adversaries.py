"""Several attacks on an encoder's tokens in one training step, and how they combine."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from kerobust.attacks import Attack, Objective
from kerobust.attacks.objectives import infer
from kerobust.methods.whitening import Whitening
from kerobust.randomness import example_keys, fold_in, uniform
from kerobust.types import Tokens

TYPES = ("cls", "patches")
PARTS = (*TYPES, "both")
DRAWN = ("random", "msd")
COMBINE = ("random", "average", "maximum", "msd")


def token_distances(
    first: Tokens, second: Tokens | None = None, whitening: Whitening | None = None
) -> dict:
    """Returns how far two tokens of each type are apart, float32 [B] by type.

    The squared Euclidean distance over D coordinates divided by D; of patches the mean
    over them. None in place of `second` are tokens of zeros, which gives the mean
    square of a coordinate of `first`; with `whitening`, of whitened tokens, which are
    centred.
    """
    found = {}
    for name, own in first._asdict().items():
        change = tf.cast(own, tf.float32)
        if second is not None:
            change -= tf.cast(getattr(second, name), tf.float32)
        if whitening is not None:
            change = whitening(change, name, centre=second is None)
        found[name] = tf.reduce_mean(change**2, axis=range(1, change.shape.rank))
    return found


def joined(values: dict, part: str) -> tf.Tensor:
    """Returns the value of a token type, or for `both` half the sum over both."""
    if part != "both":
        return values[part]
    return 0.5 * (values["cls"] + values["patches"])


class TokenShift(Objective):
    """Distance of an image's tokens from reference `Tokens`, as the loss measures it.

    Of one type it is `kerobust.attacks.TokenDistance`, mse or whitened; of both, the
    class token counts as much as all patches together. Zero gradient at clean images:
    an attack must start elsewhere.

    Args:
        encoder: Maps images float32 [B, H, W, C] to `Tokens`.
        part: "cls", "patches" or "both".
        whitening: Of tokens before they are compared; None = as they are.
    """

    def __init__(self, encoder, part: str, whitening: Whitening | None = None):
        super().__init__()
        self._encoder, self.part, self._whitening = encoder, part, whitening

    def outputs(self, images):
        return infer(self._encoder, images)

    def values(self, outputs, targets):
        found = token_distances(outputs, targets, self._whitening)
        return joined(found, self.part)


class Adversary(NamedTuple):
    """One way to attack.

    Attributes:
        attack: Ball and search.
        objective: What it raises; its targets are the teacher's `Tokens`.
        chance: Relative chance of being drawn.
    """

    attack: Attack
    objective: Objective
    chance: float


class Adversaries:
    """The attacks of a training step.

    random and msd: one adversary for the whole batch, drawn anew at each step from the
    seed and the number of the step; devices, parts of a batch and resumed runs draw
    the same. average: all of them, side by side. maximum: of each example the image
    with the largest value of `judge`.

    Args:
        members: The adversaries, at least one.
        combine: One of `COMBINE`.
        judge: `TokenShift` by which results are compared.
        seed: Seed of the draws.

    Call arguments:
        images: float32 [B, H, W, C] in [0, 1].
        targets: `Tokens` of the teacher on them.
        keys: int32 [B, 2].
        step: int scalar, number of the step.
        share: float32 scalar, factor of all radii and steps.

    Returns:
        float32 [B, A, H, W, C]; A is the number of members for average, else 1.

    References:
        Tramer & Boneh, 2019, arXiv:1904.13000, section 3 (average, max); Croce & Hein,
        2022, arXiv:2105.12508 (one per batch).
    """

    def __init__(
        self, members: Sequence[Adversary], combine: str, judge: TokenShift, seed: int
    ):
        self.members = list(members)
        self.combine, self.judge, self.seed = combine, judge, seed
        chances = tf.constant([each.chance for each in members], tf.float32)
        self._ends = tf.cumsum(chances) / tf.reduce_sum(chances)

    def __call__(self, images, targets: Tokens, keys, step, share) -> tf.Tensor:
        def run(index: int):
            attack, objective, _ = self.members[index]
            length = attack.step_size
            return attack(
                images,
                targets,
                objective,
                epsilon=share * attack.epsilon,
                step_size=None if length is None else share * length,
                keys=fold_in(keys, index),
            )

        numbers = range(len(self.members))
        if len(numbers) == 1:
            return run(0)[:, tf.newaxis]
        if self.combine in DRAWN:
            branches = [lambda index=index: run(index) for index in numbers]
            return tf.switch_case(self.drawn(step), branches)[:, tf.newaxis]
        found = [run(index) for index in numbers]
        if self.combine == "average":
            return tf.stack(found, axis=1)
        values = tf.stack([self.judge(each, targets) for each in found], axis=1)
        worst = tf.argmax(values, axis=1)
        return tf.gather(tf.stack(found, axis=1), worst[:, None], batch_dims=1)

    def drawn(self, step) -> tf.Tensor:
        """Returns the number of the adversary of a step, int32 scalar."""
        keys = fold_in(example_keys(self.seed, 0, [step]), "adversary")
        passed = uniform(keys, []) >= self._ends[:-1]
        return tf.reduce_sum(tf.cast(passed, tf.int32))
