"""Image classification: loss, attacks, exact counts."""

import numpy as np
import tensorflow as tf

from kerobust.attacks import DLR, CrossEntropy, LogitMargin
from kerobust.attacks.attempts import Attempt
from kerobust.models.heads import Classifier, ClassifierHead
from kerobust.tasks.base import Effort, Task, climbing

_READ = {"cls": "cls", "last4_cls": "cls", "mean": "patches", "cls_mean": "both"}


class Classification(Task):
    """One label per image.

    Args:
        num_classes: Number of classes, at least 2.
        label_smoothing: Probability mass spread over all classes in the training loss;
            attacks always use the hard labels.
        pooling: What the head reads, see `ClassifierHead`.
    """

    NAME, TARGET, MAIN = "classification", "labels", "accuracy"
    OBJECTIVE = CrossEntropy

    def __init__(
        self, num_classes: int, label_smoothing: float = 0.0, pooling: str = "cls"
    ):
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.pooling = pooling
        self.part = _READ[pooling]

    def predictor(self, encoder):
        head = ClassifierHead(self.num_classes, pooling=self.pooling, norm=False)
        return Classifier(encoder, head)

    def loss(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns the mean cross-entropy of logits [B, K] and labels int [B]."""
        hard = tf.one_hot(targets, self.num_classes)
        smooth = self.label_smoothing
        soft = hard * (1.0 - smooth) + smooth / self.num_classes
        losses = tf.nn.softmax_cross_entropy_with_logits(soft, outputs)
        return tf.reduce_mean(losses)

    def correct(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Returns bool [B]."""
        return self.predictions(logits) == tf.cast(labels, tf.int32)

    def records(self, outputs, targets):
        """Returns float64 [B, 2]: 1, and whether it is right."""
        right = self.correct(outputs, targets).numpy()
        return np.stack([np.ones(len(right)), right], axis=1)

    def metrics(self, total):
        return {"accuracy": float(self.main(total[np.newaxis])[0])}

    def main(self, totals):
        return totals[:, 1] / np.maximum(totals[:, 0], 1)

    def worst(self, tried):
        return np.min(tried, axis=0)

    def as_classifier(self, model, images, targets):
        return model, images, targets

    def suite(self, effort: Effort) -> list[Attempt]:
        """Returns Auto-PGD on cross-entropy, margin and, from 3 classes, DLR."""
        kinds = {"apgd_ce": CrossEntropy, "apgd_margin": LogitMargin}
        if self.num_classes >= 3:
            kinds["apgd_dlr"] = DLR
        return [climbing(name, kind, effort) for name, kind in kinds.items()]
