"""Depth of every pixel from one image: head, loss, attacks, errors."""

import functools

import numpy as np

from kerobust.attacks import DepthPGD
from kerobust.attacks.attempts import Attempt
from kerobust.attacks.dense import DepthError
from kerobust.attacks.dense_losses import DEPTH_MEASURES, DepthMeasure
from kerobust.config import UserError
from kerobust.losses.depth import gradient_loss, sig_loss
from kerobust.models.dense_heads import DensePredictor, DepthHead
from kerobust.tasks.base import Effort, Task, climbing
from kerobust.tasks.counts import DepthErrors


class Depth(Task):
    """One distance per pixel, in metres.

    Args:
        most: Largest depth that counts and that is predicted.
        least: Smallest one.
        bins: Bins of the head; 1 = plain regression.
    """

    NAME, TARGET, MAIN, HIGHER = "depth", "depths", "rmse", False
    ATTACK, OBJECTIVE = DepthPGD, DepthError

    def __init__(self, most: float = 10.0, least: float = 1e-3, bins: int = 256):
        self.least, self.most, self.bins = least, most, bins

    def predictor(self, encoder):
        head = DepthHead(self.bins, least=self.least, most=self.most)
        return DensePredictor(encoder, head)

    def loss(self, outputs, targets):
        """Returns the scale-invariant loss plus half the gradient loss, pooled."""
        level = sig_loss(outputs, targets, pooled=True)
        return (level + 0.5 * gradient_loss(outputs, targets, pooled=True))[0]

    def records(self, outputs, targets):
        """Returns float64 [B, 6], see `DepthErrors`."""
        found = []
        for depth, prediction in zip(
            np.asarray(targets), np.asarray(outputs), strict=True
        ):
            image = DepthErrors(self.least, self.most)
            image.update(depth, prediction)
            found.append(image.sums)
        return np.stack(found)

    def metrics(self, total):
        errors = DepthErrors(self.least, self.most, total)
        return {
            "rmse": errors.rmse,
            "rmse_of_images": errors.rmse_of_images,
            "relative_error": errors.relative_error,
            "within_a_quarter": errors.within_a_quarter,
        }

    def main(self, totals):
        found = np.full(len(totals), np.nan)
        np.divide(totals[:, 2], totals[:, 1], out=found, where=totals[:, 1] > 0)
        return np.sqrt(found)

    def worst(self, tried):
        """Returns per image the errors with the largest sum of squares.

        Exact for `rmse`: every attack is judged on the same pixels.
        """
        records = np.stack(tried)
        chosen = records[:, :, 2].argmax(axis=0)
        return records[chosen, np.arange(len(chosen))]

    def predictions(self, outputs):
        return outputs

    def counted(self, targets):
        return np.where(self._counts(targets), targets, 0.0).astype(targets.dtype)

    def known(self, targets):
        return bool(self._counts(targets).any())

    def check(self, targets):
        known = targets[targets > 0]
        if known.size and np.median(known) > 10 * self.most:
            raise UserError(
                "Depths must be in metres. Received: a median depth of "
                f"{np.median(known):.4g} where at most {self.most:g} count. Divide "
                "millimetres by 1000, or raise the largest depth."
            )
        if not self._counted(targets).size:
            raise UserError(
                "A data set for depth must have depths that count. Received: none from "
                f"{self.least:g} to {self.most:g} metres. Raise the largest depth."
            )

    def constant(self, depths: np.ndarray) -> float:
        """Returns the mean of the depths that count: the best blind prediction."""
        return float(self._counted(depths).mean())

    def _counted(self, depths: np.ndarray) -> np.ndarray:
        return depths[self._counts(depths)]

    def _counts(self, depths: np.ndarray) -> np.ndarray:
        return (depths >= self.least) & (depths <= self.most)

    def suite(self, effort: Effort) -> list[Attempt]:
        """Returns Auto-PGD on `DepthError` and on every `DepthMeasure`."""
        kinds: dict = {"depth_error": DepthError}
        kinds |= {
            name: functools.partial(DepthMeasure, measure=name)
            for name in DEPTH_MEASURES
        }
        return [climbing(name, kind, effort) for name, kind in kinds.items()]
