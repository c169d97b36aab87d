"""Losses of masked autoencoders."""

import tensorflow as tf


def normalise_patches(patches: tf.Tensor) -> tf.Tensor:
    """Gives every patch mean 0 and variance 1, the usual target of masked autoencoders.

    Args:
        patches: float [B, N, P].

    Returns:
        [B, N, P] of the same dtype: (patch - mean) / sqrt(variance + 1e-6) with the
        unbiased variance (divided by P - 1), so constant patches become 0.

    References:
        He et al., 2022, arXiv:2111.06377, section 3 (`norm_pix_loss` of its code).
    """
    mean, deviation = _statistics(patches)
    return (patches - mean) / deviation


def restore_patches(normalised: tf.Tensor, patches: tf.Tensor) -> tf.Tensor:
    """Gives `normalised` the mean and variance of `patches`, both [B, N, P].

    The inverse of `normalise_patches`: shows predictions of normalised targets.
    """
    mean, deviation = _statistics(patches)
    return normalised * deviation + mean


def reconstruction_error(
    predictions: tf.Tensor, targets: tf.Tensor, removed: tf.Tensor
) -> tf.Tensor:
    """Returns the mean squared error over the pixels of the hidden patches.

    Args:
        predictions, targets: float [B, N, P].
        removed: float32 [B, N], 1 for hidden patches; at least one per example.

    Returns:
        float32 [B]. When all examples hide equally many patches, its mean is the loss
        of the paper (sum over the batch / number of hidden patches).

    References:
        He et al., 2022, arXiv:2111.06377, section 3.
    """
    difference = tf.cast(predictions, tf.float32) - tf.cast(targets, tf.float32)
    errors = tf.reduce_mean(tf.square(difference), axis=-1)
    return tf.reduce_sum(errors * removed, axis=1) / tf.reduce_sum(removed, axis=1)


def _statistics(patches: tf.Tensor):
    """Returns mean and unbiased standard deviation of every patch, [B, N, 1]."""
    size = patches.shape[-1]
    mean, variance = tf.nn.moments(patches, axes=[-1], keepdims=True)
    return mean, tf.sqrt(variance * (size / (size - 1)) + 1e-6)
