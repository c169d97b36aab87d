"""Tokens in units of the spread of a teacher's clean ones."""

import numpy as np
import tensorflow as tf

from kerobust.attacks import whitening_of
from kerobust.data import Split
from kerobust.evaluation.clean_tokens import clean_tokens
from kerobust.types import Tokens

IMAGES = 2000  # Clean images whose spread counts.


class Whitening(tf.keras.layers.Layer):
    """Maps tokens t of each type to W (t - m), with m the mean of clean ones.

    W is `whitening_of` them: squared distances become those of Mahalanobis. With little
    shrinkage, and many more images than D, clean tokens have a mean square of 1; with
    more of it a smaller one. NaN before `fit`, so that nothing can be trained with it.

    Args:
        width: Width D of the tokens.
        shrinkage: See `whitening_of`.

    Call arguments:
        tokens: float32 [..., D], tokens or differences of them.
        kind: "cls" or "patches".
        centre: Whether m is subtracted, which differences do not need.

    Returns:
        float32 [..., D].
    """

    def __init__(self, width: int, shrinkage: float):
        super().__init__(trainable=False, dtype="float32", name="whitening")
        self.shrinkage = shrinkage
        self._means, self._maps = {}, {}
        unset = tf.keras.initializers.Constant(np.nan)
        for kind in Tokens._fields:
            self._means[kind] = self.add_weight(f"{kind}_mean", [width], None, unset)
            shape = [width, width]
            self._maps[kind] = self.add_weight(f"{kind}_map", shape, None, unset)

    def call(self, tokens: tf.Tensor, kind: str, centre: bool = True) -> tf.Tensor:
        if centre:
            tokens -= self._means[kind]
        return tf.linalg.matmul(tokens, self._maps[kind])

    def fit(self, encoder: tf.keras.Model, split: Split) -> None:
        """Takes means and spreads from an encoder's tokens of up to 2,000 images."""
        tokens = clean_tokens(encoder, split, IMAGES)
        for kind, each in tokens._asdict().items():
            self._means[kind].assign(each.mean(axis=0))
            self._maps[kind].assign(whitening_of(each, self.shrinkage))
