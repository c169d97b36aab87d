"""Attacks on predictions for every pixel: segmentations and depth maps."""

import tensorflow as tf

from kerobust.attacks.gradient import PGD
from kerobust.attacks.objectives import Objective, infer, predicted
from kerobust.attacks.target_checks import (
    check_depths,
    check_like,
    check_mask_shape,
    check_masks,
)
from kerobust.losses.depth import gradient_loss, sig_loss
from kerobust.losses.pixels import pixel_cross_entropy

_DEPTHS = (
    "depths in metres, floating point, of the shape [B, H, W] of the victim's outputs, "
    "0 where unknown"
)


class PixelCrossEntropy(Objective):
    """Mean cross-entropy of the labelled pixels of an image.

    Targets are labels int [B, H, W], -1 = no label; or {"labels": these,
    "wrong_share": float32 [B]}, which changes gradients and not values: pixels that are
    right count 1 - wrong_share, pixels that are wrong count wrong_share.

    Args:
        victim: Maps images float32 [B, H, W, C] to logits [B, H, W, K].
        separate_means: Whether right and wrong pixels are averaged each by themselves
            before they are weighted, as the cross-task benchmark's code does; there an
            empty set is not a number, here it adds 0.
    """

    classes: int | None = None  # K of the last outputs.

    def __init__(self, victim, separate_means: bool = False):
        self.victim, self.separate_means = victim, separate_means

    def outputs(self, images):
        found = _checked(infer(self.victim, images), 4, "logits of shape [B, H, W, K]")
        self.classes = found.shape[-1] if found.shape.rank else None
        return found

    def check_targets(self, targets):
        if self.classes is not None:
            labels = targets["labels"] if isinstance(targets, dict) else targets
            check_masks(labels, self.classes)

    def predictions(self, outputs):
        return predicted(outputs)

    def values(self, outputs, targets):
        if not isinstance(targets, dict):
            return pixel_cross_entropy(outputs, mask_of(targets, outputs))
        labels = mask_of(targets["labels"], outputs)
        weights = self._weights(outputs, labels, targets["wrong_share"])
        return steered(outputs, labels, weights)

    def _weights(self, outputs, labels, share):
        share = share[:, tf.newaxis, tf.newaxis]
        right = tf.cast(predicted(outputs) == labels, tf.float32)
        wrong = tf.cast(labels >= 0, tf.float32) - right
        if not self.separate_means:
            return (1.0 - share) * right + share * wrong
        total = tf.reduce_sum(right + wrong, axis=[1, 2], keepdims=True)
        right, wrong = (
            each
            * tf.math.divide_no_nan(
                total, tf.reduce_sum(each, axis=[1, 2], keepdims=True)
            )
            for each in (right, wrong)
        )
        return (1.0 - share) * right + share * wrong


def steered(outputs, labels, weights) -> tf.Tensor:
    """Returns the plain mean cross-entropy of images, with the gradient of a weighted.

    Values then stay comparable from step to step while weights change.

    Args:
        outputs: float32 [B, H, W, K].
        labels: int32 [B, H, W], -1 = no label.
        weights: float32 [B, H, W], constants.
    """
    weighted = pixel_cross_entropy(outputs, labels, tf.stop_gradient(weights))
    plain = pixel_cross_entropy(tf.stop_gradient(outputs), labels)
    return plain + weighted - tf.stop_gradient(weighted)


class DepthObjective(Objective):
    """Base of the objectives on depth maps.

    Targets are depths float32 [B, H, W] in metres, 0 = unknown.

    Args:
        victim: Maps images float32 [B, H, W, C] to depths [B, H, W] in metres, at
            least 0.
    """

    def __init__(self, victim):
        self.victim = victim

    def outputs(self, images):
        return _checked(infer(self.victim, images), 3, "depths of shape [B, H, W]")

    def check_targets(self, targets):
        check_depths(targets)

    def _depths(self, outputs, targets) -> tf.Tensor:
        """Returns the targets; raises unless they are depths of the outputs' shape."""
        check_like(targets, outputs, _DEPTHS)
        return targets


class DepthError(DepthObjective):
    """Scale-invariant logarithmic loss plus half of the gradient loss of a depth map.

    Args:
        victim: See `DepthObjective`.
        gradient_weight: Weight of the gradient loss.

    References:
        Kowalczuk et al., 2024, arXiv:2407.12588 (DepthPGD); see `sig_loss` and
        `gradient_loss`.

    Differences:
        Images do not meet, and the gradient loss compares rows and columns. The
        authors' code makes its loss anew for every image, so that the attack never
        leaves the warm-up, in which only the mean of the logarithms counts:
        `warm_up=True`.
    """

    def __init__(self, victim, gradient_weight: float = 0.5, warm_up: bool = False):
        super().__init__(victim)
        self.warm_up, self.gradient_weight = warm_up, gradient_weight

    def values(self, outputs, targets):
        targets = self._depths(outputs, targets)
        level = sig_loss(outputs, targets, warm_up=self.warm_up)
        return level + self.gradient_weight * gradient_loss(outputs, targets)


@tf.keras.saving.register_keras_serializable("kerobust")
class SegPGD(PGD):
    """PGD on segmentations that turns from pixels still right to all pixels.

    At step t of T, from 1, pixels that are right weigh 1 - (t - 1) / 2T and pixels that
    are wrong weigh (t - 1) / 2T; which are which is seen anew at every step. Restarts
    and steps compete by plain cross-entropy.

    Args:
        epsilon: Radius of the ball, pixel units of images in [0, 1].
        **kwargs: See `PGD`.

    Call arguments:
        targets: int [B, H, W], -1 = no label; None = what the victim predicts.
        victim: Maps images to logits [B, H, W, K], or a `PixelCrossEntropy`.

    References:
        Gu et al., 2022, arXiv:2207.12391, equations 4 and 7, algorithm 1.

    Differences:
        The sum is divided by the number of labelled pixels, not by that of all. Alone
        it overstates robustness.
    """

    default_objective = PixelCrossEntropy

    def _differentiated(self, index, adversarial, targets, objective):
        share = tf.cast(index, tf.float32) / (2.0 * self.steps)
        shares = tf.fill([tf.shape(adversarial)[0]], share)
        given = {"labels": targets, "wrong_share": shares}
        return super()._differentiated(index, adversarial, given, objective)


@tf.keras.saving.register_keras_serializable("kerobust")
class DepthPGD(PGD):
    """PGD on depth maps, by default on `DepthError`.

    Args:
        epsilon: Radius of the ball, pixel units of images in [0, 1].
        **kwargs: See `PGD`.

    Call arguments:
        targets: float32 [B, H, W] in metres, 0 = unknown.
        victim: Maps images to depths [B, H, W] in metres, or an objective.

    References:
        Kowalczuk et al., 2024, arXiv:2407.12588 (DepthPGD).
    """

    default_objective = DepthError


def _checked(outputs, rank: int, expected: str):
    if tf.is_tensor(outputs) and outputs.shape.rank in (rank, None):
        return outputs
    received = getattr(outputs, "shape", type(outputs).__name__)
    raise TypeError(
        f"`victim` must map images to {expected}. Received: outputs={received}."
    )


def mask_of(labels, outputs: tf.Tensor) -> tf.Tensor:
    """Returns labels as int32 [B, H, W]; raises unless they fit logits.

    Args:
        labels: int [B, H, W].
        outputs: float32 [B, H, W, K].
    """
    labels = tf.convert_to_tensor(labels)
    if labels.dtype.is_integer and labels.shape.rank in (3, None):
        check_mask_shape(labels, outputs)
        return tf.cast(labels, tf.int32)
    raise ValueError(
        "`targets` must be integer masks of shape [B, H, W], -1 = no label. Received: "
        f"targets of shape {labels.shape} and dtype {labels.dtype.name}."
    )
