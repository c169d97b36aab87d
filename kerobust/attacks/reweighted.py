"""Ensembles attacked through their members, each as much as it still counts."""

import math

import tensorflow as tf

from kerobust.attacks.objectives import LogitObjective, class_indices, infer, predicted
from kerobust.attacks.victim import Victim
from kerobust.config import check_name

# What the original's scripts divide logits by in weights: 1 / `float_dis`.
TEMPERATURES = {"probabilities": 5.0, "votes": 1.25, "logits": math.inf}
_WIDEST = 10.0  # Largest gap between the best two softened logits of a member.
_TINY = 1e-12  # In place of a gap of 0.
_ENSEMBLE = ("member_logits", "combined", "combine")


class ReweightedEnsemble(LogitObjective):
    """Cross-entropy of members' logits, mixed by what each adds to the ensemble's fall.

    The mean of saturated probabilities hides gradients, and votes have none; logits
    over the gap between the best two hide nothing. A member's share is what its logit
    of the best wrong class c adds to log P_c - log P_y, P the mean of the members'
    softened probabilities p, y the label: p_ic (p_iy / P_y + (1 - p_ic) / P_c). Fooled
    members get none, unless logits are averaged. Fooled is the ensemble itself.

    For any attack that does not steer by values, which do not grow steadily:
    `DecayingPGD`, `PGD`. `Mora` is the whole attack of the paper.

    Args:
        victim: `kerobust.models.Ensemble`, or what has its `member_logits`, `combined`
            and `combine`; or the `Victim` of one.
        balance: Share of the members, in [0, 1]; the rest is the ensemble's answer.
        temperature: Divides the logits of which weights are made; above 0, larger =
            more equal weights. None = as the original, by how members are combined:
            probabilities 5, votes 1.25, logits infinity.

    Raises:
        TypeError: If `victim` is no ensemble.
        ValueError: If an argument is out of range.

    References:
        Yu, Gao & Xu, 2022, arXiv:2211.08008, and its code.

    Differences:
        The code makes p from raw logits over the temperature and P from softened ones;
        here both from logits / (temperature s), so that the weights are the derivative
        they are meant to be, at any scale (s is the widest gap of a member over 10, at
        least 1). While the ensemble is right the code's weights have a wrong sign
        inside, p_ic ((1 + p_ic) / P_c - p_iy / P_y); it counts the answer as one more
        member; and it adds 1e-8 to the sum of weights instead of using their
        logarithms. If all members are fooled but not the ensemble, none is left out
        here, all in the code. A gap of 0 counts as 1e-12 here.
    """

    def __init__(
        self, victim, *, balance: float = 0.5, temperature: float | None = None
    ):
        ensemble = victim.model if isinstance(victim, Victim) else victim
        check_ensemble("victim", ensemble)
        check_name("combine", ensemble.combine, TEMPERATURES)
        if not 0 <= balance <= 1:
            raise ValueError(
                f"`balance` must lie in [0, 1]. Received: balance={balance}."
            )
        if temperature is None:
            temperature = TEMPERATURES[ensemble.combine]
        if not temperature > 0:
            raise ValueError(
                f"`temperature` must be above 0. Received: temperature={temperature}."
            )
        super().__init__(victim)
        self.ensemble = ensemble
        self.balance, self.temperature = float(balance), float(temperature)

    def outputs(self, images):
        """Returns what every member says, float32 [B, N, K]."""
        found = _swapped(infer(self.victim.member_logits, images))
        self.classes = found.shape[-1]
        return found

    def values(self, outputs, targets):
        labels = class_indices(targets)
        mixed = self.mixture(outputs, labels)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, mixed)

    def fooled(self, outputs, targets):
        return self.predictions(outputs) != class_indices(targets)

    def predictions(self, outputs):
        return predicted(self.ensemble.combined(_swapped(outputs)))

    def mixture(self, outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Returns mixed logits, float32 [B, K]; gaps and weights count as constants.

        Args:
            outputs: Members' logits, float32 [B, N, K].
            labels: int32 [B].
        """
        answer = self._answer(outputs)
        weights = self.weights(outputs, labels)[:, :, tf.newaxis]
        members = tf.reduce_sum(weights * _softened(outputs), axis=1)
        return (1 - self.balance) * answer / _gap(answer) + self.balance * members

    def weights(self, outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Returns the share of every member, float32 [B, N]; rows add up to 1.

        Args:
            outputs: Members' logits, float32 [B, N, K].
            labels: int32 [B].
        """
        logs = tf.nn.log_softmax(_softened(outputs) / self.temperature)
        means = _log_mean(logs)
        own = tf.one_hot(labels, tf.shape(means)[1], True, False, dtype=bool)
        wrong = predicted(tf.where(own, means.dtype.min, means))
        of_label, of_wrong = _of(logs, labels), _of(logs, wrong)
        less = of_label - _of(means[:, tf.newaxis], labels)
        more = tf.math.log1p(-tf.exp(of_wrong)) - _of(means[:, tf.newaxis], wrong)
        found = of_wrong + tf.reduce_logsumexp(tf.stack([less, more]), axis=0)
        if self.ensemble.combine != "logits":
            right = predicted(outputs) == labels[:, tf.newaxis]
            right |= ~tf.reduce_any(right, axis=1, keepdims=True)
            found = tf.where(right, found, -math.inf)
        return tf.stop_gradient(tf.nn.softmax(found))

    def _answer(self, outputs):
        """Returns what the ensemble says [B, K]; of votes, what stands behind them."""
        if self.ensemble.combine == "votes":
            return _log_mean(tf.nn.log_softmax(outputs / _gap(outputs)))
        return self.ensemble.combined(_swapped(outputs))


def check_ensemble(name: str, model) -> None:
    """Raises a `TypeError` unless a model says what each of its members says."""
    if not all(hasattr(model, each) for each in _ENSEMBLE):
        raise TypeError(
            f"`{name}` must be a kerobust.models.Ensemble or an object that has its "
            f"{', '.join(_ENSEMBLE)}; Ensemble([first, second]) makes one of models. "
            f"Received: {name}={model}."
        )


def _softened(outputs: tf.Tensor) -> tf.Tensor:
    """Returns members' logits [B, N, K] over a scale per example, gaps at most 10."""
    widest = tf.reduce_max(_gap(outputs), axis=1, keepdims=True)
    return outputs / tf.maximum(widest / _WIDEST, 1.0)


def _gap(logits: tf.Tensor) -> tf.Tensor:
    """Returns the best minus the second logit, [..., 1], above 0 and constant."""
    best = tf.math.top_k(tf.stop_gradient(logits), 2).values
    return tf.maximum(best[..., :1] - best[..., 1:], _TINY)


def _log_mean(logs: tf.Tensor) -> tf.Tensor:
    """Returns log(mean over members of exp), [B, K], of logarithms [B, N, K]."""
    count = tf.cast(tf.shape(logs)[1], logs.dtype)
    return tf.reduce_logsumexp(logs, axis=1) - tf.math.log(count)


def _of(values: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Returns what all members [B, N, K] have at classes int [B], [B, N]."""
    return tf.gather(values, classes[:, tf.newaxis], axis=2, batch_dims=1)[:, :, 0]


def _swapped(logits: tf.Tensor) -> tf.Tensor:
    """Returns [B, N, K] of [N, B, K], and back."""
    return tf.transpose(logits, [1, 0, 2])
