"""Cross-entropy of segmentations."""

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
    known = tf.cast(labels >= 0, tf.float32)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        tf.maximum(labels, 0), tf.cast(logits, tf.float32)
    )
    factors = known if weights is None else known * weights
    total = tf.reduce_sum(losses * factors, axis=[1, 2])
    return total / tf.maximum(tf.reduce_sum(known, axis=[1, 2]), 1.0)
