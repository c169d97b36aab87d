"""Square: random search with square windows, without gradients."""

import tensorflow as tf

from kerobust.attacks.balls import per_example
from kerobust.attacks.base import Attack
from kerobust.attacks.candidates import Candidate
from kerobust.attacks.checks import check_count
from kerobust.attacks.objectives import LogitMargin
from kerobust.attacks.standing import climb
from kerobust.attacks.windows import BLOCK, Query, Windows, tiles, window_shares
from kerobust.randomness import fold_in, uniform


@tf.keras.saving.register_keras_serializable("kerobust")
class Square(Attack):
    """Random search: changes a square window and keeps what is better for it.

    It asks the victim for outputs only, never for gradients, and so tells whether a
    victim merely hides its gradients. Costs `queries` + 1 forwards.

    linf: starts from vertical stripes of +-epsilon, then sets a window to +-epsilon.
    l2, l1: starts from tiles of pyramids, then moves the change in one window, with
    what is left of epsilon, into a pyramid in another. Windows become smaller.

    Args:
        epsilon: Radius of the ball, pixel units of images in [0, 1].
        queries: Number of changes tried, at least 1.
        initial_share: Share of the pixels in the first windows, above 0, at most 1.
        rescale_schedule: Whether windows shrink over `queries` as over 10,000; else
            after fixed numbers of queries, whatever `queries` is.
        random_start: Whether the search starts from stripes or tiles; else from the
            images themselves.
        compat: Whether windows and tiles miss the same pixels as in AutoAttack.
        keep: "best": there are no other points to keep.
        **kwargs: See `Attack`. There is no `step_size`; `precision` is "float32".

    Raises:
        ValueError: For `queries` or `initial_share` out of range, and for what `Attack`
            refuses.

    References:
        Andriushchenko et al., 2020, arXiv:1912.00049, algorithms 1 to 3; l1: Croce &
        Hein, 2021, arXiv:2103.01208.

    Differences:
        From AutoAttack. Each example draws windows and signs of its own, not one for
        the batch. Images may have any height and width, not only H = W >= 5. Success is
        the objective's (another prediction than the label); there a margin of 0 counts.
        A fooled example goes on, to larger values, without `stop_when_fooled`. Unless
        `compat`: windows reach the last row and column, which AutoAttack's never do;
        tiles reach the border; l1 tiles of less than epsilon are scaled up.
    """

    default_objective = LogitMargin

    def __init__(
        self,
        epsilon: float | None = None,
        *,
        queries: int = 5000,
        initial_share: float = 0.8,
        rescale_schedule: bool = False,
        compat: bool = False,
        random_start: bool = True,
        keep: str | None = "best",
        **kwargs,
    ):
        keep = keep or "best"
        super().__init__(epsilon, random_start=random_start, keep=keep, **kwargs)
        check_count("queries", queries)
        if not 0 < initial_share <= 1:
            raise ValueError(
                "`initial_share` must be above 0 and at most 1. "
                f"Received: initial_share={initial_share}."
            )
        self._refuse_all_but(keep="best", precision="float32", step_size=None)
        self.queries = int(queries)
        self.initial_share = float(initial_share)
        self.rescale_schedule = rescale_schedule
        self.compat = compat

    def _refuse_all_but(self, **only):
        for name, value in only.items():
            if getattr(self, name) != value:
                raise ValueError(
                    f"`{name}` of Square must be {value}: it tries changes of size "
                    "epsilon, each from the best point, as judged in float32. "
                    f"Received: {name}={getattr(self, name)}."
                )

    def get_config(self):
        names = ("queries", "initial_share", "rescale_schedule", "compat")
        return super().get_config() | {name: getattr(self, name) for name in names}

    def _start(self, images, epsilon, keys, restart):
        shape = images.shape[1:]
        if self.norm == "linf":
            up = uniform(keys, [1, *shape[1:]]) < 0.5
            radius = per_example(epsilon, images)
            return self._legal(images, images + tf.where(up, radius, -radius), epsilon)
        change = tiles(keys, shape, self.norm, whole=not self.compat)
        scale = tf.math.divide_no_nan(epsilon, self.ball.norm(change))
        if self.norm == "l1":  # Of more than epsilon the projection keeps the tips.
            scale = tf.ones_like(scale) if self.compat else tf.maximum(scale, 1.0)
        return self._legal(
            images, images + change * per_example(scale, change), epsilon
        )

    def _search(self, images, start, targets, objective, epsilon, step_size, keys):
        shares = window_shares(self.queries, self.initial_share, self.rescale_schedule)
        windows = Windows(images.shape[1:], self.norm, shares, not self.compat)
        changed = self._set if self.norm == "linf" else self._move

        def step(index, given, block, found):
            targets, keys, room = given
            block = tf.cond(
                tf.equal(index % BLOCK, 0),
                lambda: windows.block(index, keys),
                lambda: block,
            )
            query = Query(*(tf.gather(each, index % BLOCK, axis=1) for each in block))
            proposal = changed(windows, index, query, found.images, room)
            here = Candidate.after(proposal, index + 1)
            return block, found.or_better(here.assessed(objective, targets))

        first = Candidate.after(start, 0).assessed(objective, targets)
        keys = fold_in(keys, "windows")
        return climb(
            step,
            lambda given, block, found: found,
            given=(targets, keys, self.ball.room(images, epsilon)),
            moving=windows.none(keys),
            found=Candidate.worst(start).or_better(first),
            steps=self.queries,
            leave=self.stop_when_fooled,
        )

    def _set(self, windows, index, query, current, room):
        """Returns the images with each channel of the window at one end of the ball."""
        low, high = room
        inside = windows.inside(index, query.corners[:, 0])
        # What AutoAttack gets by adding +-2 epsilon and clipping.
        end = tf.where(query.up[:, tf.newaxis, tf.newaxis], high, low)
        return tf.where(inside, end, current)

    def _move(self, windows, index, query, current, room):
        """Returns the images with the change in the second window moved to the first.

        There it is added to a pyramid. "Mass" is the sum of squares in l2, of absolute
        values in l1, per channel [B, 1, 1, C]: afterwards it adds up to the ball's.
        """
        images, epsilon = room
        change = current - images
        first, second = (
            tf.cast(windows.inside(index, query.corners[:, number]), tf.float32)
            for number in (0, 1)
        )
        either = tf.maximum(first, second)
        pattern = windows.pattern(index, query.corners[:, 0], query.turned[:, 0])
        pattern *= tf.where(query.up, 1.0, -1.0)[:, tf.newaxis, tf.newaxis]
        old = change * first
        pattern += tf.math.divide_no_nan(old, self._root(self._mass(old)))

        radius = per_example(epsilon, images)
        whole = tf.reduce_sum(self._mass(change), axis=3, keepdims=True)
        # Rounding must not lead out of the l1 ball: back in costs more than all else.
        most = radius**2 if self.norm == "l2" else radius * (1 - 1e-6)
        unused = tf.maximum(most - whole, 0.0) / windows.channels
        mass = unused + self._mass(change * either)
        if self.norm == "l1":  # More than there is; the projection chooses.
            mass *= windows.channels
        scale = self._root(tf.math.divide_no_nan(mass, self._mass(pattern)))
        change += pattern * scale - change * either
        return self.ball.confine(images + change, room)

    def _mass(self, change):
        sizes = tf.square(change) if self.norm == "l2" else tf.abs(change)
        return tf.reduce_sum(sizes, axis=[1, 2], keepdims=True)

    def _root(self, mass):
        return tf.sqrt(mass) if self.norm == "l2" else mass
