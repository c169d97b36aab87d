"""Several attacks on the same images, side by side."""

from collections.abc import Sequence

import tensorflow as tf

from kerobust.attacks.balls import NormBall
from kerobust.attacks.base import Attack
from kerobust.attacks.candidates import Candidate
from kerobust.attacks.union_ball import UnionBall, drawn_number
from kerobust.randomness import fold_in

_COMBINE = ("max", "random")


@tf.keras.saving.register_keras_serializable("kerobust")
class Union(Attack):
    """Several attacks on the same images, in whatever norms and radii.

    Its ball is the `UnionBall` of the attacks' balls (the largest radius of each norm),
    in which every result lies, since it lies in the ball of the attack that made it.
    All attacks climb the same objective, without which their results could not be
    compared; each keeps its own settings, step size included, but not its seed.

    In a `train_step`, "max" is the max strategy of Tramer & Boneh and "random" costs
    one attack. Their "average" strategy is a matter of the training loss: average it
    over the images of each attack. A robust example withstands every member: evaluate
    with "max", `stop_when_fooled` and `skip_misclassified`.

    Args:
        attacks: The attacks, at least one, each with an epsilon above 0.
        epsilon: Factor of all the attacks' radii.
        combine: "max": of each example the result that fools, then the one with the
            largest value; "random": one attack per example, drawn from its key.
        skip_misclassified: See `Attack`.
        stop_when_fooled: Whether an example that one attack has fooled is spared the
            others: the same success, smaller loss.
        seed: See `Attack`.
        name, trainable: Keras' own.

    Call arguments:
        step_size: Only None: each attack has its own.

    Raises:
        ValueError, TypeError: For arguments out of range.

    References:
        Tramer & Boneh, 2019, arXiv:1904.13000, section 3.

    Example:
        attack = Union([PGD(8 / 255), PGD(0.5, norm="l2"), SparsePGD(12.0)])
    """

    def __init__(
        self,
        attacks: Sequence[Attack],
        *,
        epsilon: float = 1.0,
        combine: str = "max",
        skip_misclassified: bool = False,
        stop_when_fooled: bool = False,
        seed: int | None = None,
        name: str | None = None,
        trainable: bool = True,
    ):
        super().__init__(
            epsilon,
            norm="l2",  # Its ball is replaced by the one below.
            keep="best",
            skip_misclassified=skip_misclassified,
            stop_when_fooled=stop_when_fooled,
            seed=seed,
            name=name,
            trainable=trainable,
        )
        self.norm = UnionBall.name
        if combine not in _COMBINE:
            raise ValueError(
                f"`combine` must be one of: {', '.join(_COMBINE)}. "
                f"Received: combine={combine}."
            )
        self.attacks = _members(attacks)
        self.combine = combine

    @property
    def ball(self) -> NormBall:
        """The union of the attacks' balls; of one norm the largest."""
        radii: dict[str, float] = {}
        for attack in self.attacks:
            ball = attack.ball
            own = ball.radii if isinstance(ball, UnionBall) else {ball.name: 1.0}
            for norm, radius in own.items():
                given = radius * (attack.epsilon or 0.0)  # `_members` lets none pass.
                radii[norm] = max(radii.get(norm, 0.0), given)
        return UnionBall(radii)

    def __call__(self, images, targets=None, victim=None, **options):
        if options.get("step_size") is not None:
            raise ValueError(
                "`step_size` of Union must be None: each attack has its own. "
                f"Received: step_size={options['step_size']}."
            )
        return super().__call__(images, targets, victim, **options)

    def get_config(self):
        config = super().get_config()
        own = ("epsilon", "skip_misclassified", "stop_when_fooled", "seed")
        config = {name: config[name] for name in ("name", "trainable", *own)}
        packed = [tf.keras.saving.serialize_keras_object(each) for each in self.attacks]
        return config | {"attacks": packed, "combine": self.combine}

    @classmethod
    def from_config(cls, config):
        unpack = tf.keras.saving.deserialize_keras_object
        return cls(
            **{**config, "attacks": [unpack(each) for each in config["attacks"]]}
        )

    def _search(self, images, start, targets, objective, epsilon, step_size, keys):
        found = Candidate.worst(images)
        count = len(self.attacks)
        drawn = drawn_number(fold_in(keys, "attack"), count)
        for index, attack in enumerate(self.attacks):
            # With keys of its own a member does the same whatever the others are.
            given = (images, targets, epsilon, fold_in(keys, index))
            if self.combine == "random":
                found = _tried(attack, objective, found, given, drawn == index)
            elif self.stop_when_fooled and index:
                found = _tried(attack, objective, found, given, ~found.fooled)
            else:
                found = found.or_better(_attacked(attack, objective, *given))
        return found


def _members(attacks: Sequence[Attack]) -> list[Attack]:
    """Returns the attacks as a list; raises unless they make a union."""
    attacks = list(attacks)
    if not attacks or not all(isinstance(each, Attack) for each in attacks):
        raise TypeError(
            "`attacks` must be a list of at least one Attack. "
            f"Received: attacks={attacks}."
        )
    epsilons = [attack.epsilon for attack in attacks]
    if not all(epsilons):
        raise ValueError(
            "`attacks` must have an epsilon above 0. "
            f"Received: attacks with epsilon={epsilons}."
        )
    return attacks


def _attacked(attack, objective, images, targets, epsilon, keys) -> Candidate:
    """Returns what a member of a union finds, judged, for factors epsilon [B]."""
    radius = epsilon * attack.epsilon
    if attack.step_size is None:
        step_size = attack._default_step_size(radius)
    else:
        step_size = tf.fill(tf.shape(radius), attack.step_size)
    given = (images, targets, radius, step_size, keys)
    adversarial, (fooled, values, _, steps) = attack._run(objective, True, *given)
    return Candidate(adversarial, steps, values, fooled)


def _tried(attack, objective, found: Candidate, given, mask) -> Candidate:
    """Returns the better of what was found and an attack on rows in `mask` alone."""
    rows = tf.cast(tf.where(mask)[:, 0], tf.int32)

    def attacked():
        def take(each):
            return tf.gather(each, rows)

        mine = tf.nest.map_structure(take, given)
        better = _attacked(attack, objective, *mine)
        return found.replaced(
            rows, tf.nest.map_structure(take, found).or_better(better)
        )

    return tf.cond(tf.size(rows) > 0, attacked, lambda: found)
