"""Gradient ascent in the l1 ball by steps on few coordinates."""

import tensorflow as tf

from kerobust.attacks.balls import L1Ball, NormBall, canonical_norm
from kerobust.attacks.gradient import PGD


@tf.keras.saving.register_keras_serializable("kerobust")
class SparsePGD(PGD):
    """PGD in the l1 ball that moves few coordinates at a time (SLIDE).

    The steepest step in l1 moves one coordinate and makes slow progress; a step along
    the whole gradient wastes its length on coordinates that hardly matter. With the
    default quantile it is `PGD(norm="l1")`.

    Args:
        epsilon: Radius of the l1 ball: sum of all changes, images in [0, 1].
        quantile: In [0, 1). A step moves the coordinates whose absolute gradient is at
            or above this quantile, among those that the box still lets move: a share of
            1 - quantile (rounded down, at least one).
        norm: Only "l1", so that configurations of other attacks fit.
        **kwargs: See `PGD`.

    Raises:
        ValueError: If `quantile` or `norm` is another, and for what `PGD` refuses.

    References:
        Tramer & Boneh, 2019, arXiv:1904.13000, algorithm 1.

    Differences:
        Ball and box are met by one exact projection (Croce & Hein, 2021,
        arXiv:2103.01208) instead of a projection on the ball and a clip. The default
        step and the random start are those of `PGD`.
    """

    def __init__(
        self,
        epsilon: float = 12.0,
        *,
        quantile: float = 0.99,
        norm: str = "l1",
        **kwargs,
    ):
        if canonical_norm(norm) != "l1":
            raise ValueError(
                '`norm` of SparsePGD must be "l1"; use PGD for other norms. '
                f"Received: norm={norm}."
            )
        if not 0 <= quantile < 1:
            raise ValueError(
                f"`quantile` must lie in [0, 1). Received: quantile={quantile}."
            )
        super().__init__(epsilon, norm="l1", **kwargs)
        self.quantile = float(quantile)

    @property
    def ball(self) -> NormBall:
        """The l1 ball, which knows how many coordinates a step moves."""
        return L1Ball(self.quantile)

    def get_config(self):
        return super().get_config() | {"quantile": self.quantile}
