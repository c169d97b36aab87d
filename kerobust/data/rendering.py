"""Renders rooms with solids in them: colours, surfaces and depths by casting rays.

Everything is convex, so a ray meets a solid in one interval, whose start is what is
seen; all pixels of a batch are one tensor. Lengths are metres; x is right, y up, z
ahead; the camera stands at x = z = 0 above the floor, which is y = 0.
"""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

FIELD_OF_VIEW = math.radians(60.0)
_FAR, _CLOSE = 1e6, 1e-4
_AMBIENT, _SHADOW = 0.35, 0.3
_OFF = (0.0, 0.0, 0.0, 1.0)  # A half-space that holds every point.
_SLOPES = ((1.0, 0.5, 0.0, 0.5), (-1.0, 0.5, 0.0, 0.5))
_ENDS = ((0.0, 0.0, 1.0, 1.0), (0.0, 0.0, -1.0, 1.0))
_BASE, _TOP = (0.0, -1.0, 0.0, 1.0), (0.0, 1.0, 0.0, 1.0)
_BOX = tuple(
    (*(sign * float(axis == k) for k in range(3)), limit)
    for axis, limit in enumerate((0.8, 1.0, 0.8))
    for sign in (1.0, -1.0)
)
# Solid -> (weights of the squares, height of the centre) of its quadric
# and its half-spaces (normal, offset), for -1 <= y <= 1.
_SOLIDS = {
    "ball": ((1.0, 1.0, 1.0), 0.0, ()),
    "cube": ((0.0, 0.0, 0.0), 0.0, _BOX),
    "cylinder": ((1.0, 0.0, 1.0), 0.0, (_BASE, _TOP)),
    "pyramid": (
        (0.0, 0.0, 0.0),
        0.0,
        (*_SLOPES, (0.0, 0.5, 1.0, 0.5), (0.0, 0.5, -1.0, 0.5), _BASE),
    ),
    "dome": ((1.0, 0.25, 1.0), -1.0, (_BASE,)),
    "prism": ((0.0, 0.0, 0.0), 0.0, (*_SLOPES, *_ENDS, _BASE)),
}
SOLIDS = tuple(_SOLIDS)
SURFACES = ("wall", "floor", *SOLIDS)
_SQUARES = np.array([squares for squares, _, _ in _SOLIDS.values()], np.float32)
_CENTRES = np.array([centre for _, centre, _ in _SOLIDS.values()], np.float32)
_PLANES = np.array(
    [(*planes, *[_OFF] * (6 - len(planes))) for _, _, planes in _SOLIDS.values()],
    np.float32,
)


class Room(NamedTuple):
    """Rooms with K solids; surfaces are the solids, then the floor, then the wall.

    Attributes:
        eye: float32 [B], height of the camera.
        pitch: float32 [B], how far it looks down, radians.
        wall: float32 [B], distance of the wall.
        light: float32 [B, 3], unit vector towards the lamp.
        kind: int32 [B, K], index into `SOLIDS`; -1 = there is none.
        centre: float32 [B, K, 3].
        half: float32 [B, K, 3], half the extent along the solid's own axes.
        yaw: float32 [B, K], turn about y, radians.
        colours: float32 [B, K + 2, 2, 3], two per surface, in [0, 1].
        pattern: int32 [B, K + 2], 0 plain, 1 checks, 2 stripes, 3 marble.
        frequency: float32 [B, K + 2], of the pattern, radians per metre.
        phase: float32 [B, K + 2, 3].
    """

    eye: tf.Tensor
    pitch: tf.Tensor
    wall: tf.Tensor
    light: tf.Tensor
    kind: tf.Tensor
    centre: tf.Tensor
    half: tf.Tensor
    yaw: tf.Tensor
    colours: tf.Tensor
    pattern: tf.Tensor
    frequency: tf.Tensor
    phase: tf.Tensor


class View(NamedTuple):
    """What a camera sees, P pixels row by row.

    Attributes:
        depths: float32 [B, P], along the axis of the camera, metres.
        surfaces: int32 [B, P], index of the surface.
        normals: float32 [B, 3, P].
        points: float32 [B, 3, P].
    """

    depths: tf.Tensor
    surfaces: tf.Tensor
    normals: tf.Tensor
    points: tf.Tensor


def look(room: Room, size: int) -> View:
    """Returns what `size` x `size` pixels see, each through its centre."""
    rays = _rays(room.pitch, size)
    eye = room.eye[:, tf.newaxis]
    start = tf.stack([tf.zeros_like(eye), eye, tf.zeros_like(eye)], axis=1)
    solids = _Solids(room)
    enter, sides = solids.met(start, rays)
    down = tf.where(rays[:, 1] < 0, -eye / rays[:, 1], _FAR)
    ahead = tf.where(rays[:, 2] > 0, room.wall[:, tf.newaxis] / rays[:, 2], _FAR)
    every = tf.concat([enter, down[:, tf.newaxis], ahead[:, tf.newaxis]], axis=1)
    surfaces = tf.argmin(every, axis=1, output_type=tf.int32)
    depths = tf.reduce_min(every, axis=1)
    points = start + depths[:, tf.newaxis] * rays
    normals = solids.normals(points, surfaces, sides)
    return View(depths, surfaces, normals, points)


def paint(room: Room, view: View) -> tf.Tensor:
    """Returns the colours of the pixels, float32 [B, P, 3] in [0, 1]."""
    light = room.light[:, :, tf.newaxis]
    facing = tf.maximum(tf.reduce_sum(view.normals * light, axis=1), 0.0)
    between, _ = _Solids(room).met(view.points, light)
    own = tf.one_hot(view.surfaces, between.shape[1], True, False, axis=1, dtype=bool)
    hidden = tf.reduce_any((between < _FAR) & ~own, axis=1)
    bright = _AMBIENT + (1.0 - _AMBIENT) * facing * tf.where(hidden, _SHADOW, 1.0)
    return _albedo(room, view) * bright[..., tf.newaxis]


def surface_classes(room: Room, view: View) -> tf.Tensor:
    """Returns the indices into `SURFACES` of what is seen, int32 [B, P]."""
    fixed = tf.tile([[1, 0]], [tf.shape(room.kind)[0], 1])
    classes = tf.concat([room.kind + 2, fixed], axis=1)
    return tf.gather(classes, view.surfaces, batch_dims=1)


def _rays(pitch: tf.Tensor, size: int) -> tf.Tensor:
    """Returns directions float32 [B, 3, size^2] of length 1 along the camera's axis."""
    span = math.tan(FIELD_OF_VIEW / 2)
    across = span * (2.0 * (np.arange(size, dtype=np.float32) + 0.5) / size - 1.0)
    right, up = (each.reshape(-1) for each in np.meshgrid(across, -across))
    cosine, sine = tf.cos(pitch)[:, tf.newaxis], tf.sin(pitch)[:, tf.newaxis]
    vertical, ahead = up * cosine - sine, up * sine + cosine
    return tf.stack([right + tf.zeros_like(ahead), vertical, ahead], axis=1)


class _Solids:
    """The solids of rooms, each of them one quadric and six half-spaces at most.

    With p in metres the quadric of a solid is squares . (map p - shift)^2 <= 1 and its
    half-spaces are planes . p <= offsets.
    """

    def __init__(self, room: Room):
        self.there, self.count = room.kind >= 0, room.kind.shape[1]
        kind = tf.maximum(room.kind, 0)
        cosine, sine, zero = tf.cos(room.yaw), tf.sin(room.yaw), tf.zeros_like(room.yaw)
        turn = [cosine, zero, -sine, zero, zero + 1.0, zero, sine, zero, cosine]
        turn = tf.reshape(tf.stack(turn, axis=2), [-1, self.count, 3, 3])
        self.map = turn / room.half[..., tf.newaxis]
        shift = tf.linalg.matvec(self.map, room.centre)
        self.shift = shift + tf.gather(_CENTRES, kind)[..., tf.newaxis] * [0.0, 1, 0]
        self.squares = tf.gather(_SQUARES, kind)
        local = tf.gather(_PLANES, kind)  # [B, K, 6, 4]
        self.planes = tf.linalg.matmul(local[..., :3], self.map)
        self.offsets = local[..., 3] + tf.linalg.matvec(local[..., :3], shift)

    def met(self, origins: tf.Tensor, rays: tf.Tensor):
        """Returns where rays enter every solid, and through which side.

        Args:
            origins, rays: float32 [B, 3, P]; P may be 1 in one of them.

        Returns:
            (float32 [B, K, P], in lengths of the ray, `_FAR` = not at all; int32
            [B, K, P], number of the plane, 6 = the quadric).
        """
        speed = self._apart(self.planes, rays)
        left = self.offsets[..., tf.newaxis] - self._apart(self.planes, origins)
        at = tf.math.divide_no_nan(left, speed)
        never = (speed == 0) & (left < 0)  # Along the plane, outside.
        enters = tf.where(speed < 0, at, tf.where(never, _FAR, -_FAR))
        leaves = tf.where(speed > 0, at, _FAR)
        round_in, round_out = self._quadric(origins, rays)
        enters = tf.concat([enters, round_in[:, :, tf.newaxis]], axis=2)
        enter = tf.reduce_max(enters, axis=2)
        leave = tf.minimum(tf.reduce_min(leaves, axis=2), round_out)
        met = (enter < leave) & (enter > _CLOSE) & self.there[..., tf.newaxis]
        sides = tf.argmax(enters, axis=2, output_type=tf.int32)
        return tf.where(met, enter, _FAR), sides

    def normals(self, points: tf.Tensor, surfaces: tf.Tensor, sides: tf.Tensor):
        """Returns the outward unit vectors at points of surfaces, float32 [B, 3, P]."""
        number = tf.minimum(surfaces, self.count - 1)
        side = tf.gather(tf.transpose(sides, [0, 2, 1]), number, axis=2, batch_dims=2)
        place = tf.linalg.matvec(
            tf.gather(self.map, number, batch_dims=1), tf.transpose(points, [0, 2, 1])
        ) - tf.gather(self.shift, number, batch_dims=1)
        bend = tf.gather(self.squares, number, batch_dims=1) * place
        bend = tf.linalg.matvec(
            tf.gather(self.map, number, batch_dims=1), bend, transpose_a=True
        )
        planes = tf.reshape(self.planes, [-1, 6 * self.count, 3])
        flat = tf.gather(planes, 6 * number + tf.minimum(side, 5), batch_dims=1)
        found = tf.where((side == 6)[..., tf.newaxis], bend, flat)
        still = tf.constant([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0]])
        still = tf.gather(still, tf.maximum(surfaces - self.count, 0))
        found = tf.where((surfaces >= self.count)[..., tf.newaxis], still, found)
        return tf.transpose(tf.math.l2_normalize(found, axis=2), [0, 2, 1])

    def _quadric(self, origins, rays):
        """Returns where lines enter and leave the quadrics, float32 [B, K, P] each."""
        ray = self._apart(self.map, rays)
        origin = self._apart(self.map, origins) - self.shift[..., tf.newaxis]
        squares = self.squares[..., tf.newaxis]
        second = tf.reduce_sum(squares * ray * ray, axis=2)
        first = tf.reduce_sum(squares * ray * origin, axis=2)
        rest = tf.reduce_sum(squares * origin * origin, axis=2) - 1.0
        inside = first * first - second * rest
        root = tf.sqrt(tf.maximum(inside, 0.0))
        curved, miss = second > 0, inside <= 0
        enter = tf.math.divide_no_nan(-first - root, second)
        enter = tf.where(curved, tf.where(miss, _FAR, enter), -_FAR)
        leave = tf.math.divide_no_nan(-first + root, second)
        return enter, tf.where(curved, leave, _FAR)

    def _apart(self, maps: tf.Tensor, vectors: tf.Tensor) -> tf.Tensor:
        """Returns maps [B, K, M, 3] of vectors [B, 3, P], float32 [B, K, M, P]."""
        rows = maps.shape[2]
        flat = tf.linalg.matmul(tf.reshape(maps, [-1, self.count * rows, 3]), vectors)
        return tf.reshape(flat, [-1, self.count, rows, vectors.shape[2]])


def _albedo(room: Room, view: View) -> tf.Tensor:
    """Returns the colours of the surfaces without light, float32 [B, P, 3]."""
    colours, pattern, frequency, phase = (
        tf.gather(each, view.surfaces, batch_dims=1)
        for each in (room.colours, room.pattern, room.frequency, room.phase)
    )
    x, y, z = tf.unstack(
        view.points * frequency[:, tf.newaxis] + tf.transpose(phase, [0, 2, 1]), axis=1
    )
    first, second, total = tf.sin(x), tf.sin(y), x + y + z
    checks = tf.cast(first * second * tf.sin(z) > 0, tf.float32)
    stripes = tf.cast(tf.sin(total) > 0, tf.float32)
    marble = 0.5 + 0.5 * tf.sin(total + 2.0 * first + second)
    share = tf.where(pattern == 3, marble, 0.0)
    share = tf.where(pattern == 2, stripes, share)
    share = tf.where(pattern == 1, checks, share)[..., tf.newaxis]
    return colours[..., 0, :] * (1.0 - share) + colours[..., 1, :] * share
