"""The union of several norm balls, as one ball."""

from collections.abc import Mapping

import tensorflow as tf

from kerobust.attacks import checks
from kerobust.attacks.balls import BALLS, NormBall, canonical_norm, per_example
from kerobust.randomness import fold_in, uniform


class UnionBall(NormBall):
    """Perturbations that lie in at least one of several balls.

    Its "norm" is the smallest of the members' norms over their radii, so that epsilon 1
    is the union itself and other values scale all radii. A union is not convex.

    Args:
        radii: Norm -> radius above 0, in pixel units of images in [0, 1].

    Raises:
        ValueError: If `radii` is empty, names a norm twice or holds anything else.

    Differences:
        `project` goes to the member whose norm over radius is smallest, as that member
        projects; that need not be the nearest point of the union.
    """

    name = "union"

    def __init__(self, radii: Mapping[str, float]):
        self.radii = {canonical_norm(norm): float(each) for norm, each in radii.items()}
        checks.check_radius("radii", list(self.radii.values()))
        small = min(self.radii.values(), default=0.0)
        if small <= 0 or len(self.radii) < len(radii) or self.radii.get("linf", 0) > 1:
            raise ValueError(
                "`radii` must map at least one norm, each once, to a radius above 0, "
                f"that of linf to at most 1. Received: radii={dict(radii)}."
            )

    @property
    def members(self) -> list[tuple[NormBall, float]]:
        """The balls and their radii."""
        return [(BALLS[norm], radius) for norm, radius in self.radii.items()]

    def largest(self, size):
        # No change is larger than that of all pixels by 1, in whatever norm.
        return min(ball.largest(size) / radius for ball, radius in self.members)

    def norm(self, perturbation):
        return tf.reduce_min(self._norms(perturbation), axis=0)

    def project(self, perturbation, epsilon, lower, upper):
        projected = [
            ball.project(perturbation, epsilon * radius, lower, upper)
            for ball, radius in self.members
        ]
        return _chosen(tf.argmin(self._norms(perturbation), axis=0), projected)

    def room(self, images, epsilon):
        return images, self.rooms(images, epsilon)

    def rooms(self, images: tf.Tensor, epsilon: tf.Tensor) -> tuple:
        """Returns what each member's `confine` needs to know, see `room`."""
        return tuple(
            ball.room(images, epsilon * radius) for ball, radius in self.members
        )

    def confine(self, adversarial, room):
        images, rooms = room
        confined = [
            ball.confine(adversarial, each)
            for (ball, _), each in zip(self.members, rooms, strict=True)
        ]
        return _chosen(tf.argmin(self._norms(adversarial - images), axis=0), confined)

    def sample(self, keys, shape, epsilon):
        """Returns draws from a member by equal chances, then uniformly from it."""
        draws = [
            ball.sample(keys, shape, epsilon * radius) for ball, radius in self.members
        ]
        return _chosen(drawn_number(fold_in(keys, "member"), len(draws)), draws)

    def ascent_direction(self, gradient, lower=None, upper=None):
        """Returns the member's step of size 1 that climbs most to first order."""
        steps = [
            radius * ball.ascent_direction(gradient, lower, upper)
            for ball, radius in self.members
        ]
        gains = [tf.reduce_sum(gradient * step, axis=[1, 2, 3]) for step in steps]
        return _chosen(tf.argmax(gains, axis=0), steps)

    def _norms(self, perturbation):
        """Returns each member's norm over its radius, float32 [members, B]."""
        return tf.stack(
            [ball.norm(perturbation) / radius for ball, radius in self.members]
        )


def drawn_number(keys: tf.Tensor, count: int) -> tf.Tensor:
    """Returns a number from 0 to count - 1 for each key, int64 [B]."""
    return tf.cast(uniform(keys, []) * count, tf.int64)


def _chosen(index: tf.Tensor, choices: list[tf.Tensor]) -> tf.Tensor:
    """Returns each example's row from the choice that `index`, int64 [B], names."""
    result = choices[0]
    for number, choice in enumerate(choices[1:], start=1):
        result = tf.where(per_example(index == number, choice), choice, result)
    return result
