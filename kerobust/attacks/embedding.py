"""What an attack on a representation makes large; it knows neither head nor labels."""

import tensorflow as tf

from kerobust.attacks.objectives import FeatureDistance, infer
from kerobust.types import Tokens


class EmbeddingDistance(FeatureDistance):
    """Mean squared difference between the class token of an image and a given one.

    The targets are `Victim.embeddings` of the clean images. There the gradient is zero:
    an attack must start elsewhere.

    Args:
        victim: `Victim` of a model that has an `encoder`.

    References:
        Kowalczuk et al., 2024, arXiv:2407.12588 (EmbedAttack).
    """

    def outputs(self, images):
        return self.victim.embed(images)


def embedded(encoder, images: tf.Tensor) -> tf.Tensor:
    """Returns an encoder's class tokens, or features [B, D] if it gives no tokens.

    Args:
        encoder: Maps images to `Tokens` or to features; called in inference mode.
        images: float32 [B, H, W, C] in [0, 1].
    """
    found = infer(encoder, images)
    return found.cls if isinstance(found, Tokens) else found
