"""Fixed position embeddings, and positions of one grid for another."""

import numpy as np
import tensorflow as tf

from kerobust.config import UserError

# How each source of weights fits its positions to images of another size.
INTERPOLATIONS = ("dino", "mae", "timm")


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


def resize_positions(
    positions: tf.Tensor, grid: tuple[int, int], new_grid: tuple[int, int], rule: str
) -> tf.Tensor:
    """Returns the positions of one patch grid, interpolated for another.

    The row of the class token stays as it is. Linear in `positions`, with constant
    matrices: gradients flow to a learned table.

    Args:
        positions: float [1 + N, D], N = rows * columns of `grid`, row-major.
        grid: (rows, columns) of `positions`.
        new_grid: (rows, columns) that are wanted; the same as `grid` changes nothing,
            whatever the rule.
        rule: One of `INTERPOLATIONS`, see `interpolation_matrix`.

    Returns:
        float [1 + N', D].
    """
    if new_grid == grid:
        return positions
    width = positions.shape[-1]
    down, across = [
        tf.constant(interpolation_matrix(old, new, rule), positions.dtype)
        for old, new in zip(grid, new_grid, strict=True)
    ]
    # M_rows G M_columns^T, once per channel.
    table = tf.reshape(positions[1:], [grid[0], grid[1] * width])
    table = tf.reshape(tf.matmul(down, table), [new_grid[0], grid[1], width])
    table = tf.reshape(tf.matmul(across, table), [new_grid[0] * new_grid[1], width])
    return tf.concat([positions[:1], table], axis=0)


def interpolation_matrix(old: int, new: int, rule: str) -> np.ndarray:
    """Returns what makes `new` values from `old` ones along one axis.

    Place d of the result reads the four values around (d + 1/2) / scale - 1/2 with
    cubic weights. "mae": scale = new / old, cubic parameter -3/4, values beyond the
    border repeat the border. "dino": the same with scale = (new + 0.1) / old, which
    moves the places too. "timm": scale = new / old, parameter -1/2, no values beyond
    the border (the rest is divided by its sum), and when shrinking, the cubic is as
    many times wider (antialiasing).

    Args:
        old, new: Numbers of values, at least 1.
        rule: One of `INTERPOLATIONS`. The released DINOv2 encoders follow "dino"
            without registers and "timm" with them.

    Returns:
        float64 [new, old], every row with the sum 1.

    References:
        The code of Caron et al., 2021, arXiv:2104.14294 (`interpolate_pos_encoding`),
        of He et al., 2022, arXiv:2111.06377 (`interpolate_pos_embed`) and of timm
        (`resample_abs_pos_embed`); Keys, 1981, doi:10.1109/TASSP.1981.1163711.
    """
    scale = (new + 0.1 if rule == "dino" else new) / old
    places = (np.arange(new) + 0.5) / scale - 0.5
    if rule == "timm":
        width = max(1.0, 1.0 / scale)
        weights = _cubic((np.arange(old) - places[:, np.newaxis]) / width, -0.5)
        return weights / weights.sum(axis=1, keepdims=True)
    taps = np.floor(places)[:, np.newaxis].astype(int) + np.arange(-1, 3)
    weights = _cubic(taps - places[:, np.newaxis], -0.75)
    matrix = np.zeros([new, old])
    rows = np.broadcast_to(np.arange(new)[:, np.newaxis], taps.shape)
    np.add.at(matrix, (rows, np.clip(taps, 0, old - 1)), weights)
    return matrix


def _cubic(distance: np.ndarray, parameter: float) -> np.ndarray:
    """Returns the weights of Keys' cubic convolution at a distance in samples."""
    x = np.abs(distance)
    near = (parameter + 2) * x**3 - (parameter + 3) * x**2 + 1
    far = parameter * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
