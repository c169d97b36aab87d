"""Similarities of two batches of features, one number per example."""

import tensorflow as tf

_TINY = 1e-8


def cosine_similarity(first, second) -> tf.Tensor:
    """Returns the cosine of each pair of rows, in [-1, 1], with gradient to both.

    Args:
        first, second: float [..., D].

    Returns:
        float [...]; 0 where a row is zero.

    Differences:
        Keras' `cosine_similarity` returns the negative.
    """
    product = tf.reduce_sum(first * second, axis=-1)
    squares = tf.reduce_sum(first**2, axis=-1) * tf.reduce_sum(second**2, axis=-1)
    return product * tf.math.rsqrt(tf.maximum(squares, _TINY**2))


def squared_distance(first, second) -> tf.Tensor:
    """Returns the sum of squared differences of each pair of rows, float [...]."""
    return tf.reduce_sum(tf.math.squared_difference(first, second), axis=-1)


def spread(features) -> tf.Tensor:
    """Returns how far directions differ: 0 if all are equal, 1 if they are random.

    Args:
        features: float [B, D].

    Returns:
        Scalar: sqrt(D) times the mean deviation of the coordinates of unit vectors.
    """
    unit = tf.math.l2_normalize(features, axis=-1)
    width = tf.cast(tf.shape(features)[-1], features.dtype)
    return tf.sqrt(width) * tf.reduce_mean(tf.math.reduce_std(unit, axis=0))


def effective_rank(features) -> tf.Tensor:
    """Returns how many directions the variance of features fills, at least 1.

    Args:
        features: float [B, D].

    Returns:
        Scalar: (sum of eigenvalues)^2 / sum of their squares, of the covariance.

    References:
        The participation ratio, for example Gao et al., 2017, bioRxiv 214262,
        equation 5.
    """
    centred = features - tf.reduce_mean(features, axis=0)
    covariance = tf.matmul(centred, centred, transpose_a=True)
    squares = tf.reduce_sum(tf.square(covariance))
    return tf.square(tf.linalg.trace(covariance)) / tf.maximum(squares, 1e-30)
