"""Random changes of colour and sharpness, one draw per example (see augmentations)."""

import tensorflow as tf

from kerobust.randomness import fold_in, uniform

_LUMA = (0.299, 0.587, 0.114)


def jitter(
    images: tf.Tensor,
    keys: tf.Tensor,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.2,
    hue: float = 0.1,
) -> tf.Tensor:
    """Returns the images with random brightness, contrast, saturation and hue.

    The four changes are made in an order that is random for each image; each result is
    clipped to [0, 1].

    Args:
        images: float32 [B, H, W, 3] in [0, 1].
        keys: int32 [B, 2].
        brightness, contrast, saturation: Factors are drawn from [1 - x, 1 + x], x in
            [0, 1].
        hue: Shift of the hue circle, drawn from [-x, x], x in [0, 0.5].

    References:
        torchvision's `ColorJitter`, as used by Caron et al., 2021, arXiv:2104.14294.

    Differences:
        Values are not rounded to 1/255 between the changes.
    """
    draws = uniform(fold_in(keys, "jitter"), [8, 1, 1, 1], -1.0, 1.0)
    changes = [
        (_brighten, 1 + brightness * draws[:, 0]),
        (_contrast, 1 + contrast * draws[:, 1]),
        (_saturate, 1 + saturation * draws[:, 2]),
        (_turn, hue * draws[:, 3]),
    ]
    order = tf.argsort(draws[:, 4:, 0, 0, 0], axis=1, stable=True)
    for turn in range(len(changes)):
        images = _each_its_own(images, order[:, turn], changes)
    return images


def _each_its_own(images, choice, changes):
    """Returns image b after change number `choice[b]`; each change sees its rows."""
    count, rows = len(changes), tf.range(tf.shape(images)[0])
    places = tf.dynamic_partition(rows, choice, count)
    parts = [
        tf.clip_by_value(change(tf.gather(images, at), tf.gather(factor, at)), 0.0, 1.0)
        for at, (change, factor) in zip(places, changes, strict=True)
    ]
    return tf.ensure_shape(tf.dynamic_stitch(places, parts), images.shape)


def _brighten(images, factor):
    return images * factor


def _contrast(images, factor):
    mean = tf.reduce_mean(grey(images), axis=[1, 2, 3], keepdims=True)
    return mean + factor * (images - mean)


def _saturate(images, factor):
    plain = grey(images)
    return plain + factor * (images - plain)


def _turn(images, shift):
    hue, saturation, value = tf.split(tf.image.rgb_to_hsv(images), 3, axis=-1)
    turned = tf.math.floormod(hue + shift, 1.0)
    return tf.image.hsv_to_rgb(tf.concat([turned, saturation, value], axis=-1))


def grey(images: tf.Tensor) -> tf.Tensor:
    """Returns the luma of images [B, H, W, 3], three equal channels (ITU-R 601)."""
    luma = tf.tensordot(images, tf.constant(_LUMA, images.dtype), axes=1)
    return tf.repeat(luma[..., tf.newaxis], 3, axis=-1)


def blur(images: tf.Tensor, keys: tf.Tensor, low: float, high: float) -> tf.Tensor:
    """Returns the images after a Gaussian blur of random width.

    Args:
        images: float32 [B, H, W, C] in [0, 1].
        keys: int32 [B, 2].
        low, high: Range of the standard deviation in pixels, 0 < low <= high.

    Differences:
        The Gaussian is exact and normalised over the pixels of the image; PIL, which
        DINO uses, approximates it by boxes and repeats the border.
    """
    sigma = uniform(fold_in(keys, "blur"), [1, 1], low, high)
    for axis, equation in ((1, "bsh,bhwc->bswc"), (2, "bsw,bhwc->bhsc")):
        images = tf.einsum(equation, _gaussian(sigma, images.shape[axis]), images)
    return tf.clip_by_value(images, 0.0, 1.0)  # Sums of weights are rounded.


def _gaussian(sigma: tf.Tensor, length: int) -> tf.Tensor:
    """Returns smoothing matrices float32 [B, length, length] for sigma [B, 1, 1]."""
    places = tf.range(length, dtype=tf.float32)
    distance = (places - places[:, tf.newaxis])[tf.newaxis] / sigma
    return tf.nn.softmax(-0.5 * tf.square(distance), axis=-1)


def solarize(images: tf.Tensor) -> tf.Tensor:
    """Returns the images with every value of at least 128 / 255 inverted."""
    return tf.where(images >= 128 / 255, 1.0 - images, images)
