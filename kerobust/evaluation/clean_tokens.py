"""Clean tokens, of which a whitening knows their spread."""

import numpy as np
import tensorflow as tf

from kerobust.attacks.objectives import infer
from kerobust.data import Split, evaluation_batches
from kerobust.types import Tokens

EVERY = 7  # Of the patches of an image every seventh will do.


def clean_tokens(
    encoder: tf.keras.Model, split: Split, limit: int, batch_size: int = 64
) -> Tokens:
    """Returns class tokens, float32 [N, D], and some patches, [M, D], of clean images.

    Args:
        encoder: Maps images to `Tokens`; of images in windows each window has its own.
        split: Images.
        limit: So many of them at most, evenly spread.
        batch_size: Images that are read at once.
    """
    shown = split.thinned(limit)
    found = Tokens([], [])
    for batch in evaluation_batches(shown, min(batch_size, shown.size)):
        tokens = infer(encoder, batch["images"][batch["valid"]])
        some = Tokens(tokens.cls, tokens.patches[:, ::EVERY])
        for parts, each in zip(found, some, strict=True):
            parts.append(tf.reshape(each, [-1, each.shape[-1]]).numpy())
    return Tokens(*(np.concatenate(parts).astype(np.float32) for parts in found))
