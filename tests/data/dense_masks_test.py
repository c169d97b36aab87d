"""Folders of images and masks: alignment, labels, layouts, mistakes."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kerobust.config import UserError
from kerobust.data import DataConfig, evaluation_batches, load
from kerobust.data.augmentations import nearest_square

SHAPE = (12, 16)
STEP = 5  # Grey levels between neighbouring rows or columns of a position picture.


def save(path: pathlib.Path, values, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.asarray(values, np.uint8)
    image = Image.fromarray(values)
    if mode == "P":
        image = Image.frombytes("P", values.shape[::-1], values.tobytes())
        # Colours that are no numbers of classes, as in VOC.
        image.putpalette([(7 * number) % 256 for number in range(768)])
    image.save(path)


def picture(number: int, shape=SHAPE) -> np.ndarray:
    return np.full([*shape, 3], 10 * number, np.uint8)


def mask(number: int, shape=SHAPE) -> np.ndarray:
    """The class `number` % 3 on the left, 2 in the middle, 11 and 255 at the end."""
    values = np.full(shape, number % 3, np.uint8)
    values[:, shape[1] // 2 :] = 2
    values[:, -3:] = [11, 255, 255]
    return values


def write(root: pathlib.Path, part: str, numbers, labels="labels", **options):
    for number in numbers:
        save(root / "images" / part / f"{number}.png", picture(number))
        save(root / labels / part / f"{number}.png", mask(number), **options)


def config(root: pathlib.Path, kind: str = "masks", **changes) -> DataConfig:
    return DataConfig(**{"name": f"{kind}:{root}", "ignore": (11, 255), **changes})


def sizes(source) -> dict[str, int]:
    return {name: split.size for name, split in source.splits.items()}


def everything(split):
    """Returns (numbers of the pictures, masks int32 [N, H, W])."""
    found = split.read(tf.range(split.size), ("masks",))
    numbers = np.round(found["images"].numpy()[:, 0, 0, 0] * 25.5).astype(int)
    return numbers.tolist(), found["masks"].numpy()


def refused(settings: DataConfig, *words: str) -> None:
    with pytest.raises(UserError) as error:
        load(settings)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("validation", ["val", "validation"])
@pytest.mark.parametrize("labels", ["labels", "masks"])
def test_given_splits_keep_their_images_and_every_image_its_mask(
    tmp_path, validation, labels
):
    parts = {"train": range(1, 6), validation: (11, 12), "test": (6, 7, 8)}
    for part, numbers in parts.items():
        write(tmp_path, part, numbers, labels)

    source = load(config(tmp_path))

    expected = dict(zip(("train", "validation", "test"), parts.values(), strict=True))
    for name, split in source.splits.items():
        numbers, masks = everything(split)
        assert numbers == sorted(expected[name])
        assert masks.dtype == np.int32
        for number, found in zip(numbers, masks, strict=True):
            stored = mask(number).astype(int)
            np.testing.assert_array_equal(
                found, np.where((stored == 11) | (stored == 255), -1, stored)
            )
        assert set(split.labels) == {-1} and split.annotations == {"masks"}
    assert source.mask_names == ("0", "1", "2") and source.class_names == ()
    assert source.image_shape == (*SHAPE, 3)


def test_palettes_give_numbers_not_colours(tmp_path):
    write(tmp_path, "train", range(1, 7), mode="P")

    numbers, masks = everything(load(config(tmp_path)).splits["train"])

    stored = mask(numbers[0]).astype(int)
    expected = np.where((stored == 11) | (stored == 255), -1, stored)
    np.testing.assert_array_equal(masks[0], expected)


def test_small_palettes_are_stored_with_fewer_bits_and_read_the_same(tmp_path):
    write(tmp_path, "train", range(1, 7))
    small = Image.frombytes("P", SHAPE[::-1], bytes(np.tile([0, 1, 2, 3], 48).tolist()))
    small.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    for number in range(1, 7):
        small.save(tmp_path / "labels" / "train" / f"{number}.png", bits=2)

    source = load(config(tmp_path))

    _, masks = everything(source.splits["train"])
    np.testing.assert_array_equal(masks[0, 0], np.tile([0, 1, 2, 3], 4))


def test_missing_splits_are_carved_and_the_test_split_is_one_of_them(tmp_path):
    write(tmp_path, "", range(1, 21))

    source = load(config(tmp_path))

    assert sizes(source) == {"train": 16, "validation": 2, "test": 2}
    found = [
        number for split in source.splits.values() for number in everything(split)[0]
    ]
    assert sorted(found) == list(range(1, 21))
    other = load(config(tmp_path, label_seed=1))
    assert everything(other.splits["test"])[0] != everything(source.splits["test"])[0]
    assert other.digest != source.digest


def test_val_without_test_is_the_test_set(tmp_path):
    write(tmp_path, "train", range(1, 11))
    write(tmp_path, "val", (15, 16))

    source = load(config(tmp_path))

    assert sizes(source) == {"train": 9, "validation": 1, "test": 2}
    assert everything(source.splits["test"])[0] == [15, 16]
    assert source.report["splits"]["test"] == "validation as given"


@pytest.mark.parametrize(
    ("shape", "size"), [((37, 50), 16), ((50, 37), 61), ((40, 51), 40)]
)
@pytest.mark.parametrize("axis", [0, 1])
def test_pixels_stay_at_the_place_of_their_labels(tmp_path, shape, size, axis):
    place = np.indices(shape)[axis]
    for number in range(4):
        shown = np.repeat(STEP * place[..., None], 3, axis=2)
        save(tmp_path / "images" / f"{number}.png", shown)
        save(tmp_path / "labels" / f"{number}.png", place)

    source = load(config(tmp_path, image_size=size, ignore=()))
    found = source.splits["train"].read(tf.range(1), ("masks",))

    # A resized ramp shows the middle of a pixel, p, in pixels of the file; the label
    # is that of the pixel which holds p, [label - 1/2, label + 1/2].
    shown = found["images"].numpy()[0, ..., 0] * 255 / STEP
    difference = (shown - found["masks"].numpy()[0])[1:-1, 1:-1]
    assert np.abs(difference).max() <= 0.5 + 0.15
    assert abs(difference.mean()) < 0.1


def test_nearest_is_that_of_tensorflow_in_the_crop_of_images():
    maps = np.random.default_rng(0).integers(0, 99, [2, 23, 41]).astype(np.int16)
    target = (10, 41 * 10 // 23)
    resized = tf.image.resize(maps[..., None], target, "nearest")[..., 0]
    left = round((target[1] - 10) / 2)

    found = nearest_square(maps, 10)

    assert found.dtype == tf.int16
    np.testing.assert_array_equal(found, resized[:, :, left : left + 10])
    np.testing.assert_array_equal(nearest_square(maps, 23), maps[:, :, 9:32])


def test_classes_are_named_and_unnamed_values_are_refused(tmp_path):
    write(tmp_path, "train", range(1, 6))
    (tmp_path / "classes.txt").write_text("0\tsky\t1,2,3\n2\tbig road\n\n11\tnothing\n")

    refused(
        config(tmp_path),
        *("--data.ignore", "labels/train/1.png with 1 in 96 pixels", "classes.txt"),
    )
    (tmp_path / "classes.txt").write_text("0 sky\n1 tree\n2 big road\n11 nothing\n")

    assert load(config(tmp_path)).mask_names == ("sky", "tree", "big road")
    names = load(config(tmp_path, ignore=(255,))).mask_names
    assert names[11] == "nothing" and names[3:11] == tuple(map(str, range(3, 11)))


@pytest.mark.parametrize("text", ["x\tsky\n", "0\tsky\n0\troad\n", "256\tsky\n", "3\n"])
def test_a_wrong_list_of_classes_is_refused(tmp_path, text):
    write(tmp_path, "train", range(1, 6))
    (tmp_path / "classes.txt").write_text(text)

    refused(config(tmp_path), "classes.txt", "TAB", repr(text.splitlines()[-1]))


def test_a_list_of_nothing_but_ignored_classes_is_refused(tmp_path):
    write(tmp_path, "train", range(1, 6))
    (tmp_path / "classes.txt").write_text("0\tsky\n11\tnothing\n")

    refused(config(tmp_path), "--data.ignore", "two classes", "0, 11")


def test_images_and_masks_must_be_pairs(tmp_path):
    write(tmp_path, "train", range(1, 6))
    save(tmp_path / "images" / "train" / "7.png", picture(7))

    refused(
        config(tmp_path),
        *(
            "a mask for every image",
            "1 of 6 files in images/train/",
            "labels/train/: 7",
        ),
    )
    (tmp_path / "images" / "train" / "7.png").unlink()
    (tmp_path / "images" / "train" / "2.png").unlink()
    refused(config(tmp_path), "an image for every mask", "labels/train/", ": 2")


def test_an_image_and_its_mask_must_have_one_size(tmp_path):
    write(tmp_path, "train", range(1, 6))
    save(tmp_path / "labels" / "train" / "3.png", mask(3, (6, 8)))

    for size in (None, 4):
        refused(
            config(tmp_path, image_size=size),
            *("of the same size", "images/train/3.png of 12 x 16"),
            "labels/train/3.png of 6 x 8",
        )


def test_masks_with_colours_or_from_jpeg_are_refused(tmp_path):
    write(tmp_path, "train", range(1, 6))
    path = tmp_path / "labels" / "train" / "3.png"
    save(path, np.repeat(mask(3)[..., None], 3, axis=2))
    refused(config(tmp_path), "labels/train/3.png with 8 bits and colours", "palette")

    Image.fromarray(mask(3).astype(np.uint16)).save(path)
    refused(config(tmp_path), "labels/train/3.png with 16 bits")

    path.unlink()
    save(path.with_suffix(".jpg"), mask(3))
    refused(config(tmp_path), "images/train/3.png has a mask that is not a PNG file")


def test_a_split_without_any_label_is_refused(tmp_path):
    write(tmp_path, "train", range(1, 6))
    write(tmp_path, "test", range(6, 9))
    for number in range(6, 9):
        save(tmp_path / "labels" / "test" / f"{number}.png", np.full(SHAPE, 255))

    refused(config(tmp_path), "3 of test has any", "--data.ignore", "ignore=(11, 255)")


@pytest.mark.parametrize("folder", ["images", "labels"])
@pytest.mark.parametrize("damage", ["cut", "header"])
def test_damaged_pairs_are_refused_or_skipped_together(tmp_path, folder, damage):
    write(tmp_path, "train", range(1, 11))
    path = tmp_path / folder / "train" / "4.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3] if damage == "cut" else b"no")

    refused(config(tmp_path), "--data.corrupt_cap", "1 of 10", "images/train/4.png ")
    source = load(config(tmp_path, corrupt_cap=0.1))

    assert source.report["skipped"] == 1
    for split in source.splits.values():
        numbers, masks = everything(split)
        assert 4 not in numbers
        np.testing.assert_array_equal(masks[:, 0, 0], np.array(numbers) % 3)


def test_empty_and_wrong_folders_show_the_layout(tmp_path):
    layout = "images/train/1.jpg beside labels/train/1.png"
    refused(config(tmp_path), "must hold images/", layout)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    refused(config(tmp_path), "must hold pictures, found none", layout)
    write(tmp_path, "test", range(3))
    refused(config(tmp_path), "must have training images")
    write(tmp_path, "", range(3))
    refused(config(tmp_path), "3 outside of them: 0.png, 1.png", layout)
    (tmp_path / "masks").mkdir()
    refused(config(tmp_path), "either labels/ or masks/")


def test_what_does_not_fit_into_memory_is_refused_with_the_flag(tmp_path):
    write(tmp_path, "train", range(1, 11))
    # 10 images of 12 x 16 pixels: 3 bytes for the image and 2 for the mask.
    need = 10 * 12 * 16 * 5 / 1e9

    refused(
        config(tmp_path, memory_gigabytes=0.99 * need),
        *("--data.memory_gigabytes", "at least 9.6e-06", "--data.image_size"),
    )
    assert load(config(tmp_path, memory_gigabytes=1.01 * need)).splits


def test_different_sizes_need_an_image_size(tmp_path):
    write(tmp_path, "train", range(1, 10))
    save(tmp_path / "images" / "train" / "9.png", picture(9, (20, 14)))
    save(tmp_path / "labels" / "train" / "9.png", mask(9, (20, 14)))

    refused(config(tmp_path), "--data.image_size", "20 x 14", "image_size=None")
    assert load(config(tmp_path, image_size=8)).image_shape == (8, 8, 3)


def test_the_digest_follows_images_masks_and_names(tmp_path):
    write(tmp_path, "train", range(1, 7))
    found = [load(config(tmp_path)).digest]
    assert load(config(tmp_path)).digest == found[0]

    save(tmp_path / "labels" / "train" / "2.png", mask(1))
    found.append(load(config(tmp_path)).digest)
    save(tmp_path / "images" / "train" / "2.png", picture(20))
    found.append(load(config(tmp_path)).digest)
    (tmp_path / "classes.txt").write_text("0 a\n1 b\n2 c\n")
    found.append(load(config(tmp_path)).digest)

    assert len(set(found)) == 4


def test_the_summary_says_that_there_are_masks(tmp_path):
    write(tmp_path, "train", range(1, 21))

    text = load(config(tmp_path)).summary()

    head = f"masks:{tmp_path}: masks of 3 classes, 12 x 16 pixels, in memory; train 16"
    assert text.startswith(head)


@pytest.mark.data
def test_camvid_is_read_whole(data_folder):
    root = data_folder / "camvid"

    source = load(config(root, ignore=(11,), image_size=64))

    assert sizes(source) == {"train": 367, "validation": 101, "test": 233}
    assert source.mask_names[0] == "sky" and len(source.mask_names) == 11
    counts = np.zeros(12)
    for batch in evaluation_batches(source.splits["test"], 64, ("masks",)):
        values = batch["masks"].numpy()[batch["valid"].numpy()]
        counts += np.bincount(values.ravel() + 1, minlength=12)
    stored = np.zeros(12)
    for path in (root / "labels" / "test").iterdir():
        stored += np.bincount(np.asarray(Image.open(path)).ravel(), minlength=12)
    # Unlabelled pixels, sky and road: shares as stored, up to the crop of a quarter.
    for ours, theirs in ((0, 11), (1, 0), (4, 3)):
        share = stored[theirs] / stored.sum()
        assert abs(counts[ours] / counts.sum() - share) < 0.05
    # Sky is bright and above the road.
    found = source.splits["test"].read(tf.range(233), ("masks",))
    shown, masks = found["images"].numpy().mean(-1), found["masks"].numpy()
    assert shown[masks == 0].mean() > shown[masks == 3].mean() + 0.1
    rows = np.broadcast_to(np.arange(64)[:, None], masks.shape[1:])
    rows = np.broadcast_to(rows, masks.shape)
    assert rows[masks == 0].mean() + 20 < rows[masks == 3].mean()
