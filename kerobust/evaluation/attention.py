"""Where the class token looks, on clean and on attacked images."""

import numpy as np

from kerobust.evaluation.plots import panel


def attention_maps(encoder, images) -> np.ndarray:
    """Returns what the class token takes from each patch in the last block.

    Args:
        encoder: `VisionTransformer`.
        images: float32 [P, H, W, C] in [0, 1].

    Returns:
        float32 [P, heads, H, W]: every pixel has the weight of its patch; over the
        patches a map sums to 1 less what the class token takes from itself.

    References:
        Caron et al., 2021, arXiv:2104.14294, figure 1.
    """
    size = encoder.patch_size
    rows, columns = images.shape[1] // size, images.shape[2] // size
    weights = np.asarray(encoder.last_attention(images))[:, :, 0, 1:]
    grids = weights.reshape(*weights.shape[:2], rows, columns)
    return grids.repeat(size, axis=2).repeat(size, axis=3)


def attention_panel(encoder, clean, adversarial) -> np.ndarray:
    """Returns a picture with two rows per image: clean, and below it attacked.

    A row holds the image and the attention of every head. The brightest pixel of a head
    over both rows is white, so that the rows compare.

    Args:
        encoder: `VisionTransformer`.
        clean, adversarial: float32 [P, H, W, C] in [0, 1].

    Returns:
        uint8 [height, width, 3].
    """
    kinds = (np.asarray(clean), np.asarray(adversarial))
    maps = [attention_maps(encoder, images) for images in kinds]
    brightest = np.maximum(*(each.max(axis=(2, 3), keepdims=True) for each in maps))
    rows = {}
    for place in range(len(clean)):
        for kind, images, found in zip("ca", kinds, maps, strict=True):
            heads = found[place] / np.maximum(brightest[place], 1e-12)
            image = np.broadcast_to(images[place], (*images.shape[1:3], 3))
            heads = np.repeat(heads[..., np.newaxis], 3, axis=-1)
            rows[f"{place}{kind}"] = np.concatenate([image[np.newaxis], heads])
    return panel(rows)
