"""Auto-PGD: gradient ascent that finds its step sizes by itself."""

import math

import tensorflow as tf

from kerobust.attacks.balls import per_example
from kerobust.attacks.base import Attack
from kerobust.attacks.candidates import Candidate
from kerobust.attacks.checks import check_count
from kerobust.attacks.standing import climb
from kerobust.attacks.step_rules import HalvingRule, SparseRule, Trail

_PHASES = {1: (1.0,), 2: (0.5, 0.5), 3: (0.3, 0.3, 0.4)}  # Shares of the steps.


@tf.keras.saving.register_keras_serializable("kerobust")
class AutoPGD(Attack):
    """Projected gradient ascent with momentum that halves its steps when it stalls.

    The attack of first choice: one number, `steps`, says how long it tries. Costs
    `steps` backwards and `steps` + 1 forwards. Give it `DLR(model)` or
    `TargetedDLR(model)` as victim for the other losses of AutoAttack.

    Args:
        epsilon: Radius of the ball, pixel units of images in [0, 1].
        steps: Number of gradient steps, at least 1.
        random_start: Whether the search starts at a random point on the border of the
            ball, else at the image itself.
        keep: Only "best": fooled first, then the largest value.
        rises: Share of steps, in [0, 1], that must raise the objective to keep the step
            size (rho; linf and l2).
        radii: Falling multiples of epsilon, the last one 1. The search runs in a larger
            ball first, with 30 % of the steps each in the first two of three; every
            phase starts from the best point of the last one, brought into its ball.
        compat: Whether to count as the original code does, see `Differences`.
        **kwargs: See `Attack`. `step_size` is the first, largest one; None = 2 epsilon
            (l1: epsilon).

    Raises:
        ValueError: If an argument is out of range.

    References:
        Croce & Hein, 2020, arXiv:2003.01690, algorithm 1; for l1 and its `radii`
        (3, 2, 1) Croce & Hein, 2021, arXiv:2103.01208; `radii` (2, 1.5, 1) for
        segmentation: Croce et al., 2023, arXiv:2306.12941, section 3.3.

    Differences:
        The original code compares the first value of a run with 0 instead of the value
        at the start, starts l1 searches from a given point with the number of
        coordinates in which it differs from the image (one if it is the image), and
        rounds numbers of coordinates up; so does `compat`. The paper halves if less
        than `rises` of the steps rise, the code and this if at most. The last step
        needs no gradient. The first of several phases starts at a border point of the
        first ball (the original projects a Gaussian whose centre is the image instead
        of 0). The original returns the last point that fools, this one the best.
    """

    def __init__(
        self,
        epsilon: float | None = None,
        *,
        steps: int = 100,
        random_start: bool = True,
        keep: str | None = "best",
        rises: float = 0.75,
        radii: tuple[float, ...] = (1.0,),
        compat: bool = False,
        **kwargs,
    ):
        super().__init__(epsilon, random_start=random_start, keep="best", **kwargs)
        check_count("steps", steps)
        if keep not in (None, "best"):
            raise ValueError(
                f'`keep` of AutoPGD must be "best". Received: keep={keep}.'
            )
        if not 0 <= rises <= 1:
            raise ValueError(f"`rises` must lie in [0, 1]. Received: rises={rises}.")
        radii = tuple(float(radius) for radius in radii)
        falling = sorted(radii, reverse=True)
        if len(radii) not in _PHASES or radii[-1] != 1 or list(radii) != falling:
            raise ValueError(
                "`radii` must be one to three falling multiples of epsilon that end "
                f"with 1. Received: radii={radii}."
            )
        if min(_divided(steps, len(radii))) < 1:
            raise ValueError(
                "`steps` must be enough for each of `radii` to get one. "
                f"Received: steps={steps}, radii={radii}."
            )
        self.steps = int(steps)
        self.rises = float(rises)
        self.radii = radii
        self.compat = compat

    def get_config(self):
        own = ("steps", "rises", "radii", "compat")
        return super().get_config() | {name: getattr(self, name) for name in own}

    def _default_step_size(self, epsilon):
        return epsilon if self.norm == "l1" else 2.0 * epsilon

    def _start(self, images, epsilon, keys, restart):
        epsilon = epsilon * self.radii[0]
        noise = self.ball.rim(keys, images.shape[1:], epsilon)
        return self._legal(images, images + noise, epsilon)

    def _search(self, images, start, targets, objective, epsilon, step_size, keys):
        ascent = _Ascent(self, objective)
        given = {
            "images": images,
            "targets": targets,
            "epsilon": epsilon,
            "step_size": step_size,
            "room": self.ball.room(images, epsilon),
        }
        gradient, here = self._differentiated(0, start, targets, objective)
        found = ascent.counted(0, here)
        return climb(
            ascent.step,
            ascent.finish,
            given=given,
            moving=ascent.begin(0, given, here, gradient),
            found=found,
            steps=ascent.steps - 1,
            leave=self.stop_when_fooled,
        )


class _Ascent:
    """One search: the plan of all its steps, and what happens in each of them.

    Every entry of the plan is a move, or the entry into the next phase: there the best
    point so far is brought into the smaller ball and everything begins anew.

    Args:
        attack: `AutoPGD`.
        objective: `Objective`.
    """

    def __init__(self, attack: AutoPGD, objective):
        self.attack, self.objective, self.ball = attack, objective, attack.ball
        self.rule: SparseRule | HalvingRule
        if attack.norm == "l1":
            self.rule = SparseRule(self.ball, attack.compat)
        else:
            self.rule = HalvingRule(self.ball, attack.rises)
        self.phases = len(attack.radii)
        plan = []
        for phase, steps in enumerate(_divided(attack.steps, self.phases)):
            if phase:
                plan.append((phase, 0, True, False))
            windows = self.rule.windows(steps)
            plan += [(phase, each, False, not i) for i, each in enumerate(windows)]
        self.phase, self.window, self.enters, self.opens = zip(*plan, strict=True)
        self.steps = len(plan)

    def begin(self, index, given, here: Candidate, gradient) -> Trail:
        """Returns the trail of a phase that begins `here`."""
        phase = self.at(self.phase, index)
        attack = self.attack
        clean = attack.compat and not attack.random_start
        resume = (phase > 0) | (attack.compat and self.phases > 1) | clean
        return Trail(
            images=here.images,
            previous=here.images,
            gradient=gradient,
            values=tf.zeros_like(here.values) if attack.compat else here.values,
            peak_images=here.images,
            peak_gradient=gradient,
            peak_values=here.values,
            step_size=given["step_size"] * tf.gather(attack.radii, phase),
            memory=self.rule.begin(here.images - given["images"], here.values, resume),
        )

    def step(self, index, given, trail: Trail, found: Candidate):
        """Returns trail and best candidate after one entry of the plan."""
        point = self.next_point(index, given, trail)
        gradient, here = self.attack._differentiated(
            index + 1, point, given["targets"], self.objective
        )
        found = self.better(index, found, here)
        entered = self.begin(index, given, here, gradient) if self.phases > 1 else None
        trail = self.advanced(index, given, trail, here, gradient)
        if entered is not None:
            enters = self.at(self.enters, index)
            trail = tf.cond(enters, lambda: entered, lambda: trail)
        return trail, found

    def finish(self, given, trail: Trail, found: Candidate) -> Candidate:
        """Returns the best candidate after the last entry, which needs no gradient."""
        point = self.next_point(self.steps - 1, given, trail)
        last = Candidate.after(point, self.steps)
        last = last.assessed(self.objective, given["targets"])
        return self.better(self.steps - 1, found, last)

    def next_point(self, index, given, trail: Trail):
        """Returns the point, float32 [B, H, W, C], that entry `index` leads to."""
        opens = self.at(self.opens, index)
        if self.phases == 1:
            return self.rule.move(opens, trail, given["room"])
        scale = tf.gather(self.attack.radii, self.at(self.phase, index))
        room = self.ball.room(given["images"], scale * given["epsilon"])
        return tf.cond(
            self.at(self.enters, index),
            lambda: self.ball.confine(trail.peak_images, room),
            lambda: self.rule.move(opens, trail, room),
        )

    def advanced(self, index, given, trail: Trail, here: Candidate, gradient) -> Trail:
        """Returns the trail after a move that led `here`."""
        memory = self.rule.observe(trail, here.values)
        higher = here.values > trail.peak_values
        mask = per_example(higher, here.images)
        trail = trail._replace(
            images=here.images,
            previous=trail.images,
            gradient=gradient,
            values=here.values,
            peak_images=tf.where(mask, here.images, trail.peak_images),
            peak_gradient=tf.where(mask, gradient, trail.peak_gradient),
            peak_values=tf.where(higher, here.values, trail.peak_values),
            memory=memory,
        )
        window, phase = self.at(self.window, index), self.at(self.phase, index)
        limits = given["step_size"] * tf.gather(self.attack.radii, phase)
        return tf.cond(
            window > 0,
            lambda: self.rule.adapt(trail, window, given["images"], limits),
            lambda: trail,
        )

    def better(self, index, found: Candidate, here: Candidate) -> Candidate:
        """Returns the better candidate; a new phase forgets what was found before."""
        here = self.counted(index, here)
        better = found.or_better(here)
        if self.phases == 1:
            return better
        enters = self.at(self.enters, index)
        return tf.cond(enters, lambda: here, lambda: better)

    def counted(self, index, here: Candidate) -> Candidate:
        """Returns the candidate, not fooled unless found in the last, true ball."""
        if self.phases == 1:
            return here
        final = self.at(self.phase, index) == self.phases - 1
        return here._replace(fooled=here.fooled & final)

    def at(self, column: tuple, index):
        """Returns what the plan says in a column at entry `index`, int scalar."""
        return tf.gather(tf.constant(column), index)


def _divided(steps: int, phases: int) -> list[int]:
    """Returns the steps of each phase."""
    first = [math.ceil(share * steps) for share in _PHASES[phases][:-1]]
    return [*first, steps - sum(first)]
