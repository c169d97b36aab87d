"""Cross-entropy of segmentations."""

import tensorflow as tf


def pixel_cross_entropy(
    logits: tf.Tensor,
    labels: tf.Tensor,
    *,
    ignore: int | None = None,
    weights: tf.Tensor | None = None,
) -> tf.Tensor:
    """Returns the mean cross-entropy of the pixels of every image.

    Args:
        logits: float [B, H, W, K]; computed in float32.
        labels: int [B, H, W], below K but for `ignore`.
        ignore: Label of pixels that do not count; None = all count.
        weights: float32 [B, H, W], factor of every pixel; the mean still divides by the
            number of pixels that count. None = 1.

    Returns:
        float32 [B]; 0 for images without a pixel that counts.
    """
    counts = tf.ones_like(labels, tf.float32)
    if ignore is not None:
        counts = tf.cast(labels != ignore, tf.float32)
    shown = tf.where(counts > 0, labels, 0)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        shown, tf.cast(logits, tf.float32)
    )
    factors = counts if weights is None else counts * weights
    total = tf.reduce_sum(losses * factors, axis=[1, 2])
    return total / tf.maximum(tf.reduce_sum(counts, axis=[1, 2]), 1.0)
