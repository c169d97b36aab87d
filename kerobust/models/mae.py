"""Random masks and the decoder of masked autoencoders."""

from typing import NamedTuple

import tensorflow as tf

from kerobust.models.blocks import Block, layer_norm
from kerobust.models.positions import sincos_2d
from kerobust.types import Tokens


class Mask(NamedTuple):
    """Which patches of each example an encoder sees.

    Attributes:
        visible: int32 [B, K], numbers of the visible patches, in shuffled order.
        restore: int32 [B, N], place of every patch in the shuffled order.
        removed: float32 [B, N], 1 for hidden patches, in row-major patch order.
    """

    visible: tf.Tensor
    restore: tf.Tensor
    removed: tf.Tensor


def random_mask(noise: tf.Tensor, kept: int) -> Mask:
    """Keeps the `kept` patches of each example whose noise is smallest.

    Args:
        noise: float32 [B, N], uniform draws.
        kept: Number of visible patches, a Python int (shapes stay static).

    References:
        He et al., 2022, arXiv:2111.06377, section 3 (`random_masking` of its code).
    """
    shuffled = tf.argsort(noise, axis=1, stable=True)
    restore = tf.argsort(shuffled, axis=1, stable=True)
    removed = tf.cast(restore >= kept, tf.float32)
    return Mask(shuffled[:, :kept], restore, removed)


def pixel_mask(values: tf.Tensor, grid: tuple[int, int], patch_size: int) -> tf.Tensor:
    """Spreads one number per patch over the patch's pixels.

    Args:
        values: [B, N], N = rows * columns.
        grid: (rows, columns).
        patch_size: Side of a patch in pixels.

    Returns:
        [B, H, W, 1].
    """
    rows, columns = grid
    image = tf.reshape(values, [-1, rows, columns, 1])
    return tf.repeat(tf.repeat(image, patch_size, axis=1), patch_size, axis=2)


@tf.keras.saving.register_keras_serializable("kerobust")
class MaeDecoder(tf.keras.Model):
    """Predicts the pixels of every patch from the tokens of the visible ones.

    Args:
        grid: (rows, columns) of the patch grid.
        patch_size: Side of a patch in pixels.
        input_width: Width of the encoder's tokens; with it, all variables exist after
            construction.
        width, depth, heads: Token width, blocks and attention heads of the decoder.
        channels: Channels of the images.

    Call arguments:
        tokens: `Tokens` of the visible patches: cls [B, E], patches [B, K, E].
        restore: int32 [B, N], see `Mask`.

    Returns:
        float32 [B, N, patch_size * patch_size * C], row-major patches, each ordered
        (row in patch, column in patch, channel).

    References:
        He et al., 2022, arXiv:2111.06377, section 3; the default size is that of Xu et
        al. (MIMIR), arXiv:2312.04960.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        patch_size: int,
        *,
        input_width: int,
        width: int = 128,
        depth: int = 2,
        heads: int = 16,
        channels: int = 3,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.grid = (int(grid[0]), int(grid[1]))
        self.patch_size, self.channels = patch_size, channels
        self.width, self.depth, self.heads = width, depth, heads
        self.input_width = input_width
        self.positions = sincos_2d(*self.grid, width)
        self.mask_token = self.add_weight(
            "mask_token",
            [1, 1, width],
            initializer=tf.keras.initializers.RandomNormal(stddev=0.02),
        )
        self.embedding = tf.keras.layers.Dense(width, name="embedding")
        self.blocks = [
            Block(width, heads, index=index, name=f"block_{index}")
            for index in range(depth)
        ]
        self.norm = layer_norm("norm", dtype="float32")
        self.prediction = tf.keras.layers.Dense(
            patch_size**2 * channels, dtype="float32", name="prediction"
        )
        self._make_variables()

    def _make_variables(self):
        """Runs the smallest forward there is: one image with nothing visible."""
        with tf.init_scope():
            patches = tf.zeros([1, 0, self.input_width])
            restore = tf.range(self.grid[0] * self.grid[1])[tf.newaxis]
            self.call(Tokens(tf.zeros([1, self.input_width]), patches), restore)
        self.built = True

    def call(self, tokens: Tokens, restore):
        visible = tf.concat([tokens.cls[:, tf.newaxis], tokens.patches], axis=1)
        visible = self.embedding(visible)
        batch, patches = tf.shape(restore)[0], restore.shape[1]
        hidden = patches - (tf.shape(visible)[1] - 1)
        mask_token = tf.cast(self.mask_token, visible.dtype)
        shuffled = tf.concat(
            [visible[:, 1:], tf.tile(mask_token, [batch, hidden, 1])], axis=1
        )
        ordered = tf.gather(shuffled, restore, batch_dims=1)
        sequence = tf.concat([visible[:, :1], ordered], axis=1)
        sequence += tf.cast(self.positions, sequence.dtype)
        for block in self.blocks:
            sequence = block(sequence)
        return self.prediction(self.norm(sequence[:, 1:]))

    def get_config(self):
        return {
            "grid": list(self.grid),
            "patch_size": self.patch_size,
            "input_width": self.input_width,
            "width": self.width,
            "depth": self.depth,
            "heads": self.heads,
            "channels": self.channels,
        }
