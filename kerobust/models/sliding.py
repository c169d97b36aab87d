"""Dense predictions of images that are larger than a network takes."""

from collections.abc import Callable

import tensorflow as tf

from kerobust.config import UserError
from kerobust.types import Tokens


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Returns where windows start along one axis: every stride, the last at the end.

    Args:
        length: Pixels along the axis, at least `window`.
        window: Pixels of a window.
        stride: Pixels between two windows, 1 to `window`.

    Raises:
        UserError: If the image is smaller than a window, or windows leave gaps.
    """
    if not 1 <= stride <= window <= length:
        raise UserError(
            "Windows must not be larger than the image nor leave gaps: 1 <= stride <= "
            f"window <= size. Received: stride={stride}, window={window}, "
            f"size={length}. Enlarge the image or take a smaller window."
        )
    starts = range(0, length - window + stride, stride)
    return sorted({min(start, length - window) for start in starts})


class SlidingWindow:
    """Calls a dense model on overlapping windows and averages where they meet.

    Attacks may go through it: gradients add up over windows.

    Args:
        model: Maps images float32 [B, window, window, C] to float32 [B, window, window,
            K], pixel by pixel.
        window: Pixels of a window's side.
        stride: Pixels between two windows.
        at_once: Windows that are one batch of the model; more need more memory.
        average: What is averaged, "logits" or "probabilities". The result of the second
            is the logarithm of the mean probability, so that both are logits.

    Call arguments:
        images: float32 [B, H, W, C] of known height and width.

    Returns:
        float32 [B, H, W, K].

    Raises:
        UserError: If an image is smaller than a window.
    """

    def __init__(
        self,
        model: Callable[[tf.Tensor], tf.Tensor],
        window: int,
        stride: int,
        *,
        at_once: int = 16,
        average: str = "logits",
    ):
        if average not in ("logits", "probabilities"):
            raise ValueError(
                "`average` must be logits or probabilities. Received: "
                f"average={average}."
            )
        if at_once < 1:
            raise ValueError(
                f"`at_once` must be at least 1. Received: at_once={at_once}."
            )
        self.model, self.window, self.stride = model, window, stride
        self.at_once, self.average = at_once, average

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        height, width = images.shape[1:3]
        corners = self._corners(images)
        total, hits = 0.0, 0.0
        for first in range(0, len(corners), self.at_once):
            some = corners[first : first + self.at_once]
            for corner, found in zip(some, self._predicted(images, some), strict=True):
                total += _placed(found, corner, height, width)
                hits += _placed(
                    tf.ones_like(found[:1, :, :, :1]), corner, height, width
                )
        mean = total / hits
        return mean if self.average == "logits" else tf.math.log(mean)

    def windows(self, images: tf.Tensor, corners=None) -> list[tf.Tensor]:
        """Returns the windows of images [B, H, W, ...] row by row, or at corners."""
        size = self.window
        return [
            images[:, top : top + size, left : left + size]
            for top, left in corners or self._corners(images)
        ]

    def _corners(self, images) -> list[tuple[int, int]]:
        height, width = images.shape[1:3]
        return [
            (top, left)
            for top in window_starts(height, self.window, self.stride)
            for left in window_starts(width, self.window, self.stride)
        ]

    def _predicted(self, images, corners) -> list[tf.Tensor]:
        found = self.model(tf.concat(self.windows(images, corners), axis=0))
        if self.average == "probabilities":
            found = tf.nn.softmax(found)
        return tf.split(found, len(corners))


def _placed(values: tf.Tensor, corner, height: int, width: int) -> tf.Tensor:
    """Returns a window [B, h, w, K] in an image [B, height, width, K] of zeros."""
    (top, left), (rows, columns) = corner, values.shape[1:3]
    below, right = height - top - rows, width - left - columns
    return tf.pad(values, [[0, 0], [top, below], [left, right], [0, 0]])


class Windowed:
    """A dense predictor for images larger than its encoder takes.

    Args:
        predictor: Maps windows to logits [B, h, w, K] or to depths [B, h, w]; has an
            `encoder` that gives `Tokens`.
        window, stride, at_once, average: See `SlidingWindow`.

    Call arguments:
        images: float32 [B, H, W, C] of known height and width.

    Returns:
        float32 [B, H, W, K], or [B, H, W].
    """

    def __init__(self, predictor, window: int, stride: int, **options):
        self.predictor = predictor
        self._slide = SlidingWindow(self._maps, window, stride, **options)

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        found = self._slide(images)
        return found[..., 0] if found.shape[-1] == 1 else found

    def encoder(self, images: tf.Tensor) -> Tokens:
        """Returns the tokens of all windows: cls [B, M, D], patches [B, M N, D]."""
        windows = self._slide.windows(images)
        count = len(windows)
        tokens = self.predictor.encoder(tf.concat(windows, axis=0), training=False)
        cls = tf.stack(tf.split(tokens.cls, count), axis=1)
        return Tokens(cls, tf.concat(tf.split(tokens.patches, count), axis=1))

    def windows(self, images: tf.Tensor) -> list[tf.Tensor]:
        """Returns the windows of images, or masks, [B, H, W, ...] row by row."""
        return self._slide.windows(images)

    @property
    def weights(self) -> list[tf.Variable]:
        """The weights of the predictor."""
        return self.predictor.weights

    def _maps(self, images):
        found = self.predictor(images, training=False)
        return found[..., tf.newaxis] if found.shape.rank == 3 else found
