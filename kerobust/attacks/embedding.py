"""What an attack on a representation makes large; it knows neither head nor labels."""

import tensorflow as tf

from kerobust.attacks.objectives import FeatureDistance, infer
from kerobust.config import check_name
from kerobust.types import Tokens

PARTS = ("cls", "patches", "both")
DISTANCES = ("mse", "cosine", "whitened")


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


class TokenDistance(FeatureDistance):
    """How far an image's tokens are from reference tokens, as a mean over the tokens.

    Targets are reference tokens float32 [B, M, D], such as `outputs` of clean images;
    None = those of the images that are attacked. There the gradient is zero: an attack
    must start elsewhere.

    Args:
        victim: Encoder that maps images float32 [B, H, W, C] to `Tokens`.
        part: "cls", "patches" or "both".
        distance: "mse", the mean square of the difference; "cosine", 1 - cosine;
            "whitened", "mse" of differences in units of the spread of clean tokens.
        whitening: float32 [D, D] for "whitened", see `whitening_of`.

    References:
        Kowalczuk et al., 2024, arXiv:2407.12588 (EmbedAttack: "mse" of the class token
        for classification, of the patches for segmentation and depth).
    """

    _wanted = "reference tokens float [B, M, D] or None; labels are not used"

    def __init__(
        self,
        victim,
        *,
        part: str = "cls",
        distance: str = "mse",
        whitening: tf.Tensor | None = None,
    ):
        check_name("part", part, PARTS)
        check_name("distance", distance, DISTANCES)
        if (distance == "whitened") != (whitening is not None):
            raise ValueError(
                "`whitening` must be given with distance whitened and with no other. "
                f"Received: distance={distance}, whitening={whitening}."
            )
        super().__init__(victim)
        self.part, self.distance, self.whitening = part, distance, whitening

    def outputs(self, images):
        tokens = infer(self.victim, images)
        if not isinstance(tokens, Tokens):
            received = getattr(tokens, "shape", type(tokens).__name__)
            raise TypeError(
                "`victim` must map images to `kerobust.types.Tokens`; for a tensor of "
                f"features use FeatureDistance(victim). Received: outputs={received}."
            )
        # Of images that were cut into windows there is one class token for each.
        cls = tokens.cls if tokens.cls.shape.rank == 3 else tokens.cls[:, tf.newaxis]
        parts = {"cls": [cls], "patches": [tokens.patches]}
        parts["both"] = parts["cls"] + parts["patches"]
        return tf.concat(parts[self.part], axis=1)

    def predictions(self, outputs):
        return outputs

    def values(self, outputs, targets):
        targets = self._reference(outputs, targets)
        if self.distance == "cosine":
            own, reference = (
                tf.math.l2_normalize(each, axis=2) for each in (outputs, targets)
            )
            return tf.reduce_mean(1.0 - tf.reduce_sum(own * reference, axis=2), axis=1)
        if self.whitening is not None:
            outputs, targets = (
                tf.einsum("bmd,de->bme", each, self.whitening)
                for each in (outputs, targets)
            )
        return super().values(outputs, targets)


class TokenMatch(TokenDistance):
    """Minus the distance: images that the encoder takes for others.

    Targets, which must be given, are `outputs` of the other images. Arguments are those
    of `TokenDistance`.

    References:
        Sabour et al., 2016, arXiv:1511.05122, equation 1, without its box constraint.
    """

    _wanted = "tokens float [B, M, D] of other images; labels are not used"

    def predictions(self, outputs):
        raise TypeError(
            "`targets` must be given: tokens of the images that the attacked ones "
            "shall be taken for. Received: targets=None. Pass `objective.outputs` of "
            "other images."
        )

    def values(self, outputs, targets):
        return -super().values(outputs, targets)


def whitening_of(tokens: tf.Tensor, shrinkage: float = 0.1) -> tf.Tensor:
    """Returns the matrix that gives clean tokens unit spread in every direction.

    With S the covariance of the tokens it is (S + g tr(S) / D I)^(-1/2): the squared
    length of a whitened shift bounds how far any linear head moves, in units of that
    head's own spread over clean images, to which g adds a floor.

    Args:
        tokens: float [N, D], of clean images.
        shrinkage: g, above 0; large values bring back the plain distance up to scale.

    Returns:
        float32 [D, D], symmetric.
    """
    if shrinkage <= 0:
        raise ValueError(
            f"`shrinkage` must be above 0. Received: shrinkage={shrinkage}."
        )
    tokens = tf.cast(tokens, tf.float64)
    centred = tokens - tf.reduce_mean(tokens, axis=0)
    size = tf.cast(tf.shape(tokens)[0], tf.float64)
    covariance = tf.linalg.matmul(centred, centred, transpose_a=True) / size
    width = tokens.shape[1]
    level = shrinkage * tf.linalg.trace(covariance) / width
    values, vectors = tf.linalg.eigh(
        covariance + level * tf.eye(width, dtype=tf.float64)
    )
    root = tf.linalg.matmul(vectors * tf.math.rsqrt(values), vectors, transpose_b=True)
    return tf.cast(root, tf.float32)
