"""Convolutional backbones of keras-cv as encoders."""

import inspect
import json
from typing import Any

import tensorflow as tf

from kerobust.config import UserError, check_name
from kerobust.models.normalisation import normalise, per_channel
from kerobust.types import Tokens

# Classes of `keras_cv.models`: maps of pixels, and no layer that needs a fixed size.
BACKBONES = (
    "CSPDarkNetBackbone",
    "DenseNetBackbone",
    "EfficientNetLiteBackbone",
    "EfficientNetV1Backbone",
    "EfficientNetV2Backbone",
    "MobileNetV3Backbone",
    "ResNetBackbone",
    "ResNetV2Backbone",
)
_RESNETS = {  # Layers: (kind of block, blocks of the four stages).
    18: ("basic_block", [2, 2, 2, 2]),
    34: ("basic_block", [3, 4, 6, 3]),
    50: ("block", [3, 4, 6, 3]),
    101: ("block", [3, 4, 23, 3]),
    152: ("block", [3, 8, 36, 3]),
}
# Name of a preset of keras-cv, which itself would fetch these: (class, settings).
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    f"resnet{depth}{suffix}": (
        kind,
        {
            "stackwise_filters": [64, 128, 256, 512],
            "stackwise_blocks": blocks,
            "stackwise_strides": [1, 2, 2, 2],
            "block_type": block,
        },
    )
    for suffix, kind in (("", "ResNetBackbone"), ("_v2", "ResNetV2Backbone"))
    for depth, (block, blocks) in _RESNETS.items()
} | {
    f"densenet{depth}": ("DenseNetBackbone", {"stackwise_num_repeats": repeats})
    for depth, repeats in (
        (121, [6, 12, 24, 16]),
        (169, [6, 12, 32, 32]),
        (201, [6, 12, 48, 32]),
    )
}
# Set here. Rescaling would follow the normalisation, to pixels in [0, 1 / 255].
_FIXED = ("include_rescaling", "input_shape", "input_tensor")
# Rates of what draws from the global generator: no key, no exact continuation.
_RATES = ("dropout_rate", "drop_connect_rate", "skip_connection_dropout")
_TRIAL = 256  # Side of the images whose maps tell the strides.


@tf.keras.saving.register_keras_serializable("kerobust")
class KerasCvEncoder(tf.keras.Model):
    """Encodes images by a convolutional backbone of keras-cv, with weights of its own.

    Nothing is downloaded: the backbone is built from its settings, and layers behind
    the map that is read are not kept. All variables exist after construction. Tokens
    are float32 under every precision policy, and pixels stay float32 up to the first
    convolution. Batch norm is synchronised: with several replicas its statistics are
    those of the global batch.

    Args:
        backbone: Class of `keras_cv.models` in `BACKBONES`, or name in `PRESETS`.
        stride: Pixels of an image per pixel of the map that is read, on either side:
            the last map of that stride, as the backbone's own pyramid has it. Empty =
            the output of the backbone, mostly at stride 32.
        mean, std: Channel normalisation (images - mean) / std, one number or one per
            channel.
        channels: Channels of the images.
        **settings: Arguments of the class, numbers, strings and lists of them; they
            replace those of a preset.

    Call arguments:
        images: float32 [B, H, W, C] in [0, 1], H and W multiples of the stride.
        training: Python bool; it changes nothing but batch norm.
        keys: Not used: nothing here is random. Taken because other encoders need them.

    Returns:
        `Tokens`: patches float32 [B, N, D], the pixels of the map in row-major order, N
        = H / stride * W / stride; cls float32 [B, D], their mean.

    Raises:
        UserError: If backbone, settings or stride are unknown or impossible, or images
            have other channels or sides.

    References:
        Wood et al., 2022, KerasCV, https://github.com/keras-team/keras-cv.

    Differences:
        Drop rates are 0, and must be: keras-cv draws from a global generator, which no
        key controls. `include_rescaling` is off. Maps of ResNetV2 before the last one
        are those of the pyramid of keras-cv: sums, without batch norm and ReLU.
    """

    def __init__(
        self,
        backbone: str,
        *,
        stride: int | None = None,
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
        channels: int = 3,
        name: str | None = None,
        **settings,
    ):
        super().__init__(autocast=False, name=name)
        self.backbone, self.channels = backbone, channels
        self._mean = per_channel("mean", mean, channels)
        self._std = per_channel("std", std, channels)
        self._settings = json.dumps(_plain(settings))  # Keras would track a dict.
        whole = _build(backbone, settings, channels)
        strides = _strides(whole, channels)
        last = _last_map(strides, stride)
        self.body = tf.keras.Model(whole.inputs, whole.get_layer(last).output)
        self.stride, self.width = strides[last], self.body.output_shape[-1]
        self._levels = tuple(strides)
        for layer in self.body.submodules:
            if isinstance(layer, tf.keras.layers.BatchNormalization):
                # As its constructor does; those of keras-cv do not hand it through.
                layer.synchronized, layer.fused = True, False
        self.built = True

    def call(self, images, training=None, keys=None) -> Tokens:
        self._check(images)
        images = normalise(images, self._mean, self._std)
        found = tf.cast(self.body(images, training=bool(training)), tf.float32)
        rows, columns = found.shape[1:3]
        count = -1 if None in (rows, columns) else rows * columns
        patches = tf.reshape(found, [tf.shape(found)[0], count, self.width])
        return Tokens(tf.reduce_mean(patches, axis=1), patches)

    def layer_groups(self) -> list[list[tf.Variable]]:
        """Returns the trainable variables from input to output.

        A group ends with each map of the backbone's pyramid, the first one holds the
        stem too, and with the map that is read; the last one is empty.
        """
        groups: list[list[tf.Variable]] = [[]]
        for layer in self.body.layers:
            groups[-1] += layer.trainable_variables
            if layer.name in self._levels:
                groups.append([])
        return groups

    def get_config(self):
        return {
            "backbone": self.backbone,
            "stride": self.stride,
            "mean": self._mean.tolist(),
            "std": self._std.tolist(),
            "channels": self.channels,
            **json.loads(self._settings),
        }

    def _check(self, images) -> None:
        *sides, channels = images.shape[1:]
        if channels != self.channels or any(
            side and side % self.stride for side in sides
        ):
            raise UserError(
                f"`images` must be [B, H, W, {self.channels}], H and W multiples of "
                f"the stride {self.stride}. Received: images.shape={images.shape}. "
                "Crop or resize them (--data.image_size), or choose a lower `stride`."
            )


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings if a bundle can hold them and they hold no code."""

    def plain(value) -> bool:
        if isinstance(value, list | tuple):
            return all(map(plain, value))
        return value is None or isinstance(value, bool | int | float | str)

    for name, value in settings.items():
        if not plain(value):
            raise UserError(
                f"`{name}` must be a number, a string or a list of these. "
                f"Received: {name}={value!r}."
            )
    return settings


def _build(backbone: str, settings: dict[str, Any], channels: int) -> tf.keras.Model:
    """Returns the backbone for images of any size, with new weights."""
    check_name("backbone", backbone, (*BACKBONES, *PRESETS))
    import keras_cv

    kind, given = PRESETS.get(backbone, (backbone, {}))
    make = getattr(keras_cv.models, kind)
    taken = inspect.signature(make).parameters.keys() - {*_FIXED, "kwargs"}
    for name in settings:
        check_name("settings", name, sorted(taken - {*_RATES}))
    quiet = dict.fromkeys(taken & {*_RATES}, 0.0)
    fixed = {"include_rescaling": False, "input_shape": (None, None, channels)}
    try:
        return make(**{**given, **settings}, **quiet, **fixed)
    except (TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"`settings` must be arguments that keras_cv.models.{kind} can be built "
            f"from. Received: {settings}, and it says: {error}"
        ) from error


def _strides(backbone: tf.keras.Model, channels: int) -> dict[str, int]:
    """Returns the stride of every map of the pyramid, and of the output, by layer."""
    names = [*backbone.pyramid_level_inputs.values(), backbone.layers[-1].name]
    names = list(dict.fromkeys(names))
    maps = [backbone.get_layer(name).output for name in names]
    trial = tf.keras.Input((_TRIAL, _TRIAL, channels))
    found = tf.keras.Model(backbone.inputs, {"maps": maps})(trial)["maps"]
    sides = [each.shape[1] for each in found]
    return {name: _TRIAL // side for name, side in zip(names, sides, strict=True)}


def _last_map(strides: dict[str, int], stride: int | None) -> str:
    """Returns the name of the layer whose output is read."""
    *_, last = strides
    found = [name for name, each in strides.items() if stride in (None, each)]
    if not found:
        known = ", ".join(map(str, sorted(set(strides.values()))))
        raise UserError(
            f"`stride` must be that of a map of the backbone: {known}. "
            f"Received: stride={stride}."
        )
    return last if stride is None else found[-1]
