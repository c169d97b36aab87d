"""Attacks on frozen heads through a student, without labels."""

import pathlib

import tensorflow as tf

from kerobust.attacks import PGD, CrossEntropy, DepthPGD, Objective, SegPGD
from kerobust.attacks.dense import DepthError, PixelCrossEntropy
from kerobust.attacks.objectives import infer, predicted
from kerobust.config import UserError
from kerobust.models.bundle import load_bundle
from kerobust.models.dense_heads import DensePredictor, SegmentationHead
from kerobust.models.heads import Classifier
from kerobust.types import Tokens


class HeadError(Objective):
    """How far a frozen head is led from what it says of the teacher's clean tokens.

    Cross-entropy for classes and pixels, `DepthError` for depths; the targets are made
    of the head's own answers, so that nothing needs labels.

    Args:
        encoder: The student; maps images float32 [B, H, W, C] to `Tokens`.
        predictor: `Classifier` or `DensePredictor` whose head is attacked; its encoder
            is not used.

    Attributes:
        kind: The task's own attack: `PGD`, `SegPGD` or `DepthPGD`.
    """

    part = "head"

    def __init__(self, encoder, predictor):
        super().__init__()
        self._encoder, self._predictor = encoder, predictor
        self.kind: type[PGD] = PGD
        self._rule: Objective = CrossEntropy(None)
        if isinstance(predictor, DensePredictor):
            masks = isinstance(predictor.head, SegmentationHead)
            self.kind = SegPGD if masks else DepthPGD
            self._rule = PixelCrossEntropy(None) if masks else DepthError(None)

    def outputs(self, images):
        return self._read(infer(self._encoder, images), images.shape[1:3])

    def values(self, outputs, targets):
        share = None
        if isinstance(targets, dict):  # Of `SegPGD`, see `PixelCrossEntropy`.
            share, targets = targets["wrong_share"], targets["labels"]
        aim = tf.stop_gradient(self._read(targets, outputs.shape[1:3]))
        if self.kind is not DepthPGD:
            aim = predicted(aim)
        if share is not None:
            aim = {"labels": aim, "wrong_share": share}
        return self._rule.values(outputs, aim)

    def _read(self, tokens: Tokens, size) -> tf.Tensor:
        if isinstance(self._predictor, DensePredictor):
            return self._predictor.read(tokens, size, training=False)
        return self._predictor.head(tokens)


def read_heads(folders: tuple[str, ...], width: int) -> list:
    """Returns the predictors of bundles, whose heads must read tokens of a width.

    Raises:
        UserError: If a bundle is missing, holds no head, or one of another width.
    """
    found = []
    for folder in folders:
        predictor = load_bundle(pathlib.Path(folder).expanduser())
        kind = type(predictor).__name__
        reads = getattr(getattr(predictor, "encoder", None), "width", None)
        blocks = getattr(getattr(predictor, "head", None), "blocks", 1)
        fits = isinstance(predictor, Classifier | DensePredictor) and blocks == 1
        if not fits or reads != width:
            raise UserError(
                "`--multi.heads` must name bundles of heads on the last block of the "
                "teacher, such as those that the stage benchmark writes. Received: "
                f"{folder} with a {kind} on tokens of width {reads}; the teacher's "
                f"are {width} wide."
            )
        found.append(predictor)
    return found
