"""Checks of image sizes against the patch grid of an encoder."""

import tensorflow as tf

from kerobust.config import UserError


def check_patches(image_size: tuple[int, int], patch_size: int) -> None:
    """Refuses a patch size that does not divide the (height, width) of the images."""
    height, width = image_size
    if height % patch_size or width % patch_size:
        fits = [
            str(side)
            for side in range(1, min(image_size) + 1)
            if height % side == 0 and width % side == 0
        ]
        raise UserError(
            "`--model.patch_size` must divide the height and width of the images. "
            f"Received: model.patch_size={patch_size} for {height} x {width} pixels. "
            f"Use one of {', '.join(fits)}, or change --data.image_size."
        )


def grid_of(
    images: tf.Tensor,
    expected: tuple[int, int, int],
    patch_size: int,
    *,
    any_size: bool,
) -> tuple[int, int]:
    """Returns (rows, columns) of the patches of images.

    Args:
        images: [B, H, W, C] with static H, W and C.
        expected: (height, width, channels) that the encoder was built for.
        patch_size: Side of a patch in pixels.
        any_size: Whether all multiples of the patch size will do.

    Raises:
        UserError: If the images have another shape.
    """
    *sides, channels = images.shape[1:]
    fits = tuple(sides) == expected[:2]
    if any_size and None not in sides:
        fits = all(side >= patch_size and side % patch_size == 0 for side in sides)
    if fits and channels == expected[2]:
        return sides[0] // patch_size, sides[1] // patch_size
    if any_size:
        raise UserError(
            f"`images` must be [B, H, W, {expected[2]}], H and W multiples of the "
            f"patch size {patch_size}. Received: images.shape={images.shape}. "
            "Crop or resize them (--data.image_size)."
        )
    raise UserError(
        f"`images` must be [B, {', '.join(map(str, expected))}], the size the encoder "
        f"was built for. Received: images.shape={images.shape}. Resize them "
        "(--data.image_size), build another encoder, or choose how its positions are "
        "fitted (--model.interpolation)."
    )
