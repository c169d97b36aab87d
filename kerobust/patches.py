"""Images as sequences of square patches, the layout every masked method shares."""

import tensorflow as tf


def patchify(images: tf.Tensor, patch_size: int) -> tf.Tensor:
    """Cuts images into patch vectors.

    Args:
        images: [B, H, W, C]; H and W are static multiples of `patch_size`.
        patch_size: Side of a patch in pixels.

    Returns:
        [B, N, patch_size * patch_size * C]: patches in row-major order, each ordered
        (row in patch, column in patch, channel).

    References:
        He et al., 2022, arXiv:2111.06377 (`patchify` of the reference code).
    """
    _, height, width, channels = images.shape
    rows, columns = height // patch_size, width // patch_size
    grid = tf.reshape(images, [-1, rows, patch_size, columns, patch_size, channels])
    grid = tf.transpose(grid, [0, 1, 3, 2, 4, 5])
    return tf.reshape(grid, [-1, rows * columns, patch_size**2 * channels])


def unpatchify(patches: tf.Tensor, height: int, width: int, patch_size: int):
    """Puts patch vectors back into images; the inverse of `patchify`."""
    rows, columns = height // patch_size, width // patch_size
    channels = patches.shape[-1] // patch_size**2
    grid = tf.reshape(patches, [-1, rows, columns, patch_size, patch_size, channels])
    grid = tf.transpose(grid, [0, 1, 3, 2, 4, 5])
    return tf.reshape(grid, [-1, height, width, channels])
