"""Losses of predictions for every pixel."""

import tensorflow as tf


def pixel_cross_entropy(
    logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor | None = None
) -> tf.Tensor:
    """Returns the mean cross-entropy of the labelled pixels of every image.

    Args:
        logits: float [B, H, W, K]; computed in float32.
        labels: int [B, H, W], below K; -1 = no label.
        weights: float32 [B, H, W], factor of every pixel; the mean still divides by the
            number of labelled pixels. None = 1.

    Returns:
        float32 [B]; 0 for images without a label.
    """
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        tf.maximum(labels, 0), tf.cast(logits, tf.float32)
    )
    return pixel_mean(losses if weights is None else losses * weights, labels >= 0)


def pixel_mean(values: tf.Tensor, known: tf.Tensor) -> tf.Tensor:
    """Returns the mean of values over the known pixels of every image.

    Args:
        values: float32 [B, H, W].
        known: bool [B, H, W].

    Returns:
        float32 [B]; 0 for images in which nothing is known.
    """
    counts = tf.reduce_sum(tf.cast(known, tf.float32), axis=[1, 2])
    total = tf.reduce_sum(tf.where(known, values, 0.0), axis=[1, 2])
    return total / tf.maximum(counts, 1.0)
