"""Norm balls: what a perturbation may be, and which way is up inside them."""

import tensorflow as tf

from kerobust.config import suggestion
from kerobust.randomness import exponential, fold_in, normal, uniform

_TINY = 1e-30  # Above float32's smallest normal number, below any real norm.


class NormBall:
    """Perturbations of a norm of at most epsilon; stateless, one object per norm.

    Norms are per example over all other axes; epsilon is float32 [B] in pixel units.
    """

    name = ""

    def largest(self, size: int) -> float:
        """Returns the norm of the largest change of `size` numbers within [0, 1]."""
        raise NotImplementedError

    def norm(self, perturbation: tf.Tensor) -> tf.Tensor:
        """Returns the norm of each perturbation [B, ...], float32 [B]."""
        raise NotImplementedError

    def project(self, perturbation, epsilon, lower, upper) -> tf.Tensor:
        """Returns a perturbation inside the ball and the box, near the given one.

        Args:
            perturbation: float32 [B, H, W, C].
            epsilon: float32 [B], radius in pixel units.
            lower, upper: float32 [B, H, W, C], room to the box, lower <= 0 <= upper.
        """
        raise NotImplementedError

    def room(self, images: tf.Tensor, epsilon: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Returns what `confine` needs to know of images float32 [B, H, W, C].

        All of it has leading B. A search computes it once, outside its loop.
        """
        return images, epsilon

    def confine(self, adversarial: tf.Tensor, room) -> tf.Tensor:
        """Returns images float32 [B, H, W, C] moved into the ball and into [0, 1]."""
        images, epsilon = room
        change = self.project(adversarial - images, epsilon, -images, 1.0 - images)
        return tf.clip_by_value(images + change, 0.0, 1.0)

    def sample(self, keys: tf.Tensor, shape, epsilon: tf.Tensor) -> tf.Tensor:
        """Returns perturbations drawn uniformly from the ball, float32 [B, *shape].

        Args:
            keys: int32 [B, 2], one random key per example.
            shape: Python ints, shape of one perturbation.
            epsilon: float32 [B], radius in pixel units.
        """
        raise NotImplementedError

    def rim(self, keys: tf.Tensor, shape, epsilon: tf.Tensor) -> tf.Tensor:
        """Returns perturbations that `confine` leaves or brings on the ball's border.

        Args:
            keys: int32 [B, 2], one random key per example.
            shape: Python ints, shape of one perturbation.
            epsilon: float32 [B], radius in pixel units.

        References:
            Croce & Hein, 2020, arXiv:2003.01690, and its published code: where Auto-PGD
            starts.
        """
        draw = normal(keys, shape)
        scale = tf.math.divide_no_nan(epsilon, self.norm(draw))
        return draw * per_example(scale, draw)

    def ascent_direction(self, gradient, lower=None, upper=None) -> tf.Tensor:
        """Returns the direction of unit norm in which to climb; 0 for a zero gradient.

        Args:
            gradient: float32 [B, H, W, C].
            lower, upper: float32 [B, H, W, C], room to the box at the current point, or
                None for no box. Used by norms that spend their step on few pixels.
        """
        raise NotImplementedError


class LinfBall(NormBall):
    """Perturbations whose largest absolute pixel change is at most epsilon."""

    name = "linf"

    def largest(self, size):
        return 1.0

    def norm(self, perturbation):
        return tf.reduce_max(tf.abs(flatten(perturbation)), axis=1)

    def project(self, perturbation, epsilon, lower, upper):
        radius = per_example(epsilon, perturbation)
        low, high = tf.maximum(-radius, lower), tf.minimum(radius, upper)
        return tf.clip_by_value(perturbation, low, high)

    def room(self, images, epsilon):
        radius = per_example(epsilon, images)
        return tf.maximum(images - radius, 0.0), tf.minimum(images + radius, 1.0)

    def confine(self, adversarial, room):
        # One pass over the images instead of the two of tf.clip_by_value.
        return tf.raw_ops.ClipByValue(
            t=adversarial, clip_value_min=room[0], clip_value_max=room[1]
        )

    def sample(self, keys, shape, epsilon):
        draw = uniform(keys, shape, -1.0, 1.0)
        return draw * per_example(epsilon, draw)

    def rim(self, keys, shape, epsilon):
        draw = uniform(keys, shape, -1.0, 1.0)
        return draw * per_example(tf.math.divide_no_nan(epsilon, self.norm(draw)), draw)

    def ascent_direction(self, gradient, lower=None, upper=None):
        return tf.sign(gradient)


class L2Ball(NormBall):
    """Perturbations whose Euclidean norm is at most epsilon.

    Differences:
        `project` scales into the ball, then clips into the box, as every library does:
        the result is feasible but not the nearest point of the intersection.
    """

    name = "l2"

    def largest(self, size):
        return size**0.5

    def norm(self, perturbation):
        return tf.norm(flatten(perturbation), axis=1)

    def project(self, perturbation, epsilon, lower, upper):
        norm = tf.maximum(self.norm(perturbation), _TINY)
        scale = tf.minimum(1.0, epsilon / norm)
        inside = perturbation * per_example(scale, perturbation)
        return tf.clip_by_value(inside, lower, upper)

    def sample(self, keys, shape, epsilon):
        direction = self.ascent_direction(normal(keys, shape))
        size = max(1, direction.shape[1:].num_elements())
        radius = uniform(fold_in(keys, "radius"), [1])[:, 0] ** (1.0 / size)
        return direction * per_example(epsilon * radius, direction)

    def ascent_direction(self, gradient, lower=None, upper=None):
        # Squares of numbers below 1e-19 vanish in float32: scale by the largest first.
        largest = tf.reduce_max(tf.abs(flatten(gradient)), axis=1)
        scaled = tf.math.divide_no_nan(gradient, per_example(largest, gradient))
        return tf.math.divide_no_nan(scaled, per_example(self.norm(scaled), scaled))


class L1Ball(NormBall):
    """Perturbations whose absolute pixel changes sum to at most epsilon.

    Args:
        quantile: In [0, 1). A step moves the coordinates with the largest gradient, a
            share of 1 - quantile (rounded down, at least one), among those that the box
            still lets move.

    References:
        Tramer & Boneh, 2019, arXiv:1904.13000 (steps on the largest coordinates);
        Croce & Hein, 2021, arXiv:2103.01208 (projection on l1 ball and box at once).
    """

    name = "l1"

    def __init__(self, quantile: float = 0.99):
        self.quantile = quantile

    def largest(self, size):
        return float(size)

    def norm(self, perturbation):
        return tf.reduce_sum(tf.abs(flatten(perturbation)), axis=1)

    def project(self, perturbation, epsilon, lower, upper):
        """Returns the nearest perturbation in the intersection of ball and box.

        It has size clip(|perturbation| - tau, 0, room) with the smallest tau >= 0 that
        fits into the ball. Sums run in float64: there are up to 2 H W C terms.
        """
        size = flatten(tf.cast(tf.abs(perturbation), tf.float64))
        room = flatten(tf.cast(tf.where(perturbation < 0, -lower, upper), tf.float64))
        radius = tf.cast(epsilon, tf.float64)[:, tf.newaxis]
        fits = tf.reduce_sum(tf.minimum(size, room), axis=1, keepdims=True) <= radius
        none = tf.zeros_like(radius)
        tau = tf.cond(  # Sorting costs more than all the rest.
            tf.reduce_all(fits),
            lambda: none,
            lambda: tf.where(fits, none, _threshold(size, room, radius)),
        )
        shrunk = tf.cast(tf.clip_by_value(size - tau, 0.0, room), tf.float32)
        return tf.sign(perturbation) * tf.reshape(shrunk, tf.shape(perturbation))

    def sample(self, keys, shape, epsilon):
        # d of the d + 1 parts into which uniform points cut [0, 1], random signs.
        size = tf.TensorShape(shape).num_elements()
        parts = exponential(keys, [size + 1])
        parts /= tf.reduce_sum(parts, axis=1, keepdims=True)
        sign = tf.where(uniform(fold_in(keys, "sign"), [size]) < 0.5, -1.0, 1.0)
        draw = sign * parts[:, :-1] * epsilon[:, tf.newaxis]
        return tf.reshape(draw, [-1, *shape])

    def rim(self, keys, shape, epsilon):
        return normal(keys, shape)  # Projected, it is sparse; scaled, it would not be.

    def ascent_direction(self, gradient, lower=None, upper=None):
        size = gradient.shape[1:].num_elements()
        # 1 - 0.8 is a little less than 0.2: without the nudge 2 of 10 would become 1.
        count = max(1, int(size * (1.0 - self.quantile) + 1e-6))
        return sparse_direction(gradient, count, lower, upper)


def sparse_direction(gradient, count, lower=None, upper=None, most=None) -> tf.Tensor:
    """Returns the signs of the largest gradients, scaled to l1 norm 1, and 0 elsewhere.

    Coordinates tied with the smallest of them move too; a zero gradient gives 0.

    Args:
        gradient: float32 [B, H, W, C].
        count: How many coordinates move, at least 1: Python int, or int32 [B].
        lower, upper: float32 [B, H, W, C], room to the box at the current point:
            coordinates that it holds do not count. None for no box.
        most: Python int, bound of `count` [B]; None = the number of coordinates.
    """
    if lower is not None:
        stuck = ((gradient < 0) & (lower >= 0)) | ((gradient > 0) & (upper <= 0))
        gradient = tf.where(stuck, 0.0, gradient)
    slope = tf.abs(flatten(gradient))
    if most is None:
        most = slope.shape[1] if tf.is_tensor(count) else count
    last = tf.broadcast_to(count - 1, tf.shape(slope)[:1])
    cut = tf.gather(tf.math.top_k(slope, most).values, last, batch_dims=1)
    chosen = tf.abs(gradient) >= per_example(cut, gradient)
    sign = tf.where(chosen, tf.sign(gradient), 0.0)
    size = tf.reduce_sum(tf.abs(flatten(sign)), axis=1)
    return tf.math.divide_no_nan(sign, per_example(size, sign))


def _threshold(size, room, radius):
    """Returns tau [B, 1] with sum(clip(size - tau, 0, room)) = radius, all float64.

    The sum is relu(size - tau) - relu(size - room - tau): piecewise linear in tau with
    kinks where it starts to fall (`size - room`) and stops falling (`size`).
    """
    kinks = tf.concat([size, size - room], axis=1)
    slopes = tf.concat([tf.ones_like(size), -tf.ones_like(size)], axis=1)
    order = tf.argsort(kinks, axis=1, direction="DESCENDING")
    kinks = tf.gather(kinks, order, batch_dims=1)
    slopes = tf.gather(slopes, order, batch_dims=1)
    slope, offset = tf.cumsum(slopes, axis=1), tf.cumsum(slopes * kinks, axis=1)
    # The sums at the kinks rise along the axis: find the segment that holds `radius`.
    below = tf.cast(offset - slope * kinks < radius, tf.int32)
    last = tf.shape(kinks)[1] - 1
    left = tf.maximum(tf.reduce_sum(below, axis=1, keepdims=True) - 1, 0)

    def at(values, index):
        return tf.gather(values, index, batch_dims=1)

    tau = (at(offset, left) - radius) / tf.maximum(at(slope, left), 1.0)
    # On a flat segment (slope 0) any point of it solves the equation.
    return tf.clip_by_value(tau, at(kinks, tf.minimum(left + 1, last)), at(kinks, left))


def flatten(values: tf.Tensor) -> tf.Tensor:
    """Returns [B, everything else] of [B, ...]."""
    size = values.shape[1:].num_elements()
    return tf.reshape(values, [tf.shape(values)[0], -1 if size is None else size])


def per_example(values: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Returns [B] as [B, 1, ..., 1], to be broadcast against `like`."""
    return tf.reshape(values, [-1] + [1] * (like.shape.rank - 1))


BALLS = {ball.name: ball for ball in (LinfBall(), L2Ball(), L1Ball())}


def canonical_norm(norm) -> str:
    """Returns the key in `BALLS` that `norm` means: "Linf", np.inf, 2, "L1", ...

    Raises:
        ValueError: If it means none of them.
    """
    word = str(norm).lower().replace("_", "").removeprefix("l").removesuffix(".0")
    if "l" + word not in BALLS:
        raise ValueError(
            f"`norm` must be one of: {', '.join(BALLS)}. Received: norm={norm}."
            f"{suggestion(str(norm).lower(), BALLS)}"
        )
    return "l" + word
