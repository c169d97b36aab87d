"""The rendered scenes: geometry against a slow reference, laws, splits, bad names."""

import math

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.data import DataConfig, load, rendering
from kerobust.data.rendering import SOLIDS, SURFACES
from kerobust.data.scenes import FARTHEST, NEAREST, Scenes, draw_rooms
from kerobust.randomness import example_keys

SIZE = 16


def rooms(count: int, seed: int = 0) -> rendering.Room:
    return draw_rooms(example_keys(seed, 0, tf.range(count)))


def alone(kind: str, half=(1.0, 1.0, 1.0), yaw: float = 0.0) -> rendering.Room:
    """Returns one room of seed 0 with one solid on the floor, four metres ahead."""
    room = rooms(1)
    number, solids = SOLIDS.index(kind), room.kind.shape[1]
    return room._replace(
        kind=tf.constant([[number, *[-1] * (solids - 1)]]),
        centre=tf.tile([[[0.3, half[1], 4.0]]], [1, solids, 1]),
        half=tf.tile([[half]], [1, solids, 1]),
        yaw=tf.fill([1, solids], yaw),
    )


def inside(kind: str, points: np.ndarray) -> np.ndarray:
    """Whether points [..., 3] of the solid's own coordinates are in it."""
    x, y, z = (points[..., axis] for axis in range(3))
    low = np.abs(y) <= 1
    roof = np.abs(x) + y / 2 <= 0.5
    return {
        "ball": x**2 + y**2 + z**2 <= 1,
        "cube": low & (np.abs(x) <= 0.8) & (np.abs(z) <= 0.8),
        "cylinder": low & (x**2 + z**2 <= 1),
        "pyramid": low & roof & (np.abs(z) + y / 2 <= 0.5),
        "dome": (y >= -1) & (x**2 + ((y + 1) / 2) ** 2 + z**2 <= 1),
        "prism": low & roof & (np.abs(z) <= 1),
    }[kind]


@pytest.mark.parametrize("kind", SOLIDS)
def test_depths_are_those_of_small_steps_along_every_ray(kind):
    half, yaw, step = (0.8, 0.9, 0.7), 0.6, 2e-3
    room = alone(kind, half, yaw)
    view = rendering.look(room, SIZE)

    span = math.tan(rendering.FIELD_OF_VIEW / 2)
    grid = span * (2 * (np.arange(SIZE) + 0.5) / SIZE - 1)
    right, up = (each.ravel() for each in np.meshgrid(grid, -grid))
    pitch, eye = float(room.pitch[0]), float(room.eye[0])
    rays = np.stack(
        [
            right,
            up * math.cos(pitch) - math.sin(pitch),
            up * math.sin(pitch) + math.cos(pitch),
        ],
        axis=1,
    )
    lengths = np.arange(2.5, 6.0, step)
    points = [0, eye, 0] + lengths[:, None, None] * rays
    centred = points - room.centre[0, 0].numpy()
    turned = np.stack(
        [
            math.cos(yaw) * centred[..., 0] - math.sin(yaw) * centred[..., 2],
            centred[..., 1],
            math.sin(yaw) * centred[..., 0] + math.cos(yaw) * centred[..., 2],
        ],
        axis=-1,
    )
    hit = inside(kind, turned / half)
    seen = hit.any(axis=0)
    found = view.surfaces.numpy()[0] == 0
    assert seen.sum() > 8 and np.mean(seen != found) <= 1 / SIZE**2
    both = seen & found
    expected = lengths[hit.argmax(axis=0)][both]
    depths = view.depths.numpy()[0][both]
    assert np.all((depths <= expected + 1e-4) & (depths >= expected - step - 1e-4))


def test_normals_point_at_the_eye_and_are_the_slopes_of_the_surface():
    room = rooms(8)
    view = rendering.look(room, 32)
    normals, points = view.normals.numpy(), view.points.numpy()
    eye = np.stack([np.zeros(8), room.eye, np.zeros(8)], axis=1)[..., None]

    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-5)
    assert np.sum(normals * (eye - points), axis=1).min() > -1e-3


def test_an_empty_room_is_its_floor_and_its_wall():
    room = rooms(2)
    room = room._replace(kind=tf.fill(tf.shape(room.kind), -1))
    view = rendering.look(room, SIZE)
    points, surfaces = view.points.numpy(), view.surfaces.numpy()
    classes = rendering.surface_classes(room, view).numpy()

    floor = surfaces == surfaces.max() - 1
    assert set(np.unique(classes)) == {0, 1} and np.all((classes == 1) == floor)
    np.testing.assert_allclose(points[:, 1][floor], 0.0, atol=1e-5)
    walls = np.broadcast_to(room.wall.numpy()[:, None], floor.shape)
    np.testing.assert_allclose(points[:, 2][~floor], walls[~floor], rtol=1e-5)


def test_a_lamp_behind_a_solid_puts_the_floor_in_front_into_its_shadow():
    room = alone("cube")._replace(
        light=tf.constant([[0.0, 0.6, 0.8]]),
        pattern=tf.zeros([1, 6], tf.int32),
        colours=tf.ones([1, 6, 2, 3]),
    )
    view = rendering.look(room, 64)
    colours = rendering.paint(room, view).numpy()[0, :, 0]
    points, floor = view.points.numpy()[0], view.surfaces.numpy()[0] == 4

    shadow = floor & (np.abs(points[0] - 0.3) < 0.5) & (np.abs(points[2] - 2.6) < 0.4)
    away = floor & (points[0] < -1.0)
    assert shadow.any() and away.any()
    assert colours[shadow].max() < colours[away].min()


def test_every_image_has_a_label_that_can_be_seen_and_depths_in_range():
    split = load(DataConfig(name="scenes")).splits["test"].subset(np.arange(64))
    found = split.read(tf.range(split.size), ("masks", "depths"))
    images, masks, depths = (found[x].numpy() for x in ("images", "masks", "depths"))
    labels = split.labels

    assert split.annotations == {"masks", "depths"}
    assert images.shape == (64, 64, 64, 3) and masks.shape == depths.shape == (64,) * 3
    assert depths.min() > NEAREST and depths.max() < FARTHEST
    wanted = [SURFACES.index(SOLIDS[label]) for label in labels]
    shown = (masks == np.reshape(wanted, [-1, 1, 1])).sum(axis=(1, 2))
    assert shown.min() >= 100
    np.testing.assert_array_equal(split.arrays()[0], images)
    np.testing.assert_array_equal(np.round(images * 255) / np.float32(255), images)
    assert set(np.unique(masks)) == set(range(len(SURFACES)))


def test_an_image_is_its_number_whatever_is_read_beside_it():
    scenes = Scenes(0, SIZE)
    many = scenes.fetch(tf.range(40)).numpy()

    np.testing.assert_array_equal(scenes.fetch(tf.constant([37, 3])), many[[37, 3]])
    assert not np.array_equal(Scenes(1, SIZE).fetch(tf.range(40)), many)
    assert tf.function(scenes.fetch)(tf.range(2)).shape == (2, SIZE, SIZE, 3)


def test_shapes_are_as_frequent_as_each_other_and_size_is_a_setting():
    source = load(DataConfig(name="scenes:3", image_size=32))

    assert source.image_shape == (32, 32, 3)
    assert {k: s.size for k, s in source.splits.items()} == {
        "train": 4000,
        "validation": 500,
        "test": 1000,
    }
    counts = np.bincount(source.splits["train"].labels, minlength=6)
    assert np.abs(counts - 4000 / 6).max() < 5 * math.sqrt(4000 / 6)
    assert source.digest != load(DataConfig(name="scenes", image_size=32)).digest


def test_three_of_four_solids_wear_what_is_usual_for_their_shape():
    room = draw_rooms(example_keys(0, 0, tf.range(2000)))
    kind, pattern, colours = (
        each.numpy() for each in (room.kind, room.pattern, room.colours)
    )

    for number, usual in enumerate([1, 1, 2, 2, 3, 0]):
        share = np.mean(pattern[:, :4][kind == number] == usual)
        assert share == pytest.approx(0.75 + 0.25 / 4, abs=0.05)
        worn = colours[:, :4][kind == number].reshape(-1, 6)
        near = np.abs(worn - np.median(worn, axis=0)).max(axis=1) < 0.2
        assert near.mean() == pytest.approx(0.75, abs=0.05)
    free = np.bincount(pattern[:, 4:].ravel()) / 4000
    np.testing.assert_allclose(free, 0.25, atol=0.04)
    first, second = np.moveaxis(colours, 2, 0)
    contrast = np.abs(first - second).max(axis=(0, 2))
    assert contrast[:4].min() > 0.7 and contrast[4:].max() < 0.25


@pytest.mark.parametrize("name", ["scenes:-1", "scenes:x", "scenes:1.5"])
def test_a_seed_that_is_no_whole_number_is_refused(name):
    with pytest.raises(UserError, match="must be scenes or scenes:SEED"):
        load(DataConfig(name=name))
