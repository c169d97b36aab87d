"""Losses between the outputs of a student and those of a moving teacher."""

import tensorflow as tf


def teacher_probabilities(logits, centre, temperature) -> tf.Tensor:
    """Returns the centred and sharpened distribution of a teacher, without gradient.

    Args:
        logits: float32 [..., K].
        centre: float32 [K].
        temperature: Scalar above 0.

    References:
        Caron et al., 2021, arXiv:2104.14294, section 3.1, "avoiding collapse".
    """
    return tf.stop_gradient(tf.nn.softmax((logits - centre) / temperature))


def view_cross_entropies(probabilities, logits, temperature) -> tf.Tensor:
    """Returns the mean cross-entropy of every pair of views.

    Args:
        probabilities: float32 [B, T, K], of the teacher on its T views.
        logits: float32 [S, B, K], of the student on its S views.
        temperature: Of the student, above 0.

    Returns:
        float32 [T, S], means over the batch.

    References:
        Caron et al., 2021, arXiv:2104.14294, equation 3.
    """
    log_shares = tf.nn.log_softmax(logits / temperature)
    sums = tf.einsum("btk,sbk->ts", probabilities, log_shares)
    return -sums / tf.cast(tf.shape(logits)[1], sums.dtype)


def entropy(probabilities) -> tf.Tensor:
    """Returns the entropy in nats, float [...], of distributions [..., K]."""
    return -tf.reduce_sum(tf.math.xlogy(probabilities, probabilities), axis=-1)


def moved_centre(centre, logits, momentum) -> tf.Tensor:
    """Returns momentum * centre + (1 - momentum) * mean of the teacher's raw logits.

    Args:
        centre: float32 [K].
        logits: float32 [B, T, K].
        momentum: In [0, 1].

    References:
        Caron et al., 2021, arXiv:2104.14294, equation 4.
    """
    mean = tf.reduce_mean(logits, axis=[0, 1])
    return momentum * centre + (1 - momentum) * mean
