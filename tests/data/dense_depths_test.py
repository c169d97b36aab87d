"""Folders of images and depth maps: units, sequences, mistakes."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kerobust.config import UserError
from kerobust.data import DataConfig, load
from kerobust.data.depths import divide

SHAPE = (8, 10)


def write(root: pathlib.Path, frames, first: int = 0, dtype=np.uint16) -> None:
    """Writes frames whose number is in their pixels: depth 1,000 + number."""
    (root / "rgb").mkdir(parents=True, exist_ok=True)
    (root / "depth").mkdir(parents=True, exist_ok=True)
    for frame in frames:
        number = first + frame
        Image.new("RGB", SHAPE[::-1], (number, 0, 0)).save(
            root / "rgb" / f"{frame}.png"
        )
        values = np.full(SHAPE, 1000 + number if dtype == np.uint16 else 9, dtype)
        values[0] = 0
        Image.fromarray(values).save(root / "depth" / f"{frame}.png")


def write_rooms(root: pathlib.Path, sizes: dict[str, int]) -> dict[str, set[int]]:
    """Writes sequences; returns the numbers of the frames of each."""
    first, found = 0, {}
    for name, size in sizes.items():
        write(root / name, range(size), first)
        found[name.split("/")[-1]] = set(range(first, first + size))
        first += size
    return found


def config(root: pathlib.Path, **changes) -> DataConfig:
    return DataConfig(name=f"depth:{root}", **changes)


def numbers(split) -> list[int]:
    """Returns the numbers of a split's frames, which images and depths agree on."""
    found = split.read(tf.range(split.size), ("depths",))
    shown = np.round(found["images"].numpy()[:, -1, -1, 0] * 255).astype(int)
    depths = found["depths"].numpy()
    assert depths.dtype == np.float32
    np.testing.assert_allclose(depths[:, -1, -1], 1 + shown / 1000, rtol=1e-6)
    return shown.tolist()


def contents(source) -> dict[str, set[int]]:
    return {name: set(numbers(split)) for name, split in source.splits.items()}


def refused(settings: DataConfig, *words: str) -> None:
    with pytest.raises(UserError) as error:
        load(settings)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_depths_are_metres_and_0_where_nothing_was_measured(tmp_path):
    write(tmp_path, range(10))

    source = load(config(tmp_path))
    found = source.splits["train"].read([0], ("depths",))["depths"].numpy()[0]

    assert (found[0] == 0).all() and (found[1:] == np.float32(1.0)).all()
    assert source.splits["train"].annotations == {"depths"}
    assert source.mask_names == () and source.class_names == ()
    assert source.summary().startswith(
        f"depth:{tmp_path}: depth maps, 8 x 10 pixels, in memory; train 8; validation 1"
    )
    half = load(config(tmp_path, depth_unit=0.0005)).splits["train"]
    assert half.read([0], ("depths",))["depths"].numpy().max() == np.float32(0.5)


def test_frames_of_one_sequence_are_divided_into_blocks_in_their_order(tmp_path):
    write(tmp_path, range(30))

    source = load(config(tmp_path))

    # 10 % of 30, then 10 % of 27; 10 comes after 9, not after 1.
    assert numbers(source.splits["train"]) == list(range(24))
    assert numbers(source.splits["validation"]) == list(range(24, 27))
    assert numbers(source.splits["test"]) == list(range(27, 30))
    assert "last 3 of 30 frames" in source.report["splits"]["test"]


@pytest.mark.parametrize("seed", range(6))
def test_no_sequence_is_in_two_splits(tmp_path, seed):
    rooms = write_rooms(tmp_path, {"a": 12, "b": 3, "c": 2, "d": 2, "e": 3})

    found = contents(load(config(tmp_path, label_seed=seed)))

    for name, room in rooms.items():
        homes = [part for part, those in found.items() if room & those]
        assert len(homes) == 1 and room <= found[homes[0]], name
    assert rooms["a"] <= found["train"]  # More than half of all.
    assert all(found.values())


def test_the_seed_chooses_the_sequences_and_always_the_same():
    given = {"train": {x: np.arange(3) + 3 * n for n, x in enumerate("abcdef")}}

    def chosen(seed: int):
        rows, _ = divide(DataConfig(label_seed=seed), given)
        return tuple(rows["test"]), tuple(rows["validation"])

    found = [chosen(seed) for seed in range(20)]
    assert [chosen(seed) for seed in range(20)] == found
    # Chance alone: 20 draws of 30 pairs show 14 of them, of 6 rooms nearly all.
    assert len(set(found)) > 8 and len({test for test, _ in found}) > 3


def test_sequences_can_be_named(tmp_path):
    rooms = write_rooms(tmp_path, {"a": 6, "b": 3, "c": 4})

    source = load(config(tmp_path, test_sequences=("a",)))

    assert contents(source)["test"] == rooms["a"]
    assert source.report["splits"]["test"] == "--data.test_sequences"
    for wrong in (("a", "x"), ("a", "b", "c")):
        refused(
            config(tmp_path, test_sequences=wrong),
            *("--data.test_sequences", "not all", "they are a, b, c"),
        )


@pytest.mark.parametrize("inner", ["", "/room"])
def test_given_splits_are_kept(tmp_path, inner):
    parts = {f"train{inner}1": 5, f"val{inner}2": 2, f"test{inner}3": 3}
    if not inner:
        parts = {"train": 5, "val": 2, "test": 3}
    write_rooms(tmp_path, parts)

    source = load(config(tmp_path))

    assert contents(source) == {
        # Folders are written in this order, and numbered through.
        "train": set(range(5)),
        "validation": {5, 6},
        "test": {7, 8, 9},
    }
    assert set(source.report["splits"].values()) == {"as given"}
    refused(config(tmp_path, test_sequences=("train",)), "without test/")


def test_validation_without_test_is_the_test_set():
    rows = {"a": np.arange(20), "b": np.arange(20, 30)}
    given = {"train": rows, "validation": {"c": np.arange(30, 34)}}

    found, origin = divide(DataConfig(), given)

    np.testing.assert_array_equal(found["test"], np.arange(30, 34))
    np.testing.assert_array_equal(found["validation"], rows["b"])
    np.testing.assert_array_equal(found["train"], rows["a"])
    assert origin["test"] == "validation as given"


@pytest.mark.parametrize(
    ("unit", "median"), [(1.0, "1e+03 metres"), (1e-6, "0.001 metres")]
)
def test_a_wrong_unit_is_refused_with_the_flag(tmp_path, unit, median):
    write(tmp_path, range(5))

    refused(
        config(tmp_path, depth_unit=unit),
        *("--data.depth_unit", f"depth_unit={unit}", median, "0.001 for millimetres"),
    )


def test_maps_of_8_bits_are_refused(tmp_path):
    write(tmp_path, range(5), dtype=np.uint8)

    refused(config(tmp_path), "16 bits", "depth/0.png with 8 bits and grey values")


def test_images_and_depth_maps_must_be_pairs_of_one_size(tmp_path):
    write(tmp_path / "room", range(5))
    path = tmp_path / "room" / "depth" / "3.png"
    Image.fromarray(np.full([4, 4], 1000, np.uint16)).save(path)
    refused(config(tmp_path), "of the same size", "room/depth/3.png of 4 x 4")
    path.unlink()
    refused(config(tmp_path), "a depth map for every image", "room/rgb/", ": 3")
    (tmp_path / "room" / "rgb" / "3.png").unlink()
    (tmp_path / "room" / "rgb" / "4.png").unlink()
    refused(config(tmp_path), "an image for every depth map", ": 4")


def test_a_damaged_map_is_named(tmp_path):
    write(tmp_path, range(5))
    path = tmp_path / "depth" / "2.png"
    path.write_bytes(path.read_bytes()[:60])

    refused(config(tmp_path), "--data.corrupt_cap", "rgb/2.png has a depth map that")


def test_maps_without_a_measurement_and_empty_folders_are_refused(tmp_path):
    layout = "SEQUENCE/rgb/1.jpg beside SEQUENCE/depth/1.png"
    refused(config(tmp_path / "x"), "a folder that exists", layout)
    refused(config(tmp_path), "sequences to train on, found none", layout)
    write(tmp_path / "test", range(2))
    refused(config(tmp_path), "sequences to train on, found none", layout)
    write(tmp_path / "train", range(1))
    refused(config(tmp_path), "at least 3 images with depths", "1 left")
    write(tmp_path / "train", range(5))
    for number in range(2):
        Image.fromarray(np.zeros(SHAPE, np.uint16)).save(
            tmp_path / "test" / "depth" / f"{number}.png"
        )
    refused(config(tmp_path), "none of the 2 of test has any")


def test_memory_counts_the_depths(tmp_path):
    write(tmp_path, range(10))
    # Per pixel 3 bytes for the image and 4 for the depth.
    need = 10 * SHAPE[0] * SHAPE[1] * 7 / 1e9

    refused(config(tmp_path, memory_gigabytes=0.99 * need), "--data.memory_gigabytes")
    assert load(config(tmp_path, memory_gigabytes=1.01 * need)).splits


@pytest.mark.data
def test_rgbd_is_divided_by_sequence(data_folder):
    root = data_folder / "rgbd"
    rooms = {path.name: len([*(path / "rgb").iterdir()]) for path in root.glob("*/")}

    source = load(config(root, image_size=64))

    counts = {name: split.size for name, split in source.splits.items()}
    assert sum(counts.values()) == sum(rooms.values()) == 134
    assert counts["train"] == rooms["seven_scenes_kitchen"] == 125
    found = source.splits["train"].read(tf.range(125), ("depths",))["depths"].numpy()
    # index.csv: medians of the kitchen's frames lie around 1.9 metres.
    assert 1.5 < np.median(found[found > 0]) < 2.5 and found.max() < 10
    path = root / "seven_scenes_kitchen" / "depth" / "000000.png"
    stored = np.asarray(Image.open(path)).astype(np.float32) * np.float32(0.001)
    whole = load(config(root)).splits["train"].read([0], ("depths",))["depths"][0]
    np.testing.assert_array_equal(whole, stored)
    with pytest.raises(UserError, match="--data.depth_unit"):
        load(config(root, depth_unit=1.0))
