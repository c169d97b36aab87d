"""Arguments of an attack in the form that one trace can serve."""

import numbers

import tensorflow as tf

from kerobust.attacks.checks import check_rows


def spread(name: str, value, images: tf.Tensor) -> tf.Tensor:
    """Returns a scalar or [B] as float32 [B], B being that of the images.

    Raises:
        ValueError: If `value` has another number of rows; the message names `name`.
    """
    value = tf.cast(value, tf.float32)
    if value.shape.rank != 0:
        check_rows(name, value, images)
    return tf.broadcast_to(value, tf.shape(images)[:1])


def as_tensors(targets):
    """Returns a nest of targets as tensors, all integers as int32; () for None."""
    if targets is None:
        return ()
    first = next(iter(targets), None) if isinstance(targets, list) else None
    if isinstance(first, numbers.Integral):
        targets = tf.constant(targets)  # Plain labels, not a nest of scalars.

    def plain(value):
        value = tf.convert_to_tensor(value)
        return tf.cast(value, tf.int32) if value.dtype.is_integer else value

    return tf.nest.map_structure(plain, targets)


def any_batch(tensor: tf.Tensor) -> tf.TensorSpec:
    """Returns the signature of tensors like this one with any number of rows."""
    return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)
