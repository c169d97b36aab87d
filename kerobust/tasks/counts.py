"""Exact counts of segmentations and depth maps, and what follows from them."""

import numpy as np

from kerobust.config import UserError


class ClassCounts:
    """Pixels of every class, counted over a whole data set.

    Args:
        num_classes: K.
        void: Class that means "nothing in particular": pixels with this label do not
            count, and it has no part in means; predicting it elsewhere is an error.
            None = an ordinary class.
        sums: int64 [3, K], pixels that are right, that have the label, and that are
            predicted to be of each class; None = 0.

    Differences:
        The cross-task benchmark's code has void=0 everywhere, so its VOC numbers leave
        the background out, which the usual convention counts. Its "mean
        accuracy" divides by predicted pixels: here `mean_precision`.
    """

    def __init__(self, num_classes: int, void: int | None = None, sums=None):
        self.num_classes, self.void = num_classes, void
        self.sums = np.zeros([3, num_classes], np.int64) if sums is None else sums

    def update(self, labels, predictions) -> None:
        """Counts the pixels of an image or of a batch.

        Args:
            labels: int [...]; -1 = no label, does not count.
            predictions: int, the same shape, 0 to K - 1.

        Raises:
            UserError: If the shapes differ, or a label is no class.
        """
        labels, predictions = np.asarray(labels), np.asarray(predictions)
        if labels.shape != predictions.shape:
            raise UserError(
                "Masks and predictions must have the same size. Received: masks of "
                f"shape {labels.shape}, predictions of shape {predictions.shape}."
            )
        shown = (labels != -1) & (labels != (-1 if self.void is None else self.void))
        labels, predictions = labels[shown], predictions[shown]
        if labels.size and not 0 <= labels.min() <= labels.max() < self.num_classes:
            wrong = labels[(labels < 0) | (labels >= self.num_classes)]
            raise UserError(
                f"Masks must hold classes from 0 to {self.num_classes - 1}, or -1 "
                f"where there is no label. Received: label {wrong[0]} on {wrong.size} "
                "pixels. Raise the number of classes, or write -1 for that label."
            )
        parts = (labels[labels == predictions], labels, predictions)
        self.sums += [np.bincount(part, minlength=self.num_classes) for part in parts]

    @property
    def intersection_over_union(self) -> np.ndarray:
        """float64 [K]; NaN for `void` and for what is neither there nor predicted."""
        return ious(self.sums[np.newaxis], self.void)[0]

    @property
    def mean_iou(self) -> float:
        """Mean intersection over union of the classes that occur."""
        return _mean(self.intersection_over_union)

    @property
    def pixel_accuracy(self) -> float:
        """Share of the pixels that are right."""
        right, labelled, _ = self.sums
        return float(right.sum() / max(labelled.sum(), 1))

    @property
    def mean_recall(self) -> float:
        """Mean over classes of the share of their pixels that is found."""
        right, labelled, _ = self.sums
        return _mean(_shares(right, labelled, self.void))

    @property
    def mean_precision(self) -> float:
        """Mean over classes of the share of what is predicted that is right."""
        right, _, predicted = self.sums
        return _mean(_shares(right, predicted, self.void))


def ious(sums: np.ndarray, void: int | None = None) -> np.ndarray:
    """Returns the intersection over union of classes, float64 [R, K].

    Args:
        sums: [R, 3, K], see `ClassCounts`.
        void: See `ClassCounts`; its column is NaN, as are those of absent classes.
    """
    right, labelled, predicted = np.moveaxis(sums, 1, 0)
    return _shares(right, labelled + predicted - right, void)


def _shares(right: np.ndarray, total: np.ndarray, void: int | None) -> np.ndarray:
    """Returns right / total of classes, [..., K]; NaN for `void` and for none of 0."""
    shares = np.full(total.shape, np.nan)
    np.divide(right, total, out=shares, where=total > 0)
    if void is not None:
        shares[..., void] = np.nan
    return shares


class DepthErrors:
    """Errors of depth maps in metres, on the same pixels with and without attack.

    Args:
        least: Smallest depth that counts, in metres; what is nearer, or 0, is unknown.
        most: Largest depth that counts.
        sums: float64 [6], over all images: images and pixels that count, squares, roots
            of the images' mean squares, relative errors, pixels within a quarter; None
            = 0.
    """

    def __init__(self, least: float = 1e-3, most: float = 10.0, sums=None):
        self.least, self.most = least, most
        self.sums = np.zeros(6) if sums is None else sums

    def update(self, depth, prediction) -> None:
        """Adds an image; one without a known depth changes nothing.

        Args:
            depth: float [H, W], metres.
            prediction: float [H, W], metres, above 0 where the depth counts.

        Raises:
            UserError: If the shapes differ, or a prediction is not a finite number
                above 0.
        """
        depth, prediction = np.asarray(depth, float), np.asarray(prediction, float)
        if depth.shape != prediction.shape:
            raise UserError(
                "Depth maps and predictions must have the same size. Received: depth "
                f"of shape {depth.shape}, predictions of shape {prediction.shape}."
            )
        counts = (depth >= self.least) & (depth <= self.most)
        truth, found = depth[counts], prediction[counts]
        if not truth.size:
            return
        if not (np.isfinite(found).all() and found.min() > 0):
            raise UserError(
                "Predicted depths must be finite and above 0 metres. Received: from "
                f"{found.min():g} to {found.max():g}."
            )
        squares = np.square(found - truth)
        relative = np.abs(found - truth) / truth
        near = np.maximum(found / truth, truth / found) < 1.25
        self.sums = self.sums + [
            *(1, truth.size, squares.sum(), np.sqrt(squares.mean())),
            *(relative.sum(), near.sum()),
        ]

    @property
    def images(self) -> int:
        """Number of images with a pixel that counts."""
        return int(self.sums[0])

    @property
    def pixels(self) -> int:
        """Number of pixels that count."""
        return int(self.sums[1])

    @property
    def rmse(self) -> float:
        """Root of the mean square over all pixels, metres; NaN without any."""
        return float(np.sqrt(self._per(2, self.sums[1])))

    @property
    def rmse_of_images(self) -> float:
        """Mean over images of the root mean square of each, metres."""
        return self._per(3, self.sums[0])

    @property
    def relative_error(self) -> float:
        """Mean over pixels of |prediction - depth| / depth (AbsRel)."""
        return self._per(4, self.sums[1])

    @property
    def within_a_quarter(self) -> float:
        """Share of pixels that are off by a factor below 1.25 (delta 1)."""
        return self._per(5, self.sums[1])

    def _per(self, index: int, count: float) -> float:
        return float(self.sums[index] / count) if count else float("nan")


def _mean(shares: np.ndarray) -> float:
    """Returns the mean of what is a number; NaN if nothing is."""
    known = shares[~np.isnan(shares)]
    return float(known.mean()) if known.size else float("nan")
