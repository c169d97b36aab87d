"""The views of DINO: two large crops and several small ones of every image."""

import dataclasses

import tensorflow as tf

from kerobust.config import Config, setting
from kerobust.data import colours
from kerobust.data.augmentations import random_flip, random_resized_crop
from kerobust.randomness import fold_in, uniform


@dataclasses.dataclass(frozen=True)
class ViewsConfig(Config):
    """Crops and changes of colour; the defaults are those of DINO for ImageNet."""

    SECTION = "views"

    global_size: int | None = setting(
        None,
        "Side of the two global crops in pixels; empty = that of the images.",
        low=1,
    )
    global_scale: tuple[float, ...] = setting(
        (0.4, 1.0),
        "Smallest and largest share of the area of a global crop.",
        low=0,
        high=1,
        open_low=True,
    )
    local_count: int = setting(8, "Local crops per image; 0 = none.", low=0)
    local_size: int = setting(
        96, "Side of the local crops in pixels, a multiple of the patch.", low=1
    )
    local_scale: tuple[float, ...] = setting(
        (0.05, 0.4),
        "Smallest and largest share of the area of a local crop.",
        low=0,
        high=1,
        open_low=True,
    )
    flip: bool = setting(True, "Whether views are mirrored with probability 1/2.")
    jitter: float = setting(
        1.0,
        "Factor on the colour jitter (brightness 0.4, contrast 0.4, saturation 0.2, hue"
        " 0.1, with probability 0.8); 0 = none.",
        low=0,
        high=2,
    )
    grey: float = setting(0.2, "Probability of taking the colours away.", low=0, high=1)
    blur: float = setting(
        2.0,
        "Largest standard deviation of the blur in pixels (probability 1, 0.1 and 0.5"
        " on global 1, global 2 and local crops); 0 = none.",
        low=0,
    )
    solarize: float = setting(
        0.2, "Probability of inverting the bright pixels of global 2.", low=0, high=1
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("global_scale", "local_scale"):
            value = getattr(self, name)
            self.require(
                len(value) == 2 and value[0] <= value[1],
                name,
                "must be two numbers, the smaller first",
            )


class MultiCrop:
    """Makes the views of a batch; give it to `training_batches` as `views`.

    Args:
        config: `ViewsConfig`.

    Call arguments:
        images: float32 [B, H, W, 3] in [0, 1].
        keys: int32 [B, 2], randomness of each example.

    Returns:
        {"global_views": float32 [B, 2, G, G, 3], "local_views": float32
        [B, V, L, L, 3]}, in [0, 1]; no local views if V is 0. Each view is a function
        of its image and key alone.

    References:
        Caron et al., 2021, arXiv:2104.14294, section 3.1 and appendix; the order is
        that of its code: crop, flip, jitter, grey, blur, solarize.

    Differences:
        Crops are taken from the images that the data set gives (a square), not from
        photographs of any shape; values are not rounded to 1/255 between the changes;
        see `colours` for the blur.
    """

    def __init__(self, config: ViewsConfig):
        self.config = config

    def __call__(self, images: tf.Tensor, keys: tf.Tensor) -> dict[str, tf.Tensor]:
        config, side = self.config, self.config.global_size
        size = tuple(images.shape[1:3]) if side is None else (side, side)
        keys = fold_in(keys, "views")
        given = (config.global_scale, size, [1.0, 0.1], [0.0, config.solarize])
        views = {"global_views": self._views(images, fold_in(keys, 1), *given)}
        if config.local_count:
            size, none = (config.local_size,) * 2, [0.0] * config.local_count
            given = (config.local_scale, size, [0.5] * config.local_count, none)
            views["local_views"] = self._views(images, fold_in(keys, 2), *given)
        return views

    def _views(self, images, keys, scale, size, blurred, solarized):
        """Returns views [B, V, h, w, C], all made at once.

        Args:
            images: float32 [B, H, W, C].
            keys: int32 [B, 2].
            scale, size: Of the crops.
            blurred, solarized: V probabilities, one per view.
        """
        config, count, batch = self.config, len(blurred), tf.shape(images)[0]
        numbers = tf.repeat(tf.range(count), batch)
        keys = fold_in(tf.tile(keys, [count, 1]), numbers)
        # One number per decision, the same for every setting of the others.
        draws = uniform(fold_in(keys, "decisions"), [4, 1, 1, 1])
        view = tf.tile(images, [count, 1, 1, 1])
        view = random_resized_crop(view, keys, scale, size=size)
        if config.flip:
            view = random_flip(view, keys)
        if config.jitter:
            spreads = (x * config.jitter for x in (0.4, 0.4, 0.2, 0.1))
            changed = colours.jitter(view, keys, *spreads)
            view = tf.where(draws[:, 0] < 0.8, changed, view)
        if config.grey:
            view = tf.where(draws[:, 1] < config.grey, colours.grey(view), view)
        if config.blur:
            changed = colours.blur(view, keys, min(0.1, config.blur), config.blur)
            view = tf.where(draws[:, 2] < _per_row(blurred, batch), changed, view)
        if config.solarize and any(solarized):
            chosen = draws[:, 3] < _per_row(solarized, batch)
            view = tf.where(chosen, colours.solarize(view), view)
        view = tf.reshape(view, [count, batch, *size, images.shape[-1]])
        return tf.transpose(view, [1, 0, 2, 3, 4])


def _per_row(probabilities, batch) -> tf.Tensor:
    """Returns one probability per row of V batches, float32 [V * B, 1, 1, 1]."""
    rows = tf.repeat(tf.constant(probabilities, tf.float32), batch)
    return rows[:, tf.newaxis, tf.newaxis, tf.newaxis]
