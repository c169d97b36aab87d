"""Folders of pictures: layouts, damage and mistakes."""

import functools
import io
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kerobust.config import UserError
from kerobust.data import DataConfig, load, training_batches
from kerobust.data.pictures import Files


@functools.cache
def digits(side: int):
    """Real digits of a size."""
    return load(DataConfig(image_size=side)).splits["test"]


def digit_pixels(number: int, side: int = 16) -> np.ndarray:
    """A real digit, uint8 [side, side, 3]."""
    image = digits(side).fetch([number])[0]
    return np.uint8(np.round(image.numpy() * 255))


def write(path: pathlib.Path, number: int = 0, side: int = 16, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(digit_pixels(number, side)).save(path, **options)


def write_classes(folder: pathlib.Path, count: int, kinds=("cats", "dogs")) -> None:
    for kind in kinds:
        for number in range(count):
            write(folder / kind / f"{number}.png", number)


def folder(path: pathlib.Path, **changes) -> DataConfig:
    return DataConfig(name=f"folder:{path}", **changes)


def sizes(source) -> dict[str, int]:
    return {name: split.size for name, split in source.splits.items()}


def test_class_folders_are_split_fairly(tmp_path):
    write_classes(tmp_path, 20)

    source = load(folder(tmp_path))

    assert source.class_names == ("cats", "dogs")
    assert source.image_shape == (16, 16, 3)
    # 10 % of 40 for testing, then 10 % of the 36 that are left.
    assert sizes(source) == {"train": 32, "validation": 4, "test": 4}
    for split in source.splits.values():
        counts = np.bincount(split.labels)
        np.testing.assert_array_equal(counts, [split.size // 2] * 2)


def test_pixels_arrive_unchanged_under_their_ids(tmp_path):
    write_classes(tmp_path, 5)

    source = load(folder(tmp_path))

    for split in source.splits.values():
        images, labels = split.arrays()
        for name, label, image in zip(split.ids, labels, images, strict=True):
            # Ids follow the sorted listing: five cats, then five dogs.
            assert label == name // 5
            expected = digit_pixels(name % 5) / np.float32(255)
            np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("validation", ["val", "validation"])
def test_given_splits_are_kept(tmp_path, validation):
    for name, count in {"train": 6, validation: 3, "test": 4}.items():
        write_classes(tmp_path / name, count)

    source = load(folder(tmp_path))

    assert sizes(source) == {"train": 12, "validation": 6, "test": 8}
    assert set(source.report["splits"].values()) == {"as given"}


def test_val_without_test_is_the_test_set(tmp_path):
    for name, count in {"train": 10, "val": 3}.items():
        write_classes(tmp_path / name, count)

    source = load(folder(tmp_path))

    assert sizes(source) == {"train": 18, "validation": 2, "test": 6}
    assert source.report["splits"]["test"] == "validation as given"


def test_pictures_without_classes_are_unlabelled(tmp_path):
    for number in range(10):
        write(tmp_path / f"{number}.jpg", number)

    source = load(folder(tmp_path))

    assert source.num_classes == 0
    assert sizes(source) == {"train": 9, "validation": 1}
    assert set(source.splits["train"].labels) == {-1}


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "JPG", "png", "bmp", "gif"])
def test_formats_give_three_channels(tmp_path, suffix):
    write_classes(tmp_path, 3)
    grey = Image.fromarray(digit_pixels(1)[..., 0])
    grey = grey.convert("RGB") if suffix == "bmp" else grey
    grey.save(tmp_path / "cats" / f"z.{suffix}")

    source = load(folder(tmp_path))

    assert source.report == {**source.report, "pictures": 7, "skipped": 0}
    # z is number 3 in the listing; JPEG at quality 75 is a few grey levels off.
    found = {int(n): s for s in source.splits.values() for n in s.ids}
    split = found[3]
    image = split.fetch([int(np.argmax(split.ids == 3))])[0]
    assert np.abs(image - digit_pixels(1) / 255).mean() < 0.03


def test_pictures_read_from_disk_equal_those_in_memory(tmp_path):
    for number in range(12):
        write(tmp_path / "cats" / f"{number}.png", number, side=20 + number % 3)
        write(tmp_path / "dogs" / f"{number}.jpg", number, side=24)
    config = folder(tmp_path, image_size=16)

    kept, read = load(config), load(config.replace(memory_gigabytes=0))

    assert (kept.report["kept"], read.report["kept"]) == ("in memory", "on disk")
    for name, split in kept.splits.items():
        np.testing.assert_array_equal(split.ids, read.splits[name].ids)
        np.testing.assert_array_equal(split.arrays()[0], read.splits[name].arrays()[0])
    batches = [
        list(training_batches(source.splits["train"], batch_size=4, steps=2))
        for source in (kept, read)
    ]
    for first, second in zip(*batches, strict=True):
        np.testing.assert_array_equal(first["images"], second["images"])


DAMAGED = {
    "text.jpg": b"not a picture",
    "empty.png": b"",
    "magic.jpg": b"\xff\xd8\xff\xe0 nothing",
    "picture.webp": b"RIFF....WEBP",
}


@pytest.mark.parametrize("memory", [0.0, 4.0])
@pytest.mark.parametrize("name", [*DAMAGED, "cut.jpg", "cut.png", "bomb.png"])
def test_damaged_pictures_are_skipped_and_reported(tmp_path, name, memory):
    write_classes(tmp_path, 10)
    (tmp_path / "cats" / name).write_bytes(damaged_bytes(name))

    source = load(folder(tmp_path, corrupt_cap=0.05, memory_gigabytes=memory))

    assert source.report["skipped"] == 1 and source.report["pictures"] == 21
    assert source.report["skipped_files"][0].startswith(f"cats/{name}: ")
    assert sum(sizes(source).values()) == 20


def damaged_bytes(name: str) -> bytes:
    if name in DAMAGED:
        return DAMAGED[name]
    buffer = io.BytesIO()
    Image.fromarray(digit_pixels(3)).save(buffer, name[-3:].replace("jpg", "jpeg"))
    whole = buffer.getvalue()
    if name.startswith("cut"):
        return whole[: len(whole) * 2 // 3]
    # Bytes 16 to 24 of a PNG are its width and height: 65,536 pixels each.
    return whole[:16] + b"\x00\x01\x00\x00" * 2 + whole[24:]


def test_too_many_damaged_pictures_are_refused_with_their_names(tmp_path):
    write_classes(tmp_path, 10)
    for number in range(7):
        (tmp_path / "cats" / f"bad{number}.jpg").write_bytes(b"no")

    with pytest.raises(UserError) as error:
        load(folder(tmp_path, corrupt_cap=0.1))

    words = ("--data.corrupt_cap", "7 of 27", "cats/bad0.jpg is not", "2 more")
    for word in (*words, "corrupt_cap=0.1"):
        assert word in str(error.value)


def test_a_file_damaged_after_loading_is_named(tmp_path):
    write_classes(tmp_path, 2)
    paths = sorted(str(path) for path in tmp_path.rglob("*.png"))
    pictures = Files(paths, None, (16, 16, 3))
    pathlib.Path(paths[2]).write_bytes(b"gone")

    with pytest.raises(tf.errors.InvalidArgumentError, match=paths[2]):
        pictures.fetch(tf.range(4))


def test_pictures_of_different_sizes_need_an_image_size(tmp_path):
    write_classes(tmp_path, 3)
    write(tmp_path / "dogs" / "big.png", side=20)

    with pytest.raises(UserError) as error:
        load(folder(tmp_path))

    for word in ("--data.image_size", "16 x 16", "dogs/big.png is 20 x 20"):
        assert word in str(error.value)
    assert load(folder(tmp_path, image_size=8)).image_shape == (8, 8, 3)


def test_missing_empty_and_one_class_folders_show_the_layout(tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "one" / "cats" / "a.png")
    (tmp_path / "hollow" / "cats").mkdir(parents=True)
    write(tmp_path / "hollow" / "dogs" / "a.png")
    write(tmp_path / "odd" / "train" / "cats" / "a.png")
    write(tmp_path / "odd" / "train" / "dogs" / "a.png")
    write(tmp_path / "odd" / "test" / "fish" / "a.png")
    write_classes(tmp_path / "flat" / "train", 3)
    write(tmp_path / "flat" / "val" / "ILSVRC2012_val_00000001.JPEG")

    for name, words in {
        "absent": "a folder that exists",
        "empty": "must hold pictures",
        "one": "at least two classes, found only cats",
        "hollow": "in every class, but these have none: cats",
        "odd": "found others: fish",
        "flat": "in val/ as in train/, found 1 pictures outside of them: ILSVRC2012",
    }.items():
        with pytest.raises(UserError) as error:
            load(folder(tmp_path / name))

        for word in ("--data.name", words, f"folder:{tmp_path / name}", "train/CLASS"):
            assert word in str(error.value)


@pytest.mark.parametrize("name", ["folder", "folder:", "npz:", "imagenet_subset:"])
def test_a_prefix_without_a_path_is_refused(name):
    expected = f"must be written {name.rstrip(':')}:PATH. Received: name={name}"

    with pytest.raises(UserError, match=expected):
        load(DataConfig(name=name))


def test_the_summary_counts_what_was_skipped(tmp_path):
    write_classes(tmp_path, 10)
    (tmp_path / "cats" / "bad.jpg").write_bytes(b"no")

    text = load(folder(tmp_path, corrupt_cap=0.05)).summary()

    carved = "(0.1 of train, label_seed 0)"
    assert text == (
        f"folder:{tmp_path}: 2 classes, 16 x 16 pixels, in memory; train 16; validation"
        f" 2 {carved}; test 2 {carved}; 1 skipped, the first: cats/bad.jpg: is not a "
        "JPEG, PNG, BMP or GIF file"
    )


def test_the_digest_follows_content_in_memory_and_the_listing_on_disk(tmp_path):
    write_classes(tmp_path, 3)
    configs = [folder(tmp_path), folder(tmp_path, memory_gigabytes=0.0)]
    before = [load(config).digest for config in configs]

    assert [load(config).digest for config in configs] == before
    write(tmp_path / "dogs" / "1.png", 77)
    write(tmp_path / "dogs" / "new.png", 78)
    after = [load(config).digest for config in configs]

    assert len({*before, *after}) == 4


def imagenet(tmp_path, lines: str, **changes) -> DataConfig:
    for split in ("train", "val"):
        write_classes(tmp_path / split, 5, ("n01", "n02", "n03"))
    listed = tmp_path / "wnids.txt"
    listed.write_text(lines)
    name = f"imagenet_subset:{listed}"
    return DataConfig(**{"name": name, "dir": str(tmp_path), **changes})


def test_an_imagenet_subset_has_the_listed_classes_in_sorted_order(tmp_path):
    source = load(imagenet(tmp_path, "# a list\nn03 tench\nn01 goldfish\n\n"))

    assert source.class_names == ("n01", "n03")
    assert sizes(source) == {"train": 9, "validation": 1, "test": 10}


@pytest.mark.parametrize(
    ("lines", "changes", "words"),
    [
        ("n01\nn09\nn08", {}, ("2 of 3", "n08, n09")),
        ("n01", {}, ("at least two", "n01")),
        ("n01", {"name": "imagenet_subset:absent.txt"}, ("text file", "absent.txt")),
        ("n01\nn05", {}, ("imagenet_subset:FILE", "at the start of each line")),
        ("n01\nn02", {"dir": None}, ("--data.dir", "train/ and val/")),
        ("n01\nn02", {"dir": "nowhere"}, ("--data.dir", "dir=nowhere")),
    ],
)
def test_wrong_imagenet_subsets_are_refused(tmp_path, lines, changes, words):
    with pytest.raises(UserError) as error:
        load(imagenet(tmp_path, lines, **changes))

    for word in words:
        assert word in str(error.value)
