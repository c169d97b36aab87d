"""The attack on an encoder's tokens, which knows neither task nor head."""

import tensorflow as tf

from kerobust.attacks.embedding import TokenDistance
from kerobust.attacks.gradient import PGD


@tf.keras.saving.register_keras_serializable("kerobust")
class EmbedAttack(PGD):
    """PGD on an encoder's tokens: an image that is represented as another one.

    Args:
        epsilon: Radius of the ball, pixel units of images in [0, 1].
        steps: Number of gradient steps.
        **kwargs: See `PGD`. `random_start` must be true: where it is false, the
            gradient at the first step is zero, and nothing moves.

    Call arguments:
        targets: Reference tokens; None = those of the images.
        victim: Encoder that returns `Tokens`, or a `TokenDistance`.

    References:
        Kowalczuk et al., 2024, arXiv:2407.12588 (epsilon 8/255, 20 steps of 2/255).
    """

    default_objective = TokenDistance

    def __init__(self, epsilon: float | None = None, *, steps: int = 20, **kwargs):
        super().__init__(epsilon, steps=steps, **kwargs)
        if not self.random_start:
            raise ValueError(
                "`random_start` must be true: at the image itself the gradient is "
                "zero. Received: random_start=False."
            )
