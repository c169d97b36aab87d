"""The plain vision transformer, the encoder of every masked method."""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from kerobust.config import UserError, check_name
from kerobust.models.blocks import MLPS, Block, layer_norm
from kerobust.models.grids import check_patches, grid_of
from kerobust.models.normalisation import normalise, per_channel
from kerobust.models.positions import INTERPOLATIONS, resize_positions, sincos_2d
from kerobust.patches import patchify
from kerobust.types import Tokens

POSITIONS = ("sincos", "learned")


@tf.keras.saving.register_keras_serializable("kerobust")
class VisionTransformer(tf.keras.Model):
    """Encodes images, or a visible part of their patches, into tokens.

    All variables exist after construction. Tokens and feature maps are float32 under
    every precision policy, and pixels stay float32 up to the patch embedding. Initial
    values follow the global seed (`tf.keras.utils.set_random_seed`).

    Args:
        image_size: (height, width) in pixels.
        patch_size: Side of a patch; divides both.
        width, depth, heads: Token width, number of blocks, attention heads.
        mlp_ratio: Hidden width of the MLPs over `width`.
        positions: "sincos" (fixed unless `train_positions`) or "learned".
        drop_path: Drop-path rate of the last block, in [0, 1); it rises linearly from
            0 at the first.
        mean, std: Channel normalisation (images - mean) / std, one number or one per
            channel.
        channels: Channels of the images.
        final_norm: Whether a layer norm follows the last block. Fine-tuning with mean
            pooling drops it: the head has its own.
        train_positions: Whether sine-cosine positions are only the initial value of a
            weight.
        interpolation: How positions are fitted to images of another size: one of
            `kerobust.models.positions.INTERPOLATIONS`, or None, which refuses them.
        registers: Number of register tokens, learned, without positions, between class
            token and patches; no result holds them.
        layer_scale: Initial value of the weight per channel of every residual branch;
            None = no such weights.
        mlp: "gelu" or "swiglu", see `kerobust.models.blocks`.
        qkv_bias: Whether queries, keys and values have a bias.

    Call arguments:
        images: float32 [B, H, W, C] in [0, 1]; (H, W) is `image_size`, or with an
            `interpolation` any multiples of `patch_size` (N and row-major numbers are
            then those of the images).
        visible: int32 [B, K], patches to encode (row-major numbers); None encodes all.
            Only these are embedded, at their true positions.
        training: Python bool; drop path is active only if true.
        keys: int32 [B, 2], randomness of drop path.

    Returns:
        `Tokens`: cls float32 [B, D] and patches float32 [B, N or K, D] in the order of
        `visible`.

    Raises:
        UserError: If the sizes do not fit each other or the images.
        ValueError: If drop path needs `keys` and they are missing.

    References:
        Dosovitskiy et al., 2021, arXiv:2010.11929; He et al., 2022, arXiv:2111.06377
        (positions, initial values, visible patches); Darcet et al., 2024,
        arXiv:2309.16588 (registers); Touvron et al., 2021, arXiv:2103.17239, section 2
        (layer scale).

    Differences:
        The patch embedding is a dense layer on patch vectors (row, column, channel):
        the same function as a convolution whose stride is its kernel size.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        positions: str = "sincos",
        drop_path: float = 0.0,
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
        channels: int = 3,
        final_norm: bool = True,
        train_positions: bool = False,
        interpolation: str | None = None,
        registers: int = 0,
        layer_scale: float | None = None,
        mlp: str = "gelu",
        qkv_bias: bool = True,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.patch_size, self.width, self.depth = patch_size, width, depth
        self.heads, self.mlp, self.mlp_ratio = heads, mlp, mlp_ratio
        self.position_kind, self.channels = positions, channels
        self.final_norm, self.train_positions = final_norm, train_positions
        check_patches(self.image_size, patch_size)
        check_name("--model.positions", positions, POSITIONS)
        check_name("--model.mlp", mlp, MLPS)
        self.registers, self.qkv_bias, self.drop_path = registers, qkv_bias, drop_path
        self.layer_scale, self.interpolation = layer_scale, interpolation
        if interpolation is not None:
            check_name("--model.interpolation", interpolation, INTERPOLATIONS)
        self._mean = per_channel("mean", mean, channels)
        self._std = per_channel("std", std, channels)
        self._make_layers()
        self._make_variables()

    def _make_layers(self):
        self.cls_token = self.add_weight(
            "cls_token", [1, 1, self.width], initializer=_normal()
        )
        self.positions = self._make_positions()
        if self.registers:
            # So small as the code of DINOv2 starts them.
            self.register_tokens = self.add_weight(
                "register_tokens",
                [1, self.registers, self.width],
                initializer=tf.keras.initializers.RandomNormal(stddev=1e-6),
            )
        self.patch_embedding = tf.keras.layers.Dense(self.width, name="patch_embedding")
        rates = np.linspace(0.0, self.drop_path, self.depth)
        self.blocks = [
            Block(
                self.width,
                self.heads,
                mlp_ratio=self.mlp_ratio,
                drop_path=float(rate),
                index=index,
                layer_scale=self.layer_scale,
                mlp=self.mlp,
                qkv_bias=self.qkv_bias,
                name=f"block_{index}",
            )
            for index, rate in enumerate(rates)
        ]
        self.norm = layer_norm("norm", dtype="float32") if self.final_norm else None

    def _make_variables(self):
        """Runs the smallest forward there is: one patch of one image."""
        with tf.init_scope():
            image = tf.zeros([1, *self.image_size, self.channels])
            self.call(image, visible=tf.zeros([1, 1], tf.int32))
        self.built = True

    def _make_positions(self):
        """Returns the position embedding [1 + N, D]: a constant or a weight."""
        shape = [1 + self.grid[0] * self.grid[1], self.width]
        if self.position_kind == "learned":
            return self.add_weight("positions", shape, initializer=_normal())
        table = sincos_2d(*self.grid, self.width)
        if not self.train_positions:
            return table
        initial = tf.keras.initializers.Constant(table)
        return self.add_weight("positions", shape, initializer=initial)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = self.image_size
        return height // self.patch_size, width // self.patch_size

    def call(self, images, visible=None, training=None, keys=None) -> Tokens:
        tokens = self._embed(images, visible)
        for block in self.blocks:
            tokens = block(tokens, training=training, keys=keys)
        return self._finish(self._without_registers(tf.cast(tokens, tf.float32)))

    def feature_maps(self, images, training=None, keys=None) -> list[tf.Tensor]:
        """Returns the output of every block, float32 [B, 1 + N, D], class first."""
        return list(self.layer_outputs(images, training=training, keys=keys))

    @property
    def layer_count(self) -> int:
        """How many outputs `layer_outputs` yields."""
        return self.depth

    def layer_outputs(self, images, training=None, keys=None) -> Iterator[tf.Tensor]:
        """Yields `feature_maps` one by one; blocks after the last one do not run."""
        tokens = self._embed(images, None)
        for block in self.blocks:
            tokens = block(tokens, training=training, keys=keys)
            yield self._without_registers(tf.cast(tokens, tf.float32))

    def intermediate_tokens(
        self, images, count: int, training=None, keys=None
    ) -> list[Tokens]:
        """Returns the last `count` block outputs, each through the final norm.

        The last of them is what a call returns.

        Args:
            images, training, keys: As of a call.
            count: Number of blocks, in [1, depth].

        Raises:
            UserError: If there are not so many blocks.

        References:
            Caron et al., 2021, arXiv:2104.14294 (`get_intermediate_layers`).
        """
        if not 1 <= count <= self.depth:
            raise UserError(
                f"`count` must lie in [1, {self.depth}], the blocks of the encoder. "
                f"Received: count={count}."
            )
        maps = self.feature_maps(images, training=training, keys=keys)
        return [self._finish(tokens) for tokens in maps[-count:]]

    def last_attention(self, images) -> tf.Tensor:
        """Returns the attention of the last block, float32 [B, heads, 1 + N, 1 + N].

        Row i is what token i takes from each token (sum 1, less what the registers
        get), the class token first: `[:, :, 0, 1:]`, reshaped to the patch grid, is the
        picture people look at.

        Args:
            images: As of a call; drop path is off.

        References:
            Caron et al., 2021, arXiv:2104.14294, figure 1 (`get_last_selfattention`).
        """
        tokens = self._embed(images, None)
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        weights = self.blocks[-1].attention_weights(tokens)
        return self._without_registers(self._without_registers(weights, 2), 3)

    def layer_groups(self) -> list[list[tf.Variable]]:
        """Returns the trainable variables from input to output.

        Group 0 holds class token, positions and patch embedding, group k + 1 block k,
        the last one the rest (empty without a final norm).
        """
        groups = [block.trainable_variables for block in self.blocks]
        groups.append(self.norm.trainable_variables if self.norm is not None else [])
        grouped = {id(variable) for group in groups for variable in group}
        rest = [each for each in self.trainable_variables if id(each) not in grouped]
        return [rest, *groups]

    def get_config(self):
        return {
            "image_size": list(self.image_size),
            "patch_size": self.patch_size,
            "width": self.width,
            "depth": self.depth,
            "heads": self.heads,
            "mlp_ratio": self.mlp_ratio,
            "positions": self.position_kind,
            "drop_path": self.drop_path,
            "mean": self._mean.tolist(),
            "std": self._std.tolist(),
            "channels": self.channels,
            "final_norm": self.final_norm,
            "train_positions": self.train_positions,
            "interpolation": self.interpolation,
            "registers": self.registers,
            "layer_scale": self.layer_scale,
            "mlp": self.mlp,
            "qkv_bias": self.qkv_bias,
        }

    def _embed(self, images, visible):
        """Returns class token, registers and patches [B, 1 + R + N or K, D].

        They have the compute dtype.
        """
        new_grid = grid_of(
            images,
            (*self.image_size, self.channels),
            self.patch_size,
            any_size=self.interpolation is not None,
        )
        images = normalise(images, self._mean, self._std)
        patches = patchify(images, self.patch_size)
        # A surrounding model may read variables in half precision.
        positions, rule = tf.cast(self.positions, tf.float32), self.interpolation
        if rule is not None:
            positions = resize_positions(positions, self.grid, new_grid, rule)
        places = tf.cast(positions[tf.newaxis, 1:], self.compute_dtype)
        if visible is not None:
            patches = tf.gather(patches, visible, batch_dims=1)
            places = tf.gather(places[0], visible)
        patches = self.patch_embedding(patches) + places
        cls = tf.cast(self.cls_token, tf.float32) + positions[:1]
        cls = tf.cast(cls, self.compute_dtype)
        first = tf.repeat(self._with_registers(cls), tf.shape(patches)[0], axis=0)
        return tf.concat([first, patches], axis=1)

    def _with_registers(self, cls):
        """Returns class token and registers, [1, 1 + R, D]."""
        if not self.registers:
            return cls
        registers = tf.cast(self.register_tokens, cls.dtype)
        return tf.concat([cls, registers], axis=1)

    def _without_registers(self, tokens, axis=1):
        """Returns [..., 1 + N, ...] from [..., 1 + R + N, ...]."""
        if not self.registers:
            return tokens
        cls, _, patches = tf.split(tokens, [1, self.registers, -1], axis)
        return tf.concat([cls, patches], axis)

    def _finish(self, tokens) -> Tokens:
        """Returns float32 [B, 1 + N, D] after the final norm, if there is one."""
        if self.norm is not None:
            tokens = self.norm(tokens)
        return Tokens(tokens[:, 0], tokens[:, 1:])


def _normal():
    return tf.keras.initializers.RandomNormal(stddev=0.02)
