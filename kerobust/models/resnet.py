"""Residual networks for small images: what they share, and those of three stages."""

from collections.abc import Iterator

import tensorflow as tf

from kerobust.config import UserError, check_name
from kerobust.models.normalisation import normalise, per_channel
from kerobust.types import Tokens

WIDTHS = (16, 32, 64)  # Channels of the three stages.
SHORTCUTS = ("zeros", "projection")
_ONE_AROUND = [[0, 0], [1, 1], [1, 1], [0, 0]]


class ResidualBlock(tf.keras.layers.Layer):
    """Two 3x3 convolutions, added to their input.

    Where the stride or the width changes, the shortcut keeps every stride-th pixel and
    gets channels of zeros, as many before its own as after them (one fewer before if
    they are odd).

    Args:
        width: Channels of the result, at least those of the input.
        stride: Stride of the first convolution and of the shortcut.

    References:
        He et al., 2016, arXiv:1512.03385, figure 2 left and section 3.3, option A.
    """

    def __init__(self, width: int, stride: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.width, self.stride = width, stride
        self.conv1 = convolution(width, stride, "conv1")
        self.norm1 = batch_norm("norm1")
        self.conv2 = convolution(width, 1, "conv2")
        self.norm2 = batch_norm("norm2")

    def call(self, maps, training=None):
        """Returns float [B, H / stride, W / stride, width], sizes rounded up.

        Args:
            maps: float [B, H, W, C].
            training: Python bool; batch norm uses and records statistics of the batch
                if true.
        """
        _, total = self.halves(maps, training)
        return tf.nn.relu(total)

    def halves(self, maps, training=None) -> Iterator[tf.Tensor]:
        """Yields what is computed before each ReLU: the inner map, then the sum.

        Args:
            maps, training: As in `call`; nothing after the map that is taken last runs.
        """
        maps = tf.cast(maps, self.compute_dtype)
        # At stride 2, padding "same" would put everything at the right and the bottom.
        padded = maps if self.stride == 1 else tf.pad(maps, _ONE_AROUND)
        branch = self.norm1(self.conv1(padded), training=training)
        yield branch
        branch = self.norm2(self.conv2(tf.nn.relu(branch)), training=training)
        yield branch + self._shortcut(maps, training)

    def _shortcut(self, maps, training):
        zeros = self.width - maps.shape[-1]
        if self.stride == 1 and zeros == 0:
            return maps
        kept = maps[:, :: self.stride, :: self.stride]
        around = [zeros // 2, zeros - zeros // 2]
        return tf.pad(kept, [[0, 0], [0, 0], [0, 0], around])


class ProjectionBlock(ResidualBlock):
    """A `ResidualBlock` whose shortcut has weights where shapes change.

    There, the shortcut is a convolution of single pixels at the block's stride, and
    batch norm.

    Args:
        width: Channels of the result.
        stride: Stride of the first convolution and of the shortcut.
        projects: Whether the shortcut has weights; else it is the input itself.

    References:
        He et al., 2016, arXiv:1512.03385, section 3.3, option B.
    """

    def __init__(self, width: int, stride: int = 1, *, projects: bool, **kwargs):
        super().__init__(width, stride, **kwargs)
        self.projects = projects
        if projects:
            self.shortcut = convolution(width, stride, "shortcut", side=1)
            self.shortcut_norm = batch_norm("shortcut_norm")

    def _shortcut(self, maps, training):
        if not self.projects:
            return maps
        return self.shortcut_norm(self.shortcut(maps), training=training)


class ResidualNetwork(tf.keras.Model):
    """What residual networks share: a first convolution, then stages of blocks.

    A subclass sets `channels`, `width` (of the last stage), `_mean`, `_std`, `conv1`,
    `norm1` and `stages` (lists of blocks), then calls `_make_variables`.
    """

    def _make_variables(self):
        """Runs the smallest forward there is: one pixel."""
        with tf.init_scope():
            self.call(tf.zeros([1, 1, 1, self.channels]), training=False)
        self.built = True

    def call(self, images, training=None, keys=None) -> Tokens:
        last = self.feature_maps(images, training=training)[-1]
        patches = tf.reshape(last, [tf.shape(last)[0], -1, self.width])
        return Tokens(tf.reduce_mean(patches, axis=1), patches)

    def feature_maps(self, images, training=None, keys=None) -> list[tf.Tensor]:
        """Returns the output of every stage, float32 [B, H, W, D], finest first.

        H and W are those of the first convolution in the first stage; each later stage
        halves (rounding up) the sizes and doubles the width.
        """
        features = tf.nn.relu(self._first(images, training))
        maps = []
        for stage in self.stages:
            for block in stage:
                features = block(features, training=training)
            maps.append(tf.cast(features, tf.float32))
        return maps

    @property
    def layer_count(self) -> int:
        """How many maps `layer_outputs` yields: the first, then two of every block."""
        return 1 + 2 * sum(map(len, self.stages))

    def layer_outputs(self, images, training=None, keys=None) -> Iterator[tf.Tensor]:
        """Yields the map before every ReLU, float32 [B, H, W, D], input to output.

        Layers after the one that is taken last neither run nor touch batch norm.

        Args:
            images, training, keys: As of a call.

        References:
            Yang et al., 2020, arXiv:2009.14720, and its code: the layers of DVERGE.
        """
        features = self._first(images, training)
        yield tf.cast(features, tf.float32)
        for stage in self.stages:
            for block in stage:
                for half in block.halves(tf.nn.relu(features), training):
                    yield tf.cast(half, tf.float32)
                features = half

    def _first(self, images, training):
        """Returns the first convolution, normalised."""
        if images.shape[-1] != self.channels:
            raise UserError(
                f"`images` must be [B, H, W, {self.channels}], with the channels that "
                f"the encoder was built for. Received: images.shape={images.shape}."
            )
        images = self._padded(normalise(images, self._mean, self._std))
        return self.norm1(self.conv1(images), training=training)

    def layer_groups(self) -> list[list[tf.Variable]]:
        """Returns the trainable variables from input to output.

        Group 0 holds the first convolution, group k block k counted through the stages
        from 1, the last one nothing: there is no final norm.
        """
        first = self.conv1.trainable_variables + self.norm1.trainable_variables
        blocks = [block for stage in self.stages for block in stage]
        return [first, *(block.trainable_variables for block in blocks), []]

    def _padded(self, images):
        """Returns what the first convolution reads; a subclass may pad it."""
        return images


@tf.keras.saving.register_keras_serializable("kerobust")
class ResNet(ResidualNetwork):
    """Encodes images of any size with three stages of residual blocks.

    A convolution, then (depth - 2) / 6 blocks each of 16, 32 and 64 channels; stages 2
    and 3 halve height and width. `Classifier(ResNet(20), ClassifierHead(10,
    norm=False))` is the ResNet-20 of the paper. All variables exist after construction.
    Tokens and feature maps are float32 under every precision policy, and pixels stay
    float32 up to the first convolution.

    Batch norm is synchronised: with several replicas its statistics are those of the
    global batch.

    Args:
        depth: Layers with weights, the classifier's included: 6 n + 2.
        mean, std: Channel normalisation (images - mean) / std, one number or one per
            channel.
        channels: Channels of the images.
        shortcut: Where a block changes the shape: "zeros", channels of zeros, or
            "projection", a convolution of single pixels with batch norm (272,474
            parameters at depth 20, with the classifier).

    Call arguments:
        images: float32 [B, H, W, C] in [0, 1].
        training: Python bool; it changes nothing but batch norm.
        keys: Not used: batch norm is the only difference between training and
            inference. Taken because other encoders need it.

    Returns:
        `Tokens`: patches float32 [B, N, 64], the pixels of the last map in row-major
        order, N = H / 4 * W / 4 (rounded up twice); cls float32 [B, 64], their mean.

    Raises:
        UserError: If the depth is impossible or the images have other channels.

    References:
        He et al., 2016, arXiv:1512.03385, section 4.2; He et al., 2015,
        arXiv:1502.01852, section 2.2 (initial values). Yang et al., 2020,
        arXiv:2009.14720, and its code (projections).

    Differences:
        Initial kernels have variance 2 over their inputs; those of DVERGE's code take
        the outputs. The running variance is that of the batch divided by B H W; PyTorch
        divides by B H W - 1.
    """

    def __init__(
        self,
        depth: int = 20,
        *,
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
        channels: int = 3,
        shortcut: str = "zeros",
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        check_name("shortcut", shortcut, SHORTCUTS)
        if depth < 8 or depth % 6 != 2:
            raise UserError(
                "`depth` must be 6 n + 2, such as 8, 20, 32, 44 or 56. "
                f"Received: depth={depth}."
            )
        self.depth, self.channels, self.width = depth, channels, WIDTHS[-1]
        self.shortcut = shortcut
        self._mean = per_channel("mean", mean, channels)
        self._std = per_channel("std", std, channels)
        self._make_layers()
        self._make_variables()

    def _make_layers(self):
        self.conv1 = convolution(WIDTHS[0], 1, "conv1")
        self.norm1 = batch_norm("norm1")
        self.stages = [
            [self._block(stage, index, width) for index in range((self.depth - 2) // 6)]
            for stage, width in enumerate(WIDTHS)
        ]

    def _block(self, stage: int, index: int, width: int) -> ResidualBlock:
        halves = stage > 0 and index == 0
        stride, name = 2 if halves else 1, f"stage_{stage}_block_{index}"
        if self.shortcut == "zeros":
            return ResidualBlock(width, stride, name=name)
        return ProjectionBlock(width, stride, projects=halves, name=name)

    def get_config(self):
        return {
            "depth": self.depth,
            "mean": self._mean.tolist(),
            "std": self._std.tolist(),
            "channels": self.channels,
            "shortcut": self.shortcut,
        }


def convolution(
    width: int, stride: int, name: str, *, side: int = 3, padding: str | None = None
) -> tf.keras.layers.Conv2D:
    """Returns a convolution without bias; at stride 2 the caller pads."""
    return tf.keras.layers.Conv2D(
        width,
        side,
        stride,
        padding=padding or ("same" if stride == 1 else "valid"),
        use_bias=False,
        kernel_initializer=tf.keras.initializers.VarianceScaling(
            2.0, distribution="untruncated_normal"
        ),
        name=name,
    )


def batch_norm(name: str) -> tf.keras.layers.BatchNormalization:
    """Returns a batch norm with PyTorch's epsilon and momentum."""
    return tf.keras.layers.BatchNormalization(
        epsilon=1e-5, momentum=0.9, synchronized=True, name=name
    )
