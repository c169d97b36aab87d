"""Several classifiers as one."""

import inspect
from collections.abc import Callable, Sequence

import tensorflow as tf

from kerobust.config import UserError, check_name


def _log_mean_probability(logits: tf.Tensor) -> tf.Tensor:
    """Returns log(mean over members of softmax), exact where probabilities are tiny."""
    count = tf.cast(tf.shape(logits)[0], logits.dtype)
    logs = tf.nn.log_softmax(logits, axis=-1)
    return tf.reduce_logsumexp(logs, axis=0) - tf.math.log(count)


def _mean_logits(logits: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(logits, axis=0)


def _votes(logits: tf.Tensor) -> tf.Tensor:
    """Returns the share of members that choose each class; ties keep their order."""
    chosen = tf.one_hot(tf.argmax(logits, axis=-1), tf.shape(logits)[-1])
    return tf.reduce_mean(chosen, axis=0)


COMBINATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "probabilities": _log_mean_probability,
    "logits": _mean_logits,
    "votes": _votes,
}


def _taken(member, given: dict) -> dict:
    """Returns those of the arguments that a member's `call` takes."""
    parameters = inspect.signature(member.call).parameters
    every = any(each.kind == each.VAR_KEYWORD for each in parameters.values())
    return {name: value for name, value in given.items() if every or name in parameters}


@tf.keras.saving.register_keras_serializable("kerobust")
class Ensemble(tf.keras.Model):
    """Classifiers that answer together.

    Attacks go through it as through any model. "votes" lets no gradient pass: attack it
    through `kerobust.attacks.ReweightedEnsemble`, or by black-box attacks.

    Args:
        members: At least one model, images -> logits [B, K], all with the same K.
        combine: "probabilities": log of the mean probability, so that cross-entropy is
            the negative log-likelihood of the mixture; "logits": the mean; "votes": the
            share of members that choose a class. One member alone answers by itself.

    Call arguments:
        images: float32 [B, H, W, C] in [0, 1].
        training, keys: Passed to the members whose `call` takes them.

    Returns:
        float32 [B, K].

    Raises:
        UserError: If there is no member, or `combine` is unknown.

    References:
        Yang et al., 2020, arXiv:2009.14720, and its code (probabilities).

    Differences:
        The code floors the mean probability at 1e-40, which float32 on many machines
        takes for 0; here no floor is needed.
    """

    def __init__(
        self,
        members: Sequence[tf.keras.Model],
        *,
        combine: str = "probabilities",
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        check_name("combine", combine, COMBINATIONS)
        if not members:
            raise UserError("`members` must hold a model. Received: none.")
        self.members = list(members)
        self.combine = combine
        self.built = True

    def call(self, images, training=None, keys=None):
        logits = self.member_logits(images, training=training, keys=keys)
        return logits[0] if len(self.members) == 1 else self.combined(logits)

    def member_logits(self, images, training=None, keys=None) -> tf.Tensor:
        """Returns what every member says, float32 [N, B, K].

        Args:
            images, training, keys: As of a call.
        """
        given = {"training": training, "keys": keys}
        found = [member(images, **_taken(member, given)) for member in self.members]
        return tf.stack(found)

    def combined(self, logits: tf.Tensor) -> tf.Tensor:
        """Returns the answer [B, K] of members that say `logits` [N, B, K]."""
        return COMBINATIONS[self.combine](logits)

    def get_config(self):
        members = [
            tf.keras.saving.serialize_keras_object(member) for member in self.members
        ]
        return {"members": members, "combine": self.combine}

    @classmethod
    def from_config(cls, config):
        read = tf.keras.saving.deserialize_keras_object
        members = [read(member) for member in config["members"]]
        return cls(members, combine=config["combine"])
