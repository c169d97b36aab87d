"""Objectives of logits that do not care about the scale, and those with a goal."""

import tensorflow as tf

from kerobust.attacks.objectives import (
    LogitMargin,
    LogitObjective,
    class_indices,
    predicted,
)

_TINY = 1e-12  # As in the original; float32 keeps it apart from 0.


class DLR(LogitMargin):
    """Difference of logits ratio: the margin over the spread of the best logits.

    -(z_y - max of the others) / (z_1 - z_3), z_k the k-th largest logit. Neither a
    shift nor a positive factor of the logits changes it, so that overconfident victims
    keep their gradients. With two classes it is the margin itself.

    Args:
        victim: Maps images float32 [B, H, W, C] to logits [B, K], K >= 2.

    References:
        Croce & Hein, 2020, arXiv:2003.01690, equation 6.
    """

    def values(self, outputs, targets):
        return super().values(outputs, targets) / _spread(outputs, targeted=False)


class LegacyMargin(LogitObjective):
    """Clipped margin of older code that masks the label by a product with 0.

    -max(z_y - max_j (0 if j = y else z_j) + confidence, 0). The masked logit still
    takes part in the maximum, as 0: on log-probabilities, which are negative, nothing
    is left of the wrong classes, and the gradient is 0 as soon as the probability of
    the label is below exp(-confidence), 0.905. For comparisons with published numbers
    only; `LogitMargin` leaves the label out.

    Args:
        victim: Maps images float32 [B, H, W, C] to logits or log-probabilities [B, K].
        confidence: How far below the others the label must fall, at least 0.

    Raises:
        ValueError: If `confidence` is negative.

    References:
        Yang et al., 2020, arXiv:2009.14720, its code (loss "cw" of its attacks).
    """

    def __init__(self, victim, *, confidence: float = 0.1):
        if not confidence >= 0:
            raise ValueError(
                f"`confidence` must be at least 0. Received: confidence={confidence}."
            )
        super().__init__(victim)
        self.confidence = float(confidence)

    def values(self, outputs, targets):
        own = tf.one_hot(class_indices(targets), tf.shape(outputs)[-1])
        label = tf.reduce_sum(own * outputs, axis=-1)
        other = tf.reduce_max((1.0 - own) * outputs, axis=-1)
        return -tf.nn.relu(label - other + self.confidence)


class _GoalObjective(LogitObjective):
    """Base of objectives on {"labels": int [B], "goals": int [B]}.

    Fooled means any class but the label, whatever the goal. Without targets, labels are
    the predictions and goals the runners-up.
    """

    def fooled(self, outputs, targets):
        return super().fooled(outputs, self._both(targets)["labels"])

    def check_targets(self, targets):
        for each in targets.values() if isinstance(targets, dict) else ():
            super().check_targets(each)

    def predictions(self, outputs):
        labels = predicted(outputs)
        return {"labels": labels, "goals": ranked_goals(outputs, labels, 1)}

    def _margin(self, outputs, targets):
        """Returns logit of the goal minus logit of the label, [B]."""
        targets = self._both(targets)
        goals, labels = (
            tf.gather(outputs, class_indices(targets[name]), axis=1, batch_dims=1)
            for name in ("goals", "labels")
        )
        return goals - labels

    def _both(self, targets) -> dict:
        """Returns the targets; raises a `ValueError` unless they are both."""
        if isinstance(targets, dict) and targets.keys() >= {"labels", "goals"}:
            return targets
        received = f"shape {targets.shape}" if hasattr(targets, "shape") else targets
        raise ValueError(
            f"`targets` of {type(self).__name__} must be "
            '{"labels": int [B], "goals": int [B]}. To reach classes, whatever the '
            "labels, pass the classes alone and TargetedCrossEntropy(model) as victim. "
            f"Received: targets of {received}."
        )


class TargetedMargin(_GoalObjective):
    """Logit of the goal minus logit of the label, targets {"labels", "goals"}.

    Args:
        victim: Maps images float32 [B, H, W, C] to logits [B, K], K >= 2.
    """

    def values(self, outputs, targets):
        return self._margin(outputs, targets)


class TargetedDLR(_GoalObjective):
    """DLR towards a goal class, targets {"labels": int [B], "goals": int [B]}.

    -(z_y - z_goal) / (z_1 - (z_3 + z_4) / 2). Three classes use z_1 - z_3 below, two
    the margin itself.

    Args:
        victim: Maps images float32 [B, H, W, C] to logits [B, K], K >= 2.

    References:
        Croce & Hein, 2020, arXiv:2003.01690, equation 7.
    """

    def values(self, outputs, targets):
        return self._margin(outputs, targets) / _spread(outputs, targeted=True)


class TargetedCrossEntropy(LogitObjective):
    """Minus the cross-entropy of a wanted class int [B]; fooled when predicted.

    For attacks that must reach one class; `TargetedDLR` counts every wrong class.

    Args:
        victim: Maps images float32 [B, H, W, C] to logits [B, K].
    """

    def values(self, outputs, targets):
        goals = class_indices(targets)
        return -tf.nn.sparse_softmax_cross_entropy_with_logits(goals, outputs)

    def fooled(self, outputs, targets):
        return predicted(outputs) == class_indices(targets)

    def predictions(self, outputs):
        return ranked_goals(outputs, predicted(outputs), 1)


def ranked_goals(logits: tf.Tensor, labels, rank) -> tf.Tensor:
    """Returns the class with the `rank`-th largest logit beside the label, int32 [B].

    Args:
        logits: float32 [B, K].
        labels: int [B].
        rank: int scalar, 1 to K - 1.
    """
    logits = tf.convert_to_tensor(logits)
    own = tf.one_hot(labels, tf.shape(logits)[1], True, False, dtype=bool)
    others = tf.where(own, logits.dtype.min, logits)
    return tf.argsort(others, axis=1, direction="DESCENDING", stable=True)[:, rank - 1]


def _spread(outputs: tf.Tensor, targeted: bool):
    """Returns the denominator of the (targeted) difference of logits ratio, [B]."""
    classes = outputs.shape[-1]
    if classes is not None and classes < 3:
        return 1.0
    best = tf.math.top_k(outputs, 3 if classes == 3 or not targeted else 4).values
    lower = best[:, 2] if best.shape[1] == 3 else (best[:, 2] + best[:, 3]) / 2
    return best[:, 0] - lower + _TINY
