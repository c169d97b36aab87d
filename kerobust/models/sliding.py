"""Dense predictions of images that are larger than a network takes."""

from collections.abc import Callable

import numpy as np
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

    Attacks may go through it: gradients add up over windows. Where not all windows are
    one batch, every batch is computed again for the gradient, a third more work, so
    that memory holds the activations of one batch and not of all; gradients then reach
    images only, not weights.

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
        places, weights = self._parts(images)
        hits = np.bincount(self._places(images).ravel(), minlength=height * width)

        def part(index, images):
            return self._summed(images, places[index], weights[index])

        total = _in_parts(part, places.shape[0], images, _added)
        mean = total / tf.constant(hits[:, np.newaxis], tf.float32)
        mean = mean if self.average == "logits" else tf.math.log(mean)
        return tf.reshape(mean, [-1, height, width, mean.shape[2]])

    def each(self, read: Callable[[tf.Tensor], tf.Tensor], images) -> tf.Tensor:
        """Returns what `read` finds in every window, float32 [B, M, ...], row by row.

        Args:
            read: Maps windows float32 [W, window, window, C] to float32 [W, ...].
            images: float32 [B, H, W, C] of known height and width.
        """
        places, _ = self._parts(images)

        def part(index, images):
            return read(self._shown(images, places[index]))

        found = _in_parts(part, places.shape[0], images, _stacked)
        parts, size = places.shape[:2]
        found = tf.reshape(found, [parts, -1, size, *found.shape[2:]])
        found = tf.experimental.numpy.moveaxis(found, 0, 1)
        found = tf.reshape(found, [-1, parts * size, *found.shape[3:]])
        return found[:, : len(self._places(images))]

    def _parts(self, images) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns windows in parts of one size, int32 [P, S, window^2], and weights.

        The weights float32 [P, S] are 1, and 0 where a window only fills the last part.
        """
        places = self._places(images)
        parts = -(-len(places) // self.at_once)
        size = -(-len(places) // parts)
        short = parts * size - len(places)
        places = np.concatenate([places, places[:short]]).reshape(parts, size, -1)
        weights = np.ones([parts, size], np.float32)
        weights[-1, size - short :] = 0.0
        return tf.constant(places), tf.constant(weights)

    def _shown(self, images, places) -> tf.Tensor:
        """Returns the pixels of windows, float32 [B * S, window, window, C]."""
        height, width, channels = images.shape[1:]
        flat = tf.reshape(images, [-1, height * width, channels])
        shown = tf.gather(flat, tf.reshape(places, [-1]), axis=1)
        return tf.reshape(shown, [-1, self.window, self.window, channels])

    def _summed(self, images, places, weights) -> tf.Tensor:
        """Returns the sum of some windows' outputs where they lie, [B, H * W, K].

        Args:
            images: float32 [B, H, W, C].
            places: int32 [S, window^2], pixels of each window, row by row.
            weights: float32 [S].
        """
        height, width = images.shape[1:3]
        count, side = places.shape[0], self.window
        found = self.model(self._shown(images, places))
        if self.average == "probabilities":
            found = tf.nn.softmax(found)
        found = tf.reshape(found, [-1, count, side * side, found.shape[3]])
        found = found * weights[:, tf.newaxis, tf.newaxis]
        found = tf.transpose(found, [1, 2, 0, 3])  # Pixels first, to be added up.
        found = tf.reshape(found, [count * side * side, -1, found.shape[3]])
        total = tf.math.unsorted_segment_sum(
            found, tf.reshape(places, [-1]), height * width
        )
        return tf.transpose(total, [1, 0, 2])

    def _places(self, images) -> np.ndarray:
        """Returns the numbers of the pixels of every window, int32 [M, window^2]."""
        width, inside = images.shape[2], np.arange(self.window)
        corners = [top * width + left for top, left in self._corners(images)]
        square = (inside[:, np.newaxis] * width + inside).ravel()
        return (np.array(corners)[:, np.newaxis] + square).astype(np.int32)

    def windows(self, images: tf.Tensor) -> list[tf.Tensor]:
        """Returns the windows of images [B, H, W, ...] row by row."""
        size = self.window
        return [
            images[:, top : top + size, left : left + size]
            for top, left in self._corners(images)
        ]

    def _corners(self, images) -> list[tuple[int, int]]:
        height, width = images.shape[1:3]
        return [
            (top, left)
            for top in window_starts(height, self.window, self.stride)
            for left in window_starts(width, self.window, self.stride)
        ]


def _in_parts(part: Callable, parts: int, images: tf.Tensor, join) -> tf.Tensor:
    """Returns `join(part, parts, images)`, one part after the other.

    Gradients compute every part again and reach images only.

    Args:
        part: (index, images) -> tensor.
        parts: How many; a single one is computed as it is.
        images: float32 [B, H, W, C].
        join: `_added` or `_stacked`.
    """
    if parts == 1:
        only = part(0, images)
        return only if join is _added else only[tf.newaxis]

    @tf.custom_gradient
    def whole(images):
        def gradient(upstream, variables=None):
            def back(index, images):
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch(images)
                    found = part(index, images)
                own = upstream if join is _added else upstream[index]
                return tf.convert_to_tensor(tape.gradient(found, images, own))

            found = _added(back, parts, images)
            return (found, [None] * len(variables)) if variables else found

        return join(part, parts, images), gradient

    return whole(images)


def _added(part: Callable, parts: int, images: tf.Tensor) -> tf.Tensor:
    """Returns the sum of `part(index, images)` for index 0 to parts - 1, in a loop."""
    first = part(tf.constant(0), images)
    return tf.while_loop(
        lambda index, _: index < parts,
        lambda index, total: (index + 1, total + part(index, images)),
        (1, first),
        parallel_iterations=1,
        maximum_iterations=parts,
    )[1]


def _stacked(part: Callable, parts: int, images: tf.Tensor) -> tf.Tensor:
    """Returns `part(index, images)` for every index below each other, in a loop."""
    shapes = []

    def one(index):
        found = part(index, images)
        shapes.append(found.shape)
        return found

    found = tf.map_fn(
        one, tf.range(parts), fn_output_signature=tf.float32, parallel_iterations=1
    )
    return tf.ensure_shape(found, [parts, *shapes[0]])


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
        found = self._slide.each(self._tokens, images)
        patches = found[:, :, 1:]
        count, per_window, width = patches.shape[1:]
        return Tokens(
            found[:, :, 0], tf.reshape(patches, [-1, count * per_window, width])
        )

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

    def _tokens(self, images) -> tf.Tensor:
        """Returns class token and patches of images below each other, [B, 1 + N, D]."""
        tokens = self.predictor.encoder(images, training=False)
        return tf.concat([tokens.cls[:, tf.newaxis], tokens.patches], axis=1)
