"""Fixed position embeddings."""

import numpy as np

from kerobust.config import UserError


def sincos_2d(rows: int, columns: int, width: int) -> np.ndarray:
    """Returns the sine-cosine embedding of a grid of patches and its class token.

    The first half of the width encodes the column, the second half the row; each half
    is a block of sines followed by a block of cosines.

    Args:
        rows, columns: Size of the patch grid.
        width: Token width, a multiple of 4.

    Returns:
        float32 [1 + rows * columns, width]; row 0, for the class token, is zero, the
        others are in row-major patch order. Computed in float64.

    Raises:
        UserError: If `width` is not a multiple of 4.

    References:
        He et al., 2022, arXiv:2111.06377 (`get_2d_sincos_pos_embed` of its code).
    """
    if width % 4:
        raise UserError(
            "`width` (--model.width, --mae.decoder_width) must be a multiple of 4 for "
            f"sine-cosine positions. Received: width={width}. "
            f"Use {width + 4 - width % 4}, or --model.positions=learned."
        )
    row, column = np.divmod(np.arange(rows * columns), columns)
    grid = np.concatenate(
        [_sincos(column, width // 2), _sincos(row, width // 2)], axis=1
    )
    return np.concatenate([np.zeros([1, width]), grid]).astype(np.float32)


def _sincos(positions: np.ndarray, width: int) -> np.ndarray:
    frequencies = 10000.0 ** (-np.arange(width // 2) / (width // 2))
    angles = positions[:, np.newaxis] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
