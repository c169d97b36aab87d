"""Losses between depth maps, in metres; pixels without a depth hold 0."""

import tensorflow as tf

_SHIFT = 1e-3  # Metres added inside every logarithm.
_STRIDES = (1, 2, 4, 6)
# Layout -> (axes that are compared, axes that an example has).
_AXES = {"image": (1, 2), "repo": (0, 1), "dinov2": (0, 1)}


def sig_loss(
    prediction: tf.Tensor,
    depth: tf.Tensor,
    *,
    pooled: bool = False,
    warm_up: bool = False,
) -> tf.Tensor:
    """Returns the scale-invariant logarithmic loss.

    With g = log(prediction + 0.001) - log(depth + 0.001) on the pixels that have a
    depth, it is sqrt(Var(g) + 0.15 mean(g)^2), the variance being unbiased; 0 where no
    pixel has one. Its gradient where it is 0 is 0.

    Args:
        prediction: float32 [B, H, W], at least 0.
        depth: float32 [B, H, W]; 0 = unknown.
        pooled: Whether the pixels of all images are one sample, as in training.
        warm_up: Whether the variance is left out, as in the first steps of a training.

    Returns:
        float32 [B], or [1] if pooled.

    References:
        Eigen et al., 2014, arXiv:1406.2283, equation 4; Oquab et al., 2023,
        arXiv:2304.07193, whose code has these constants.
    """
    difference, known = _logarithms(prediction, depth, pooled)
    axes = tuple(range(1, difference.shape.rank))
    count = tf.reduce_sum(known, axes)
    mean = tf.reduce_sum(difference, axes) / tf.maximum(count, 1.0)
    centre = tf.reshape(mean, [-1, *[1] * len(axes)])
    squares = tf.reduce_sum(known * tf.square(difference - centre), axes)
    variance = squares / tf.maximum(count - 1.0, 1.0)
    return _root(0.15 * tf.square(mean) + (0.0 if warm_up else variance))


def gradient_loss(
    prediction: tf.Tensor,
    depth: tf.Tensor,
    *,
    pooled: bool = False,
    layout: str = "image",
) -> tf.Tensor:
    """Returns the multi-scale gradient loss.

    Of the same difference g as in `sig_loss`, taken at every 1st, 2nd, 4th and 6th
    pixel: the absolute differences of pixels two apart along both axes, where both
    have a depth, summed and divided by the number of pixels with a depth at that
    scale; the scales are added.

    Args:
        prediction: float32 [B, H, W], at least 0.
        depth: float32 [B, H, W]; 0 = unknown.
        pooled: Whether the pixels of all images are one sample, as in training.
        layout: Which axes are compared. "image": rows and columns. "repo": images and
            rows, as the benchmark's code does; "dinov2": images only, as DINOv2's
            training does. The last two are always pooled.

    Returns:
        float32 [B], or [1] if pooled.

    References:
        Li & Snavely, 2018, arXiv:1804.00607, equation 4.

    Differences:
        The strides are those of DINOv2's code, not powers of two. A scale without any
        depth adds 0, there it is not a number.
    """
    if layout not in _AXES:
        raise ValueError(
            f"`layout` must be one of {', '.join(_AXES)}. Received: layout={layout}."
        )
    difference, known = _logarithms(prediction, depth, pooled=False)
    if layout == "dinov2":
        difference, known = (x[:, tf.newaxis] for x in (difference, known))
    scales = [_jumps(difference, known, stride, layout, pooled) for stride in _STRIDES]
    return tf.add_n(scales)


def _jumps(difference, known, stride: int, layout: str, pooled: bool) -> tf.Tensor:
    axes = _AXES[layout]
    taken = [slice(None)] * difference.shape.rank
    for axis in axes:
        taken[axis] = slice(None, None, stride)
    difference, known = difference[tuple(taken)], known[tuple(taken)]
    every = pooled or layout != "image"
    kept = tuple(range(0 if every else 1, difference.shape.rank))
    total = 0.0
    for axis in axes:
        (first, second), (both, other) = (
            _two_apart(each, axis) for each in (difference, known)
        )
        total += tf.reduce_sum(both * other * tf.abs(second - first), kept)
    found = total / tf.maximum(tf.reduce_sum(known, kept), 1.0)
    return tf.reshape(found, [-1])


def _two_apart(values: tf.Tensor, axis: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the entries that have another one two further, and those others."""
    first, second = [slice(None)] * values.shape.rank, [slice(None)] * values.shape.rank
    first[axis], second[axis] = slice(None, -2), slice(2, None)
    return values[tuple(first)], values[tuple(second)]


def _logarithms(prediction, depth, pooled: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (difference of logarithms, 1 where there is a depth), 0 elsewhere."""
    prediction, depth = (tf.cast(x, tf.float32) for x in (prediction, depth))
    known = tf.cast(depth > 0, tf.float32)
    # Selected before the logarithm, so that no gradient meets an unknown pixel.
    prediction = tf.where(depth > 0, prediction, 1.0)
    reference = tf.where(depth > 0, depth, 1.0)
    difference = tf.math.log(prediction + _SHIFT) - tf.math.log(reference + _SHIFT)
    if pooled:
        difference, known = (tf.reshape(x, [1, -1]) for x in (difference, known))
    return difference * known, known


def _root(values: tf.Tensor) -> tf.Tensor:
    """Returns the square root, with gradient 0 at 0."""
    safe = tf.where(values > 0, values, 1.0)
    return tf.where(values > 0, tf.sqrt(safe), 0.0)
