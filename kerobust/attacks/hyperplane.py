"""The way from a point of the box to a hyperplane: the step of boundary attacks."""

import tensorflow as tf

from kerobust.attacks.balls import BALLS

_NEGLIGIBLE = 1e-8  # Of the largest slope: moving such a pixel gets nowhere.
_DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}


def dual_norm(norm: str, normals: tf.Tensor) -> tf.Tensor:
    """Returns how fast normal . z can change per unit of a norm, float32 [R].

    A value of v at a point is |v| / dual norm away from 0, were there no box.

    Args:
        norm: Key of `BALLS`.
        normals: float32 [R, ...].
    """
    largest = _largest(tf.reshape(normals, [tf.shape(normals)[0], -1]))
    # Squares of numbers below 1e-19 vanish in float32: scale by the largest first.
    rest = tf.reshape(largest, [-1] + [1] * (normals.shape.rank - 1))
    scaled = tf.math.divide_no_nan(normals, rest)
    return BALLS[_DUAL[norm]].norm(scaled) * largest[:, 0]


def to_hyperplane(norm: str, points, normals, offsets) -> tf.Tensor:
    """Returns the smallest changes that bring points onto planes inside [0, 1].

    Point + change solves normal . z = offset and lies in the box, and the change has
    the smallest norm of all that do. Where the plane misses the box it leads to the
    corner nearest to the plane. No loop: sorted once, O(d log d) per row. Pixels are
    float32; sums over them, in which large terms cancel, run in float64.

    Args:
        norm: Key of `BALLS`.
        points: float32 [R, d] in [0, 1].
        normals: float32 [R, d].
        offsets: float32 or float64 [R].

    Returns:
        float32 [R, d].

    References:
        Croce & Hein, 2020, arXiv:1907.02044, section 2.2 and appendix A.

    Differences:
        Slopes are neglected (l2, l1) below 1e-8 of the row's largest; the original
        does so below 1e-8, and is blind to small gradients. Where l1 leaves a choice
        among equal slopes, they share the change in proportion to their room; the
        original takes them in any order.
    """
    excess = tf.reduce_sum(
        tf.cast(normals, tf.float64) * tf.cast(points, tf.float64), 1
    )
    excess -= tf.cast(offsets, tf.float64)
    largest = _largest(normals)
    normals = tf.math.divide_no_nan(normals, largest)
    missing = tf.math.divide_no_nan(tf.abs(excess), tf.cast(largest[:, 0], tf.float64))
    slope = tf.abs(normals)
    if norm != "linf":
        slope = tf.where(slope < _NEGLIGIBLE, 0.0, slope)
    rises = (normals < 0) == (excess > 0)[:, tf.newaxis]
    room = tf.where(slope > 0, tf.where(rises, 1.0 - points, points), 0.0)
    fill = _fill_steepest if norm == "l1" else _fill_evenly
    weight = slope if norm == "l2" else tf.ones_like(slope)
    size = fill(slope, room, weight, missing[:, tf.newaxis])
    return tf.where(rises, size, -size)


def _largest(values):
    return tf.reduce_max(tf.abs(values), axis=1, keepdims=True)


def _fill_evenly(slope, room, weight, missing):
    """Returns min(level weight, room), with the level at which it makes up `missing`.

    All float32 [R, d], `missing` float64 [R, 1]. What a level makes up,
    sum(slope min(level weight, room)), is the lowest of d lines: of line j the pixels
    that run out of room before pixel j give all of it, the others rise without end. So
    no line reaches `missing` later than the sum does, and one with it: the last. Where
    all room is not enough, the line of the last pixel alone leaves its room behind.
    """
    runs_out = tf.math.divide_no_nan(room, weight)
    order = tf.argsort(runs_out, axis=1)
    full, rate = (
        tf.cast(tf.gather(each, order, batch_dims=1), tf.float64)
        for each in (slope * room, slope * weight)
    )
    full = tf.cumsum(full, axis=1, exclusive=True)
    rate = tf.cumsum(rate, axis=1, reverse=True)
    reached = tf.math.divide_no_nan(missing - full, rate)
    level = tf.cast(tf.reduce_max(reached, axis=1, keepdims=True), tf.float32)
    # A level beyond every pixel's end could overflow.
    return tf.minimum(tf.minimum(level, _largest(runs_out)) * weight, room)


def _fill_steepest(slope, room, weight, missing):
    """Returns sizes that make up `missing` with the steepest pixels, float32 [R, d].

    Pixels steeper than some limit use all their room, those with just that slope share
    what is left. Arguments as above; `weight` does not matter.
    """
    gain = tf.cast(slope * room, tf.float64)
    order = tf.argsort(slope, axis=1, direction="DESCENDING")
    total = tf.cumsum(tf.gather(gain, order, batch_dims=1), axis=1)
    before = tf.reduce_sum(tf.cast(total < missing, tf.int32), axis=1, keepdims=True)
    last = tf.minimum(before, tf.shape(slope)[1] - 1)
    limit = tf.gather(slope, tf.gather(order, last, batch_dims=1), batch_dims=1)

    def made_up(pixels):
        return tf.reduce_sum(tf.where(pixels, gain, 0.0), axis=1, keepdims=True)

    left = missing - made_up(slope > limit)
    share = tf.math.divide_no_nan(left, made_up(slope == limit))
    share = tf.cast(tf.clip_by_value(share, 0.0, 1.0), tf.float32)
    return tf.where(slope > limit, room, tf.where(slope == limit, share * room, 0.0))
