"""More objectives on predictions for every pixel: what suites try beside the usual."""

import math

import tensorflow as tf

from kerobust.attacks.dense import (
    DepthObjective,
    PixelCrossEntropy,
    mask_of,
    steered,
)
from kerobust.attacks.objectives import predicted
from kerobust.config import check_name
from kerobust.losses.pixels import pixel_mean

DEPTH_MEASURES = ("squared", "log_l1", "cosine", "near", "far")


class MaskedCrossEntropy(PixelCrossEntropy):
    """Cross-entropy whose gradient is that of the pixels that are still right.

    The value is the mean over all labelled pixels: over the right ones alone it would
    fall with every pixel that an attack wins.

    Args:
        victim: Maps images float32 [B, H, W, C] to logits [B, H, W, K].
        balanced: Whether every class of an image counts the same, however few pixels
            it has.

    References:
        Croce et al., 2024, arXiv:2306.12941, section 3.2, and its code, which also
        steers the step size by another loss than the one it climbs.

    Differences:
        The authors return the point with the fewest right pixels, here the one with the
        largest value. With `balanced` their code weighs a pixel by 1 minus its class'
        share of the image; here by 1 / share, divided by the number of classes there.
    """

    def __init__(self, victim, balanced: bool = False):
        super().__init__(victim)
        self.balanced = balanced

    def values(self, outputs, targets):
        labels = mask_of(targets, outputs)
        right = tf.cast(predicted(outputs) == labels, tf.float32)
        weights = class_weights(labels, outputs.shape[-1]) if self.balanced else 1.0
        return steered(outputs, labels, right * weights)


class JensenShannon(PixelCrossEntropy):
    """Mean Jensen-Shannon divergence of probabilities from labels, natural logarithm.

    It is bounded by log 2, so that pixels that are wrong already stop to count.

    Args:
        victim: Maps images float32 [B, H, W, C] to logits [B, H, W, K].

    References:
        Croce et al., 2024, arXiv:2306.12941, section 3.2.
    """

    def values(self, outputs, targets):
        labels = mask_of(targets, outputs)
        found = tf.gather(
            tf.nn.softmax(outputs), tf.maximum(labels, 0), axis=3, batch_dims=3
        )
        both = tf.math.log((1.0 + found) / 2.0)
        own = tf.math.xlogy(found, found)
        rest = (1.0 - found) * math.log(2.0)
        return pixel_mean(0.5 * (rest + own - (1.0 + found) * both), labels >= 0)


class DepthMeasure(DepthObjective):
    """One way to say how wrong a depth map is, as a mean over the known pixels.

    Args:
        victim: Maps images float32 [B, H, W, C] to depths [B, H, W] in metres, above 0.
        measure: "squared", (p - d)^2; "log_l1", |log p - log d|; "cosine", the same
            times 2 p d / (p^2 + d^2), taken as a constant, so that pixels that are far
            off already count less; "near" and "far", - |log p - log f d| with f = 1/2
            and 2: everything half, or twice, as far.

    References:
        Agnihotri et al., CosPGD, arXiv:2302.02213 (weight by similarity).

    Differences:
        CosPGD takes the cosine of prediction and target over channels, which is 1 for
        one channel; here it is that of (p, d) and (d, p).
    """

    def __init__(self, victim, measure: str = "squared"):
        super().__init__(victim)
        check_name("measure", measure, DEPTH_MEASURES)
        self.measure = measure

    def values(self, outputs, targets):
        targets = self._depths(outputs, targets)
        known = targets > 0
        depths = tf.where(known, targets, 1.0)
        if self.measure == "squared":
            return pixel_mean(tf.square(outputs - depths), known)
        factor = {"near": 0.5, "far": 2.0}.get(self.measure)
        if factor is not None:
            return -pixel_mean(_log_ratio(outputs, factor * depths), known)
        distance = _log_ratio(outputs, depths)
        if self.measure == "cosine":
            likeness = 2.0 * outputs * depths / (outputs**2 + depths**2)
            distance *= tf.stop_gradient(likeness)
        return pixel_mean(distance, known)


def class_weights(labels: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Returns weights of pixels float32 [B, H, W] that give every class the same sum.

    They add up to the number of labelled pixels; pixels without a label get 0.

    Args:
        labels: int32 [B, H, W], -1 = no label.
        num_classes: K.
    """
    shown = tf.one_hot(labels, num_classes)
    counts = tf.reduce_sum(shown, axis=[1, 2])
    there = tf.reduce_sum(tf.cast(counts > 0, tf.float32), axis=1, keepdims=True)
    total = tf.reduce_sum(counts, axis=1, keepdims=True)
    weights = tf.math.divide_no_nan(total / tf.maximum(there, 1.0), counts)
    return tf.einsum("bhwk,bk->bhw", shown, weights)


def _log_ratio(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    return tf.abs(tf.math.log(tf.maximum(first, 1e-6)) - tf.math.log(second))
