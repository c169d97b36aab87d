"""Semantic segmentation: head, loss, attacks, counts of pixels."""

import functools

import numpy as np
import tensorflow as tf

from kerobust.attacks import SegPGD
from kerobust.attacks.attempts import Attempt
from kerobust.attacks.dense import PixelCrossEntropy
from kerobust.attacks.dense_losses import JensenShannon, MaskedCrossEntropy
from kerobust.config import UserError
from kerobust.losses.pixels import pixel_cross_entropy
from kerobust.models.dense_heads import DensePredictor, SegmentationHead
from kerobust.models.sliding import Windowed
from kerobust.tasks.base import Effort, Task, climbing
from kerobust.tasks.counts import ClassCounts, ious

_ROUNDS = 20  # More than a greedy search over images ever needs.


class Segmentation(Task):
    """One class per pixel.

    Args:
        num_classes: Number of classes, at least 2.
        void: Class that does not count, see `ClassCounts`: the convention of the
            cross-task benchmark's code is 0, the usual one None.

    Raises:
        UserError: If there is no such class.
    """

    NAME, TARGET, MAIN = "segmentation", "masks", "mean_iou"
    ATTACK, OBJECTIVE = SegPGD, PixelCrossEntropy

    def __init__(self, num_classes: int, void: int | None = None):
        if void is not None and not 0 <= void < num_classes:
            raise UserError(
                f"`void` (--benchmark.void) must be a class from 0 to "
                f"{num_classes - 1}, or empty. Received: void={void}. A value of the "
                "mask files is left out by --data.ignore."
            )
        self.num_classes, self.void = num_classes, void

    def predictor(self, encoder):
        return DensePredictor(encoder, SegmentationHead(self.num_classes))

    def loss(self, outputs, targets):
        """Returns the mean cross-entropy over all labelled pixels of the batch."""
        known = tf.reduce_sum(tf.cast(targets >= 0, tf.float32), axis=[1, 2])
        values = pixel_cross_entropy(outputs, targets)
        return tf.math.divide_no_nan(
            tf.reduce_sum(values * known), tf.reduce_sum(known)
        )

    def counted(self, targets):
        if self.void is None:
            return targets
        return np.where(targets == self.void, -1, targets).astype(targets.dtype)

    def known(self, targets):
        return bool((self.counted(targets) >= 0).any())

    def check(self, targets):
        if not (targets >= 0).any():
            raise UserError(
                "A data set for segmentation must have labelled pixels. Received: "
                f"{len(targets)} masks without any. Check which value means no label."
            )
        outside = targets[(targets >= self.num_classes) | (targets < -1)]
        if outside.size:
            raise UserError(
                f"Masks must hold classes from 0 to {self.num_classes - 1}, or -1 "
                f"where there is no label. Received: label {outside[0]}. Raise the "
                "number of classes, or write -1 for that label."
            )

    def records(self, outputs, targets):
        """Returns int64 [B, 3, K], see `ClassCounts`."""
        found = []
        predictions = self.predictions(outputs).numpy()
        for labels, prediction in zip(np.asarray(targets), predictions, strict=True):
            image = ClassCounts(self.num_classes, self.void)
            image.update(labels, prediction)
            found.append(image.sums)
        return np.stack(found)

    def metrics(self, total):
        counts = ClassCounts(self.num_classes, self.void, total)
        return {
            "mean_iou": counts.mean_iou,
            "pixel_accuracy": counts.pixel_accuracy,
            "mean_recall": counts.mean_recall,
        }

    def main(self, totals):
        shares = ious(totals, self.void)
        known = ~np.isnan(shares)
        total = np.where(known, shares, 0.0).sum(axis=1)
        found = np.full(len(total), np.nan)
        np.divide(total, known.sum(axis=1), out=found, where=known.any(axis=1))
        return found

    def worst(self, tried):
        """Returns per image the counts that make the data set's mean IoU smallest.

        Greedy: from the worst attack on, one image after the other takes the counts
        that lower it most, until none does.

        References:
            Croce et al., 2024, arXiv:2306.12941, section 3.4.
        """
        records = np.stack(tried)
        means = self.main(records.sum(axis=1))
        chosen = np.full(records.shape[1], int(np.argmin(means)))
        total = records[chosen[0]].sum(axis=0)
        for _ in range(_ROUNDS):
            before = chosen.copy()
            for image in range(len(chosen)):
                rest = total - records[chosen[image], image]
                found = self.main(rest + records[:, image])
                if found.min() < found[chosen[image]]:
                    chosen[image] = int(np.argmin(found))
                total = rest + records[chosen[image], image]
            if np.array_equal(before, chosen):
                break
        return records[chosen, np.arange(len(chosen))]

    def as_classifier(self, model, images, targets):
        """Returns the model at the middle pixel, of the middle window if it has some.

        Images without a label there are left out.
        """
        if isinstance(model, Windowed):
            images, targets = (
                _middle(model.windows(tf.constant(each))) for each in (images, targets)
            )
            model = model.predictor
        row, column = (size // 2 for size in images.shape[1:3])
        labels = np.asarray(targets)[:, row, column]
        known = (labels >= 0) & (labels != self.void)
        return _AtPixel(model, row, column), np.asarray(images)[known], labels[known]

    def suite(self, effort: Effort) -> list[Attempt]:
        """Returns Auto-PGD on masked, balanced masked cross-entropy and Jensen-Shannon.

        References:
            Croce et al., 2024, arXiv:2306.12941 (SEA: 300 steps each).
        """
        balanced = functools.partial(MaskedCrossEntropy, balanced=True)
        kinds = {"masked": MaskedCrossEntropy, "balanced": balanced}
        kinds["jensen_shannon"] = JensenShannon
        return [climbing(name, kind, effort) for name, kind in kinds.items()]


class _AtPixel(tf.keras.Model):
    """The logits of a segmentation at one pixel, [B, K]."""

    def __init__(self, model, row: int, column: int):
        super().__init__()
        self._model, self._row, self._column = model, row, column

    def call(self, images, training=None):
        return self._model(images, training=training)[:, self._row, self._column]


def _middle(windows: list[tf.Tensor]) -> tf.Tensor:
    return windows[len(windows) // 2]
