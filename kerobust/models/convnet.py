"""A small convolutional network without batch norm."""

import dataclasses
from collections.abc import Iterator

import tensorflow as tf

from kerobust.config import Config, UserError, setting
from kerobust.models.normalisation import normalise, per_channel
from kerobust.types import Tokens


@tf.keras.saving.register_keras_serializable("kerobust")
class ConvNet(tf.keras.Model):
    """Encodes images of one size: convolutions with pooling, then dense layers.

    Every convolution is followed by ReLU and the largest of each 2 x 2 pixels, every
    dense layer by ReLU. With a `ClassifierHead(10, pooling="cls", norm=False)` and 32 x
    32 pixels it has 62,006 parameters. All variables exist after construction, and
    everything is float32.

    Args:
        image_size: (height, width).
        widths: Channels of the convolutions.
        hidden: Widths of the dense layers.
        kernel_size: Side of the convolutions.
        padding: "valid" (maps shrink) or "same".
        mean, std: Channel normalisation (images - mean) / std, one number or one per
            channel.
        channels: Channels of the images.

    Call arguments:
        images: float32 [B, H, W, C] in [0, 1].
        training, keys: Not used: nothing here is random or keeps statistics. Taken
            because other encoders need them.

    Returns:
        `Tokens`: cls float32 [B, D], the last hidden layer; patches [B, 1, D], the same
        as the only patch.

    Raises:
        UserError: If the images are too small or have another shape.

    References:
        LeCun et al., 1998, "Gradient-based learning applied to document recognition",
        in the form of PyTorch's CIFAR-10 tutorial.

    Differences:
        Initial biases are 0; kernels are uniform as PyTorch's, in +-1/sqrt(inputs).
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        *,
        widths: tuple[int, ...] = (6, 16),
        hidden: tuple[int, ...] = (120, 84),
        kernel_size: int = 5,
        padding: str = "valid",
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
        channels: int = 3,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.widths, self.hidden = tuple(widths), tuple(hidden)
        self.kernel_size, self.padding = kernel_size, padding
        self.channels, self.width = channels, self.hidden[-1]
        self._mean = per_channel("mean", mean, channels)
        self._std = per_channel("std", std, channels)
        self._check_size()
        self.convolutions = [
            tf.keras.layers.Conv2D(
                width, kernel_size, padding=padding, **_settings(f"conv_{index}")
            )
            for index, width in enumerate(self.widths)
        ]
        self.dense = [
            tf.keras.layers.Dense(width, **_settings(f"dense_{index}"))
            for index, width in enumerate(self.hidden)
        ]
        self.flatten = tf.keras.layers.Flatten()
        with tf.init_scope():
            self.call(tf.zeros([1, *self.image_size, channels]))
        self.built = True

    def call(self, images, training=None, keys=None) -> Tokens:
        *_, last = self.layer_outputs(images)
        last = tf.nn.relu(last)
        return Tokens(last, last[:, tf.newaxis])

    @property
    def layer_count(self) -> int:
        """How many outputs `layer_outputs` yields, one per layer with weights."""
        return len(self.widths) + len(self.hidden)

    def layer_outputs(self, images, training=None, keys=None) -> Iterator[tf.Tensor]:
        """Yields the output of every layer before its ReLU, float32, input to output.

        Args:
            images, training, keys: As of a call.
        """
        if images.shape[1:] != (*self.image_size, self.channels):
            raise UserError(
                f"`images` must be [B, {self.image_size[0]}, {self.image_size[1]}, "
                f"{self.channels}], which the encoder was built for. Received: "
                f"images.shape={images.shape}."
            )
        features = normalise(images, self._mean, self._std)
        for layer in self.convolutions:
            features = layer(features)
            yield features
            features = tf.nn.max_pool2d(tf.nn.relu(features), 2, 2, "VALID")
        features = self.flatten(features)
        for layer in self.dense:
            features = layer(features)
            yield features
            features = tf.nn.relu(features)

    def layer_groups(self) -> list[list[tf.Variable]]:
        """Returns the trainable variables from input to output, a group per layer."""
        layers = [*self.convolutions, *self.dense]
        return [*(layer.trainable_variables for layer in layers), []]

    def get_config(self):
        return {
            "image_size": list(self.image_size),
            "widths": list(self.widths),
            "hidden": list(self.hidden),
            "kernel_size": self.kernel_size,
            "padding": self.padding,
            "mean": self._mean.tolist(),
            "std": self._std.tolist(),
            "channels": self.channels,
        }

    def _check_size(self):
        lost = self.kernel_size - 1 if self.padding == "valid" else 0
        for side in self.image_size:
            left = side
            for _ in self.widths:
                left = (left - lost) // 2
            if left < 1:
                raise UserError(
                    "`--conv.kernel_size` must leave at least a pixel after "
                    f"{len(self.widths)} convolutions and poolings of {side} pixels. "
                    f"Received: kernel_size={self.kernel_size}, padding={self.padding}."
                    " Use padding same, a smaller kernel or larger images."
                )


def _settings(name: str) -> dict:
    """Returns what all layers have in common."""
    uniform = tf.keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
    return {"kernel_initializer": uniform, "dtype": "float32", "name": name}


@dataclasses.dataclass(frozen=True)
class ConvConfig(Config):
    """Shape of the small convolutional network."""

    SECTION = "conv"

    widths: tuple[int, ...] = setting((6, 16), "Channels of the convolutions.", low=1)
    hidden: tuple[int, ...] = setting((120, 84), "Widths of the dense layers.", low=1)
    kernel_size: int = setting(5, "Side of the convolutions.", low=1)
    padding: str = setting(
        "valid",
        "valid: maps shrink at their borders; same: they do not.",
        choices=("valid", "same"),
    )

    def build(self, image_shape: tuple[int, int, int], mean, std) -> ConvNet:
        """Returns a new encoder for images of (height, width, channels).

        Args:
            image_shape: (height, width, channels).
            mean, std: Channel normalisation, as of `ConvNet`.
        """
        settings = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        height, width, channels = image_shape
        size = (height, width)
        return ConvNet(size, mean=mean, std=std, channels=channels, **settings)
