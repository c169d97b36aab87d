"""Multi steepest descent: one search through the union of several norm balls."""

from collections.abc import Mapping
from types import MappingProxyType

import tensorflow as tf

from kerobust.attacks import checks
from kerobust.attacks.balls import (
    NormBall,
    canonical_norm,
    per_example,
    sparse_direction,
)
from kerobust.attacks.base import Attack
from kerobust.attacks.candidates import Candidate
from kerobust.attacks.precision import in_precision
from kerobust.attacks.standing import climb
from kerobust.attacks.union_ball import UnionBall
from kerobust.randomness import fold_in, uniform

RADII = MappingProxyType({"linf": 0.03, "l2": 0.5, "l1": 12.0})


@tf.keras.saving.register_keras_serializable("kerobust")
class MSD(Attack):
    """Gradient ascent that takes the best of one step per norm, again and again.

    Every step computes one gradient and from it one candidate per norm: a step in that
    norm, then projected on the ball of that norm and the box. Each example goes on from
    the candidate that fools, then from the one with the largest value. All candidates
    start from the same point, so that the search may leave one ball when it enters
    another; but it is always in the ball of the candidate that was taken last, hence in
    the union, and so is every point that it may return.

    Costs per step one forward and backward, and one forward per norm; one forward more
    at the start for keep="best".

    Args:
        radii: Norm -> radius above 0, pixel units; the union of these balls is the
            threat. The default is that of the paper for CIFAR-10.
        epsilon: Factor of all radii; `AttackInfo.norm` is the smallest factor that
            holds the perturbation.
        steps: Number of steps, at least 1.
        step_sizes: Norm -> length of a step in that norm at epsilon 1, one for each of
            `radii`; None = min(5 / steps, 1) times the radius.
        counts: (fewest, most) coordinates that an l1 step moves; each example draws a
            new number at each step, as in the paper. At most all coordinates move.
        keep: See `Attack`; None = "best", which is all but free.
        **kwargs: See `Attack`; no `norm`. `step_size` is a factor of `step_sizes`;
            None = epsilon.

    Raises:
        ValueError, TypeError: For arguments out of range.

    References:
        Maini et al., 2020, arXiv:1909.04068, algorithm 1.

    Differences:
        A point that fools precedes one with a larger value. An l1 step leaves out the
        coordinates that the box holds, and l1 ball and box are met by one projection
        instead of two, one after the other. The published code has steps of 0.003, 0.05
        and 1 for 50 steps, here 0.003, 0.05 and 1.2.
    """

    def __init__(
        self,
        radii: Mapping[str, float] = RADII,
        *,
        epsilon: float = 1.0,
        steps: int = 50,
        step_sizes: Mapping[str, float] | None = None,
        counts: tuple[int, int] = (5, 20),
        keep: str | None = None,
        **kwargs,
    ):
        # The ball below replaces that of the norm.
        super().__init__(epsilon, norm="l2", keep=keep or "best", **kwargs)
        self.norm = UnionBall.name
        checks.check_count("steps", steps)
        self.radii = dict(UnionBall(radii).radii)
        self.steps = int(steps)
        self.step_sizes = None if step_sizes is None else _lengths(step_sizes, radii)
        for count in counts:
            checks.check_count("counts", count)
        if len(counts) != 2 or counts[0] > counts[1]:
            raise ValueError(
                "`counts` must be the fewest and the most coordinates of a step. "
                f"Received: counts={counts}."
            )
        self.counts = (int(counts[0]), int(counts[1]))

    @property
    def ball(self) -> NormBall:
        """The union of the balls."""
        return UnionBall(self.radii)

    def get_config(self):
        config = super().get_config()
        del config["norm"]
        own = {"radii": dict(self.radii), "steps": self.steps, "counts": self.counts}
        own["step_sizes"] = self.step_sizes and dict(self.step_sizes)
        return config | own

    def _search(self, images, start, targets, objective, epsilon, step_size, keys):
        best = self.keep == "best"
        given = {
            "targets": targets,
            "keys": fold_in(keys, "counts"),
            "length": per_example(step_size, images),
            "rooms": UnionBall(self.radii).rooms(images, epsilon),
        }

        def step(index, given, adversarial, found):
            taken = self._step(index, given, adversarial, objective)
            return taken.images, found.or_better(taken) if best else found

        def finish(given, adversarial, found):
            return found if best else Candidate.after(adversarial, self.steps)

        here = Candidate.after(start, 0)
        return climb(
            step,
            finish,
            given=given,
            moving=start,
            found=here.assessed(objective, targets) if best else (),
            steps=self.steps,
            leave=self.stop_when_fooled,
        )

    def _step(self, index, given, adversarial, objective) -> Candidate:
        """Returns the best of the points one step away, one per norm."""
        targets = given["targets"]
        gradient, _ = self._differentiated(index, adversarial, targets, objective)
        # What cannot be compared (NaN) is not better: then the search stays.
        best = Candidate.worst(adversarial)
        sizes = self.step_sizes or {
            norm: min(5.0 / self.steps, 1.0) * radius
            for norm, radius in self.radii.items()
        }
        members = UnionBall(self.radii).members
        for (ball, _), room in zip(members, given["rooms"], strict=True):
            direction = self._direction(ball, index, gradient, adversarial, given)
            length = sizes[ball.name] * given["length"]
            ahead = Candidate.after(
                ball.confine(adversarial + length * direction, room), index + 1
            )
            best = best.or_better(self._looked_at(ahead, targets, objective))
        return best

    def _direction(self, ball, index, gradient, adversarial, given):
        """Returns the steepest step of length 1 in the norm of a ball."""
        if ball.name != "l1":
            return ball.ascent_direction(gradient)
        size = gradient.shape[1:].num_elements()
        fewest, most = (min(count, size) for count in self.counts)
        draw = uniform(fold_in(given["keys"], index), [])
        count = fewest + tf.cast(draw * (most - fewest + 1), tf.int32)
        room = (-adversarial, 1.0 - adversarial)
        return sparse_direction(gradient, count, *room, most=most)

    def _looked_at(self, candidate: Candidate, targets, objective) -> Candidate:
        """Returns the candidate judged, in the precision of the search."""
        if self.precision == "float32":
            return candidate.assessed(objective, targets)

        values = in_precision(
            self.precision, objective.__call__, candidate.images, targets
        )
        # Success is believed in float32 only.
        fooled = tf.zeros_like(values, tf.bool)
        return candidate._replace(values=values, fooled=fooled)


def _lengths(step_sizes: Mapping[str, float], radii: Mapping[str, float]) -> dict:
    """Returns canonical norm -> length of a step; raises unless they fit the radii."""
    lengths = {canonical_norm(norm): float(size) for norm, size in step_sizes.items()}
    checks.check_radius("step_sizes", list(lengths.values()))
    if lengths.keys() != UnionBall(radii).radii.keys():
        raise ValueError(
            f"`step_sizes` must name the norms of `radii`: {', '.join(radii)}. "
            f"Received: step_sizes={dict(step_sizes)}."
        )
    return lengths
