"""Tokens of clean images, whose spread a whitening measures."""

import numpy as np
import tensorflow as tf

from kerobust.attacks.objectives import infer
from kerobust.data import Split, evaluation_batches
from kerobust.types import Tokens

_EVERY = 7  # Of the patches of an image every seventh will do.


def clean_tokens(
    encoder: tf.keras.Model, split: Split, limit: int, batch_size: int = 64
) -> Tokens:
    """Returns class tokens, float32 [N, D], and some patches, [M, D], of clean images.

    Of each image every seventh patch is taken, of the next image those beside them, so
    that all places of the grid count.

    Args:
        encoder: Maps images to `Tokens`; of images in windows each window has its own.
        split: Images.
        limit: So many of them at most, evenly spread.
        batch_size: Images that are read at once.
    """
    shown, seen = split.thinned(limit), 0
    found = Tokens([], [])
    for batch in evaluation_batches(shown, min(batch_size, shown.size)):
        tokens = infer(encoder, batch["images"][batch["valid"]])
        count, places = tokens.patches.shape[:2]
        chosen = np.arange(seen, seen + count)[:, np.newaxis]
        chosen = (chosen + np.arange(0, places, _EVERY)) % places
        seen += count
        some = Tokens(tokens.cls, tf.gather(tokens.patches, chosen, batch_dims=1))
        for parts, each in zip(found, some, strict=True):
            parts.append(tf.reshape(each, [-1, each.shape[-1]]).numpy())
    return Tokens(*(np.concatenate(parts).astype(np.float32) for parts in found))
