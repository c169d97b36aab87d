"""The views of DINO: two large crops and several small ones of every image."""

import dataclasses

import tensorflow as tf

from kerobust.config import Config, setting
from kerobust.data import colours
from kerobust.data.augmentations import random_flip, random_resized_crop
from kerobust.randomness import fold_in

_AREA = {"low": 0, "high": 1, "open_low": True}


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
        (0.4, 1.0), "Smallest and largest share of the area of a global crop.", **_AREA
    )
    local_count: int = setting(8, "Local crops per image; 0 = none.", low=0)
    local_size: int = setting(
        96, "Side of the local crops in pixels, a multiple of the patch.", low=1
    )
    local_scale: tuple[float, ...] = setting(
        (0.05, 0.4), "Smallest and largest share of the area of a local crop.", **_AREA
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

    # Probability of a blur, of a solarization.
    _GLOBAL = ((1.0, False), (0.1, True))
    _LOCAL = (0.5, False)

    def __init__(self, config: ViewsConfig):
        self.config = config

    def __call__(self, images: tf.Tensor, keys: tf.Tensor) -> dict[str, tf.Tensor]:
        config = self.config
        size = config.global_size
        large = size or tuple(images.shape[1:3])
        globals_ = [
            self._view(
                images, fold_in(keys, 100 + index), config.global_scale, large, *how
            )
            for index, how in enumerate(self._GLOBAL)
        ]
        views = {"global_views": tf.stack(globals_, axis=1)}
        if config.local_count:
            locals_ = [
                self._view(
                    images,
                    fold_in(keys, 200 + index),
                    config.local_scale,
                    config.local_size,
                    *self._LOCAL,
                )
                for index in range(config.local_count)
            ]
            views["local_views"] = tf.stack(locals_, axis=1)
        return views

    def _view(self, images, keys, scale, size, blur, solarize):
        config = self.config
        size = (size, size) if isinstance(size, int) else size
        view = random_resized_crop(images, keys, scale, size=size)
        if config.flip:
            view = random_flip(view, keys)
        if config.jitter:
            factor = config.jitter
            spreads = (0.4 * factor, 0.4 * factor, 0.2 * factor, 0.1 * factor)
            changed = colours.jitter(view, keys, *spreads)
            view = colours.sometimes("jitters", 0.8, keys, view, changed)
        if config.grey:
            changed = colours.grey(view)
            view = colours.sometimes("grey", config.grey, keys, view, changed)
        if config.blur:
            changed = colours.blur(view, keys, min(0.1, config.blur), config.blur)
            view = colours.sometimes("blurs", blur, keys, view, changed)
        if solarize and config.solarize:
            changed = colours.solarize(view)
            view = colours.sometimes("solarize", config.solarize, keys, view, changed)
        return view
