"""The synthetic data set `scenes`: rendered rooms with exact labels, masks and depths.

Nothing is stored or downloaded: an image is a function of the seed and its number.
The label is the shape of the solid in front; up to three others stand behind it.
Masks tell wall, floor and the shapes apart. Three of four solids wear the pattern and
the colours that are usual for their shape, as things do; the others wear anything.
"""

import hashlib
import math

import numpy as np
import tensorflow as tf

from kerobust.config import UserError
from kerobust.data import rendering
from kerobust.data.config import DataConfig
from kerobust.data.rendering import SOLIDS, SURFACES, Room
from kerobust.data.splits import DataSource, consecutive
from kerobust.randomness import example_keys, uniform

TRAIN, VALIDATION, TEST = 4000, 500, 1000
NEAREST, FARTHEST = 1.0, 10.0  # Metres; all depths lie between them.
_SIZE, _SOLIDS, _VERSION = 64, 4, 2
_USUAL, _CALM = 0.75, 0.25  # Chance of the usual pattern; contrast of floor and wall.
# Pattern, its frequencies and its two colours that are usual for each of `SOLIDS`.
_MATERIALS = (
    (1, 4.0, 6.0, ((0.85, 0.20, 0.20), (0.95, 0.90, 0.85))),
    (1, 10.0, 14.0, ((0.20, 0.70, 0.25), (0.15, 0.25, 0.15))),
    (2, 4.0, 6.0, ((0.25, 0.35, 0.90), (0.90, 0.55, 0.15))),
    (2, 10.0, 14.0, ((0.90, 0.80, 0.20), (0.30, 0.20, 0.15))),
    (3, 5.0, 9.0, ((0.75, 0.25, 0.75), (0.90, 0.70, 0.90))),
    (0, 4.0, 14.0, ((0.20, 0.75, 0.80), (0.20, 0.75, 0.80))),
)
_ROOM = [[0, 0], [0, 2]]  # Floor and wall come after the solids.
_SHADE = 0.15  # Largest distance of a colour from its usual one.
_DRAWS = 192  # More than a room needs.
_LEVELS = np.arange(256, dtype=np.float32) / np.float32(255)
_CHUNK = 32  # Images rendered at once: larger blocks do not stay in a CPU's cache.


class Scenes:
    """Rendered images and what is in them; row i is image i of the seed.

    Args:
        seed: At least 0.
        size: Side of the images, pixels.
    """

    def __init__(self, seed: int, size: int):
        self.seed, self.size = seed, size
        self.image_shape = (size, size, 3)
        self.annotations = ("masks", "depths")

    def fetch(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns float32 [B, H, W, 3], whole multiples of 1/255."""
        return self.annotated(rows, ())["images"]

    def annotated(self, rows: tf.Tensor, kinds) -> dict[str, tf.Tensor]:
        """Returns "images" and the kinds of annotations, see `Pictures`.

        Masks hold indices into `rendering.SURFACES`; depths are along the axis of the
        camera.
        """
        found = self._render(rows, tuple(kinds))
        for name, values in found.items():  # Compiled for batches of any size.
            found[name] = tf.ensure_shape(values, [rows.shape[0], *values.shape[1:]])
        return found

    @tf.function(autograph=False, reduce_retracing=True)
    def _render(self, rows: tf.Tensor, kinds: tuple) -> dict[str, tf.Tensor]:
        count = tf.shape(rows)[0]
        starts = tf.range(0, count, _CHUNK)[:, tf.newaxis]
        # All chunks have one size, so that an image is the same in each of them.
        spread = tf.gather(rows, tf.minimum(starts + tf.range(_CHUNK), count - 1))
        keys = example_keys(self.seed, 0, tf.reshape(spread, [-1]))
        types = {"images": tf.float32, "masks": tf.int32, "depths": tf.float32}
        found = tf.map_fn(
            lambda each: self._rendered(each, kinds),
            tf.reshape(keys, [-1, _CHUNK, 2]),
            fn_output_signature={name: types[name] for name in ("images", *kinds)},
        )
        return {name: self._together(part, count) for name, part in found.items()}

    def labels(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns indices into `rendering.SOLIDS`, int32 [B]."""
        return draw_rooms(example_keys(self.seed, 0, rows)).kind[:, 0]

    def _rendered(self, keys, kinds) -> dict[str, tf.Tensor]:
        """Returns what one chunk of rooms looks like, [_CHUNK, H * W, ...]."""
        room = draw_rooms(keys)
        view = rendering.look(room, self.size)
        levels = tf.cast(tf.round(255.0 * rendering.paint(room, view)), tf.int32)
        # A table: graphs may turn a division into a product, which rounds otherwise.
        colours = tf.gather(_LEVELS, levels)
        found = {"images": colours, "depths": view.depths}
        found["masks"] = rendering.surface_classes(room, view)
        return {name: found[name] for name in ("images", *kinds)}

    def _together(self, chunks: tf.Tensor, count) -> tf.Tensor:
        """Returns the first `count` images of chunks, [count, H, W, ...]."""
        shape = [self.size, self.size, *chunks.shape[3:]]
        return tf.reshape(chunks, [-1, *shape])[:count]


def load_scenes(config: DataConfig) -> DataSource:
    """Returns 4,000, 500 and 1,000 scenes of 64 x 64 pixels or `config.image_size`.

    `--data.name` is `scenes`, or `scenes:SEED` for others.

    Raises:
        UserError: If the seed is no whole number.
    """
    _, _, seed = config.name.partition(":")
    if not (seed or "0").isdecimal() or int(seed or 0) >= 2**31:
        raise UserError(
            "`--data.name` must be scenes or scenes:SEED with a whole number. "
            f"Received: name={config.name}. Write scenes:1 for others than those of 0."
        )
    scenes = Scenes(int(seed or 0), config.image_size or _SIZE)
    labels = scenes.labels(tf.range(TRAIN + VALIDATION + TEST)).numpy()
    parts = {
        "train": labels[:TRAIN],
        "validation": labels[TRAIN : TRAIN + VALIDATION],
        "test": labels[TRAIN + VALIDATION :],
    }
    about = f"scenes version {_VERSION} seed {scenes.seed} size {scenes.size}"
    report = {"source": "rendered, synthetic", "kept": "rendered when read"}
    return DataSource(
        config.name,
        SOLIDS,
        hashlib.sha256(about.encode()).hexdigest(),
        consecutive(scenes, parts),
        report,
        mask_names=SURFACES,
    )


def draw_rooms(keys: tf.Tensor) -> Room:
    """Returns a room for each key int32 [B, 2]: that in front is solid number 0."""
    draw = _Draws(keys)
    eye, pitch = draw([], 1.3, 2.0), draw([], 0.2, 0.35)
    wall = draw([], 6.5, 9.0)
    around, above = draw([], 0.0, 2 * math.pi), draw([], 0.5, 1.2)
    light = tf.stack(
        [
            tf.cos(above) * tf.sin(around),
            tf.sin(above),
            # From behind the camera: what is seen is never all in the dark.
            -tf.cos(above) * tf.abs(tf.cos(around)),
        ],
        axis=1,
    )
    kind, centre, half = _placed(draw, wall)
    yaw = draw([_SOLIDS], 0.0, 2 * math.pi)
    colours, pattern, frequency = _worn(draw, kind)
    phase = draw([_SOLIDS + 2, 3], 0.0, 2 * math.pi)
    return Room(
        eye,
        pitch,
        wall,
        light,
        kind,
        centre,
        half,
        yaw,
        colours,
        pattern,
        frequency,
        phase,
    )


class _Draws:
    """Uniform draws for each key, one after the other."""

    def __init__(self, keys: tf.Tensor):
        self._rest = uniform(keys, [_DRAWS])

    def __call__(self, shape, low: float, high: float) -> tf.Tensor:
        count = math.prod(shape)
        drawn, self._rest = tf.split(self._rest, [count, -1], axis=1)
        return low + (high - low) * tf.reshape(drawn, [-1, *shape])


def _worn(draw: _Draws, kind: tf.Tensor):
    """Returns colours, patterns and frequencies of all surfaces, see `Room`.

    Most solids wear what is usual for their shape, the others and the room anything;
    floor and wall are calmer than what stands between them.
    """
    pattern, low, high, colours = (
        tf.gather(tf.constant(each), tf.maximum(kind, 0))
        for each in zip(*_MATERIALS, strict=True)
    )
    colours += draw([_SOLIDS, 2, 3], -_SHADE, _SHADE)
    frequency = low + (high - low) * draw([_SOLIDS], 0.0, 1.0)
    usual = tf.pad(draw([_SOLIDS], 0.0, 1.0) < _USUAL, _ROOM)
    first, second = tf.unstack(draw([_SOLIDS + 2, 2, 3], 0.1, 1.0), axis=2)
    calm = tf.constant([1.0] * _SOLIDS + [_CALM] * 2)[:, tf.newaxis]
    any_colours = tf.stack([first, first + calm * (second - first)], axis=2)
    any_pattern = tf.cast(draw([_SOLIDS + 2], 0.0, 4.0), tf.int32)
    any_frequency = draw([_SOLIDS + 2], 4.0, 14.0)
    colours = tf.pad(tf.clip_by_value(colours, 0.1, 1.0), [*_ROOM, [0, 0], [0, 0]])
    return (
        tf.where(usual[..., tf.newaxis, tf.newaxis], colours, any_colours),
        tf.where(usual, tf.pad(pattern, _ROOM), any_pattern),
        tf.where(usual, tf.pad(frequency, _ROOM), any_frequency),
    )


def _placed(draw: _Draws, wall: tf.Tensor):
    """Returns kinds int32 [B, K], centres and half extents float32 [B, K, 3]."""
    kind = tf.cast(draw([_SOLIDS], 0.0, float(len(SOLIDS))), tf.int32)
    others = draw([_SOLIDS - 1], 0.0, 1.0) < 0.5
    kind = tf.concat([kind[:, :1], tf.where(others, kind[:, 1:], -1)], axis=1)
    size = draw([_SOLIDS], 0.45, 0.75)
    stretch = draw([_SOLIDS, 3], 0.85, 1.2)
    half = size[..., tf.newaxis] * stretch
    near = draw([1], 2.2, 2.8)
    # Behind the first one, and before the wall.
    share, span = draw([_SOLIDS - 1], 0.0, 1.0), wall[:, tf.newaxis] - 1.1
    far = near + 1.9
    ahead = tf.concat([near, far + share * (span - far)], axis=1)
    side = draw([_SOLIDS], -1.0, 1.0)
    reach = tf.constant([0.22] + [0.5] * (_SOLIDS - 1))
    return kind, tf.stack([side * reach * ahead, half[..., 1], ahead], axis=2), half
