"""Linear heads that turn patch tokens into segmentations and depth maps."""

import math

import tensorflow as tf

from kerobust.config import UserError
from kerobust.models.heads import EncoderWithHead
from kerobust.types import Tokens


@tf.keras.saving.register_keras_serializable("kerobust")
class SegmentationHead(tf.keras.layers.Layer):
    """Batch norm and one linear map per patch, in float32.

    Args:
        num_classes: Number of classes.

    Call arguments:
        tokens: `Tokens`: cls [B, D], patches [B, N, D].
        grid: (rows, columns) of the N patches.

    Returns:
        Logits float32 [B, rows, columns, num_classes].

    References:
        Oquab et al., 2023, arXiv:2304.07193, section 7.4 (linear segmentation).
    """

    def __init__(self, num_classes: int, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.num_classes = num_classes
        self.norm = tf.keras.layers.BatchNormalization(
            epsilon=1e-5, momentum=0.9, synchronized=True, name="norm"
        )
        self.dense = tf.keras.layers.Dense(num_classes, name="dense")

    def call(self, tokens: Tokens, grid: tuple[int, int], training=None):
        logits = self.dense(self.norm(tokens.patches, training=training))
        return _in_grid(logits, grid)

    def finished(self, outputs: tf.Tensor) -> tf.Tensor:
        """Returns what a model says of pixels, from outputs [B, H, W, K] at them."""
        return outputs

    def get_config(self):
        return {"num_classes": self.num_classes}


@tf.keras.saving.register_keras_serializable("kerobust")
class DepthHead(tf.keras.layers.Layer):
    """Depth as a mean of bins, one linear map of patch and class token, in float32.

    Args:
        bins: Number of bins, evenly from `least` to `most`; 1 = plain regression, the
            softplus of one number.
        least, most: Smallest and largest depth, metres.
        upsampling: Factor by which maps grow before they become depths.

    Call arguments:
        tokens: `Tokens`: cls [B, D], patches [B, N, D].
        grid: (rows, columns) of the N patches.

    Returns:
        Depths float32 [B, rows * upsampling, columns * upsampling, 1], metres.

    References:
        Oquab et al., 2023, arXiv:2304.07193, section 7.4 (lin. 1); Bhat et al., 2021,
        arXiv:2011.14141 (bins).

    Differences:
        The map is enlarged behind the linear layer instead of before it: both are
        linear and commute.
    """

    def __init__(
        self,
        bins: int = 256,
        *,
        least: float = 1e-3,
        most: float = 10.0,
        upsampling: int = 4,
        **kwargs,
    ):
        super().__init__(dtype="float32", **kwargs)
        if not (bins >= 1 and 0 < least < most and upsampling >= 1):
            raise ValueError(
                "`bins` and `upsampling` must be at least 1, and 0 < least < most. "
                f"Received: bins={bins}, upsampling={upsampling}, least={least}, "
                f"most={most}."
            )
        self.bins, self.least, self.most = bins, least, most
        self.upsampling = upsampling
        # With large weights all bins may lose, and their mean has no gradient.
        spread = tf.keras.initializers.TruncatedNormal(stddev=0.01)
        self.dense = tf.keras.layers.Dense(
            bins, kernel_initializer=spread, name="dense"
        )

    def call(self, tokens: Tokens, grid: tuple[int, int], training=None):
        patches = tokens.patches
        cls = tf.broadcast_to(tokens.cls[:, tf.newaxis], tf.shape(patches))
        logits = _in_grid(self.dense(tf.concat([patches, cls], axis=2)), grid)
        size = [side * self.upsampling for side in grid]
        logits = tf.image.resize(logits, size)
        if self.bins == 1:
            return tf.nn.softplus(logits)
        return depth_of_bins(logits, self.least, self.most)[..., tf.newaxis]

    def finished(self, outputs: tf.Tensor) -> tf.Tensor:
        """Returns depths [B, H, W] within the limits, from outputs [B, H, W, 1]."""
        return tf.clip_by_value(outputs[..., 0], self.least, self.most)

    def get_config(self):
        return {
            "bins": self.bins,
            "least": self.least,
            "most": self.most,
            "upsampling": self.upsampling,
        }


@tf.keras.saving.register_keras_serializable("kerobust")
class DensePredictor(EncoderWithHead):
    """An encoder and a dense head: images to one prediction per pixel.

    Args:
        encoder: Maps images to `Tokens` whose patches cover the image row by row.
        head: `SegmentationHead` or `DepthHead`.

    Call arguments:
        images: float32 [B, H, W, C] in [0, 1], of known height and width.
        training: Of the head; the encoder is trained where it is trainable.

    Returns:
        Logits float32 [B, H, W, K], or depths float32 [B, H, W] in metres.
    """

    def __init__(self, encoder: tf.keras.Model, head, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.encoder, self.head = encoder, head
        with tf.init_scope():
            width = encoder.width
            head(Tokens(tf.zeros([1, width]), tf.zeros([1, 1, width])), (1, 1))
        self.built = True

    def call(self, images, training=None):
        inside = bool(training) and self.encoder.trainable
        tokens = self.encoder(images, training=inside)
        return self.read(tokens, images.shape[1:3], training)

    def read(self, tokens: Tokens, size, training=None) -> tf.Tensor:
        """Returns what the head says of the tokens of images of (height, width)."""
        height, width = size
        grid = grid_of(tokens.patches.shape[1], height, width)
        outputs = self.head(tokens, grid, training=training)
        return self.head.finished(tf.image.resize(outputs, [height, width]))


def grid_of(count: int, height: int, width: int) -> tuple[int, int]:
    """Returns (rows, columns) of `count` equal patches of an image.

    Raises:
        UserError: If no grid of the image's shape has so many.
    """
    rows = round(math.sqrt(count * height / width))
    columns = count // max(rows, 1)
    if rows * columns != count or rows * width != columns * height:
        raise UserError(
            "`encoder` must give patches that tile the image. Received: "
            f"{count} patches for {height} x {width} pixels. Choose a size that is a "
            "multiple of the patch size on both sides."
        )
    return rows, columns


def depth_of_bins(logits: tf.Tensor, least: float, most: float) -> tf.Tensor:
    """Returns the mean of depths evenly from `least` to `most`, weighted by logits.

    Weights are max(logit, 0) + 0.1, divided by their sum.

    Args:
        logits: float32 [..., K].
        least, most: First and last depth.
    """
    weights = tf.nn.relu(logits) + 0.1
    depths = tf.linspace(least, most, logits.shape[-1])
    total = tf.reduce_sum(weights, axis=-1)
    return tf.reduce_sum(weights * tf.cast(depths, weights.dtype), axis=-1) / total


def _in_grid(values: tf.Tensor, grid: tuple[int, int]) -> tf.Tensor:
    """Returns [B, N, K] as [B, rows, columns, K]."""
    return tf.reshape(values, [-1, *grid, values.shape[2]])
