"""The windows of Square: how large, where, and which pattern lies inside."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from kerobust.randomness import fold_in, uniform

BLOCK = 64  # Queries whose random numbers are drawn at once, to be cheap.
_KNEES = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # Of 10,000 queries.
_TILES = 5  # Along the shorter side of the image.


class Query(NamedTuple):
    """What is random in queries, here one per example.

    Attributes:
        corners: int32 [B, K, 2], top left corners of its K windows.
        up: bool [B, C], whether a channel is pushed up, or its pattern as it is.
        turned: bool [B, K - 1], whether the pattern is transposed.
    """

    corners: tf.Tensor
    up: tf.Tensor
    turned: tf.Tensor


class Windows:
    """The windows of all queries on images of one shape.

    Args:
        shape: Python ints (H, W, C).
        norm: "linf": one window a query; "l2", "l1": two, and a pattern for the first.
        shares: float [queries], share of the pixels that the windows cover.
        whole: Whether a window may lie anywhere; else its corner is never the last.
    """

    def __init__(self, shape, norm: str, shares: np.ndarray, whole: bool = True):
        self.height, self.width, self.channels = shape
        self.count = 1 if norm == "linf" else 2
        self.whole = whole
        sides = window_sides(shares, self.height, self.width, norm)
        self._ends = np.flatnonzero(np.diff(sides)) + 1  # Where the side changes.
        self._sides = sides[np.append(0, self._ends)]
        self._patterns = _padded(() if norm == "linf" else self._sides, norm)

    def none(self, keys: tf.Tensor) -> Query:
        """Returns a block of queries for each key, to be replaced by `block`."""
        rows = tf.shape(keys)[0]
        return Query(
            tf.zeros([rows, BLOCK, self.count, 2], tf.int32),
            tf.zeros([rows, BLOCK, self.channels], tf.bool),
            tf.zeros([rows, BLOCK, self.count - 1], tf.bool),
        )

    def block(self, index: tf.Tensor, keys: tf.Tensor) -> Query:
        """Returns queries number index to index + BLOCK - 1, each [B, BLOCK, ...]."""
        corners = 2 * self.count
        size = corners + self.channels + self.count - 1
        draw = uniform(fold_in(keys, index), [BLOCK, size])
        side = tf.gather(self._sides, self._phase(index + tf.range(BLOCK)))
        most = tf.constant([[self.height, self.width]]) - side[:, tf.newaxis]
        positions = tf.cast(most + int(self.whole), tf.float32)[:, tf.newaxis]
        places = tf.reshape(draw[..., :corners], [-1, BLOCK, self.count, 2])
        coins = draw[..., corners:] < 0.5
        return Query(
            tf.cast(places * positions, tf.int32),
            coins[..., : self.channels],
            coins[..., self.channels :],
        )

    def inside(self, index: tf.Tensor, corner: tf.Tensor) -> tf.Tensor:
        """Returns which pixels are in windows at corner int32 [B, 2], [B, H, W, 1]."""
        rows, columns, side = self._places(index, corner)
        inside = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)
        return inside[..., tf.newaxis]

    def pattern(self, index, corner, turned: tf.Tensor) -> tf.Tensor:
        """Returns the pattern inside such windows, 0 outside, float32 [B, H, W, 1].

        Args:
            index: int scalar, number of the query.
            corner: int32 [B, 2].
            turned: bool [B], whether the pattern is transposed.
        """
        rows, columns, side = self._places(index, corner)
        # A border of zeros stands for all that is outside.
        rows = tf.clip_by_value(rows + 1, 0, side + 1)
        columns = tf.clip_by_value(columns + 1, 0, side + 1)
        _, _, height, width = self._patterns.shape
        number = 2 * self._phase(index) + tf.cast(turned, tf.int32)
        place = (number[:, None, None] * height + rows) * width + columns
        return tf.gather(self._patterns.reshape(-1), place)[..., tf.newaxis]

    def _phase(self, index: tf.Tensor) -> tf.Tensor:
        """Returns how often the side has changed before query `index`, int [...]."""
        after = index[..., tf.newaxis] >= tf.constant(self._ends, tf.int32)
        return tf.reduce_sum(tf.cast(after, tf.int32), axis=-1)

    def _places(self, index, corner):
        """Returns rows [B, H, 1], columns [B, 1, W] from the corner; the side."""
        side = tf.gather(self._sides, self._phase(index))
        rows = tf.range(self.height) - corner[:, :1]
        columns = tf.range(self.width) - corner[:, 1:]
        return rows[:, :, tf.newaxis], columns[:, tf.newaxis], side


def window_shares(queries: int, initial_share: float, rescale: bool) -> np.ndarray:
    """Returns the share of the pixels in the window of each query, float64 [queries].

    It is halved nine times on the way to query 8000; with `rescale` on the way to four
    fifths of `queries`.
    """
    index = np.arange(queries)
    if rescale:
        index = index * 10_000 // queries
    return initial_share * 0.5 ** np.searchsorted(_KNEES, index)


def window_sides(shares, height: int, width: int, norm: str) -> np.ndarray:
    """Returns the sides of square windows with `shares` of the pixels, int32."""
    sides = np.rint(np.sqrt(shares * height * width)).astype(np.int32)
    if norm == "linf":
        sides = np.maximum(sides, 1)
    else:
        sides = np.maximum(sides, 3)
        sides += 1 - sides % 2
    return np.minimum(sides, min(height, width))


def pyramids(side: int, norm: str) -> np.ndarray:
    """Returns one pyramid above a negative one, float32 [side, side] of norm 1.

    A pyramid falls from its middle in steps 1/k^2 (1/k^4 for l1), k = 1, 2, ...; both
    have the same norm.
    """
    upper, lower = _pyramid(side // 2, side, norm), _pyramid(-(-side // 2), side, norm)
    both = np.concatenate([upper, -lower])
    return (both / _norm(both, norm)).astype(np.float32)


def tiles(keys: tf.Tensor, shape, norm: str, whole: bool = True) -> tf.Tensor:
    """Returns pyramids of random signs and directions, tile by tile, [B, H, W, C].

    Args:
        keys: int32 [B, 2].
        shape: Python ints (H, W, C).
        norm: "l2" or "l1", of which each tile has norm 1 per channel.
        whole: Whether tiles that are cut off complete the pattern at the border.
    """
    height, width, channels = shape
    side = max(min(height, width) // _TILES, 1)
    row, row_in = _cells(height, side, whole)
    column, column_in = _cells(width, side, whole)
    draw = uniform(keys, [max(row) + 1, max(column) + 1, channels + 1]) < 0.5
    draw = tf.gather(draw, np.maximum(row, 0), axis=1)
    draw = tf.gather(draw, np.maximum(column, 0), axis=2)
    covered = (row[:, None] >= 0) & (column >= 0)
    pattern = pyramids(side, norm)
    upright, turned = (
        np.where(covered, each[row_in][:, column_in], 0)[..., None]
        for each in (pattern, pattern.T)
    )
    pattern = tf.where(draw[..., :1], turned, upright)
    return tf.where(draw[..., 1:], pattern, -pattern)


def _cells(length: int, side: int, whole: bool):
    """Returns each pixel's tile along an axis, -1 for none, and its place in it."""
    start, count = -(-length % side // 2), -(-length // side)
    if not whole:
        start, count = max(length - _TILES * side, 0) // 2, length // side
    place = np.arange(length) - start
    cell = place // side
    return np.where((cell >= 0) & (cell < count), cell, -1), place % side


def _padded(sides, norm: str) -> np.ndarray:
    """Returns the patterns for all sides, with a border of zeros, and transposed.

    Float32 [sides, 2, S, S].
    """
    largest = max(sides, default=0) + 2
    padded = np.zeros([len(sides), 2, largest, largest], np.float32)
    for number, side in enumerate(sides):
        pattern = pyramids(side, norm)
        padded[number, 0, 1 : side + 1, 1 : side + 1] = pattern
        padded[number, 1, 1 : side + 1, 1 : side + 1] = pattern.T
    return padded


def _pyramid(height: int, width: int, norm: str) -> np.ndarray:
    """Returns a pyramid around (height // 2, width // 2) of norm 1."""
    from_row = np.abs(np.arange(height) - height // 2)[:, None]
    from_column = np.abs(np.arange(width) - width // 2)
    ring = np.maximum(from_row, from_column)
    power = 2.0 if norm == "l2" else 4.0
    steps = (1.0 + np.arange(max(height, width) // 2 + 1)) ** -power
    heights = np.cumsum(steps[::-1])[::-1][ring]
    return heights / _norm(heights, norm)


def _norm(values: np.ndarray, norm: str) -> float:
    if norm == "l2":
        return max(np.sqrt(np.sum(values**2)), 1e-30)
    return max(np.sum(np.abs(values)), 1e-30)
