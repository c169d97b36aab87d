"""The plain vision transformer, the encoder of every masked method."""

import dataclasses

import numpy as np
import tensorflow as tf

from kerobust.config import Config, UserError, check_name, setting
from kerobust.models.blocks import Block, layer_norm
from kerobust.models.normalisation import normalise, per_channel
from kerobust.models.positions import INTERPOLATIONS, resize_positions, sincos_2d
from kerobust.patches import patchify
from kerobust.types import Tokens

SIZES = {  # name: (width, depth, heads)
    "free": (64, 4, 4),
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}
POSITIONS = ("sincos", "learned")


@dataclasses.dataclass(frozen=True)
class VitConfig(Config):
    """Shape of a vision transformer."""

    SECTION = "model"

    size: str = setting(
        "free",
        "Sets width, depth and heads together: free (64, 4, 4), tiny (192, 12, 3), "
        "small (384, 12, 6), base (768, 12, 12), large (1024, 24, 16).",
        choices=tuple(SIZES),
    )
    width: int | None = setting(None, "Token width; empty = that of the size.", low=1)
    depth: int | None = setting(None, "Blocks; empty = that of the size.", low=1)
    heads: int | None = setting(None, "Heads; empty = that of the size.", low=1)
    patch_size: int = setting(2, "Side of a patch in pixels; divides the image.", low=1)
    positions: str = setting(
        "sincos", "Position embedding: fixed sine-cosine or learned.", choices=POSITIONS
    )
    interpolation: str | None = setting(
        None,
        "How positions are fitted to images of another size, by the source of the "
        "weights; empty = other sizes are refused.",
        choices=INTERPOLATIONS,
    )
    mean: tuple[float, ...] = setting(
        (0.0,), "Subtracted from the pixels: one number, or one per channel."
    )
    std: tuple[float, ...] = setting(
        (1.0,),
        "Then divides the pixels: one number, or one per channel.",
        low=0,
        open_low=True,
    )

    def build(
        self,
        image_shape: tuple[int, int, int],
        drop_path: float = 0.0,
        *,
        final_norm: bool = True,
        train_positions: bool = False,
    ) -> "VisionTransformer":
        """Returns a new encoder for images of (height, width, channels)."""
        width, depth, heads = SIZES[self.size]
        height, image_width, channels = image_shape
        return VisionTransformer(
            (height, image_width),
            self.patch_size,
            self.width or width,
            self.depth or depth,
            self.heads or heads,
            positions=self.positions,
            interpolation=self.interpolation,
            drop_path=drop_path,
            mean=self.mean,
            std=self.std,
            channels=channels,
            final_norm=final_norm,
            train_positions=train_positions,
        )


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
        (positions, initial values, visible patches).

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
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.patch_size, self.width, self.depth = patch_size, width, depth
        self.heads, self.mlp_ratio, self.drop_path = heads, mlp_ratio, drop_path
        self.position_kind, self.channels = positions, channels
        self.final_norm, self.train_positions = final_norm, train_positions
        _check_patches(self.image_size, patch_size)
        check_name("--model.positions", positions, POSITIONS)
        self.interpolation = interpolation
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
        self.patch_embedding = tf.keras.layers.Dense(self.width, name="patch_embedding")
        rates = np.linspace(0.0, self.drop_path, self.depth)
        self.blocks = [
            Block(
                self.width,
                self.heads,
                mlp_ratio=self.mlp_ratio,
                drop_path=float(rate),
                index=index,
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
        return self._finish(tf.cast(tokens, tf.float32))

    def feature_maps(self, images, training=None, keys=None) -> list[tf.Tensor]:
        """Returns the output of every block, float32 [B, 1 + N, D], class first."""
        tokens, maps = self._embed(images, None), []
        for block in self.blocks:
            tokens = block(tokens, training=training, keys=keys)
            maps.append(tf.cast(tokens, tf.float32))
        return maps

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

        Row i is what token i takes from each token (sum 1), the class token first:
        `[:, :, 0, 1:]`, reshaped to the patch grid, is the picture people look at.

        Args:
            images: As of a call; drop path is off.

        References:
            Caron et al., 2021, arXiv:2104.14294, figure 1 (`get_last_selfattention`).
        """
        tokens = self._embed(images, None)
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        return self.blocks[-1].attention_weights(tokens)

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
        }

    def _embed(self, images, visible):
        """Returns class token and patches, [B, 1 + N or K, D], in the compute dtype."""
        new_grid = self._check_images(images)
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
        cls = tf.repeat(cls, tf.shape(patches)[0], axis=0)
        return tf.concat([cls, patches], axis=1)

    def _finish(self, tokens) -> Tokens:
        """Returns float32 [B, 1 + N, D] after the final norm, if there is one."""
        if self.norm is not None:
            tokens = self.norm(tokens)
        return Tokens(tokens[:, 0], tokens[:, 1:])

    def _check_images(self, images) -> tuple[int, int]:
        """Returns the patch grid of the images, refusing sizes that do not fit."""
        sides, patch = tuple(images.shape[1:3]), self.patch_size
        fits = sides == self.image_size
        if self.interpolation is not None and None not in sides:
            fits = all(side >= patch and side % patch == 0 for side in sides)
        if fits and images.shape[-1] == self.channels:
            return sides[0] // patch, sides[1] // patch
        if self.interpolation is not None:
            raise UserError(
                f"`images` must be [B, H, W, {self.channels}], H and W multiples of "
                f"the patch size {patch}. Received: images.shape={images.shape}. "
                "Crop or resize them (--data.image_size)."
            )
        expected = (*self.image_size, self.channels)
        raise UserError(
            f"`images` must be [B, {', '.join(map(str, expected))}], the size the "
            f"encoder was built for. Received: images.shape={images.shape}. "
            "Resize them (--data.image_size), build another encoder, or choose how "
            "its positions are fitted (--model.interpolation)."
        )


def _normal():
    return tf.keras.initializers.RandomNormal(stddev=0.02)


def _check_patches(image_size: tuple[int, int], patch_size: int) -> None:
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
