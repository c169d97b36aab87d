"""Image classification: loss, attack objective, exact counts."""

import tensorflow as tf

from kerobust.attacks import CrossEntropy


class Classification:
    """One label per image.

    Args:
        num_classes: Number of classes, at least 2.
        label_smoothing: Probability mass spread over all classes in the training loss;
            attacks always use the hard labels.
    """

    def __init__(self, num_classes: int, label_smoothing: float = 0.0):
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing

    def loss(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Returns the mean cross-entropy of logits [B, K] and labels int [B]."""
        hard = tf.one_hot(labels, self.num_classes)
        smooth = self.label_smoothing
        soft = hard * (1.0 - smooth) + smooth / self.num_classes
        losses = tf.nn.softmax_cross_entropy_with_logits(soft, logits)
        return tf.reduce_mean(losses)

    def objective(self, model) -> CrossEntropy:
        """Returns what an attack on `model` maximises."""
        return CrossEntropy(model)

    def correct(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Returns bool [B]."""
        predictions = tf.argmax(logits, axis=-1, output_type=tf.int32)
        return predictions == tf.cast(labels, tf.int32)
