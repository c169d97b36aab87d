"""Tiny-ImageNet: the folder as it is downloaded, and real pictures of it."""

import numpy as np
import pytest
from PIL import Image

from kerobust.config import UserError
from kerobust.data import DataConfig, load
from tests.data.folder_test import digit_pixels, folder, sizes, write

WNIDS = ("n01443537", "n01629819", "n01641577")


def download(path):
    """Makes a folder with the layout of the official archive; returns its settings."""
    for label, wnid in enumerate(WNIDS):
        for number in range(10):
            write(path / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", label)
        (path / "train" / wnid / f"{wnid}_boxes.txt").write_text("a\t0\t0\t1\t1\n")
    lines = []
    for number in range(6):
        write(path / "val" / "images" / f"val_{number}.JPEG", number, quality=100)
        lines.append(f"val_{number}.JPEG\t{WNIDS[number % 3]}\t0\t32\t44\t62\n")
        write(path / "test" / "images" / f"test_{number}.JPEG", number)
    (path / "val" / "val_annotations.txt").write_text("".join(lines))
    return folder(path)


def test_the_folder_as_downloaded_is_read_with_its_annotations(tmp_path):
    source = load(download(tmp_path))

    assert source.class_names == WNIDS
    # 10 % of 30 training pictures validate, val/ tests, test/ has no labels.
    assert sizes(source) == {"train": 27, "validation": 3, "test": 6}
    assert source.report["not used"] == ["test"]
    assert "not used: test" in source.summary()
    images, labels = source.splits["test"].arrays()
    np.testing.assert_array_equal(labels, [0, 1, 2, 0, 1, 2])
    for number, image in enumerate(images):
        assert np.abs(image - digit_pixels(number) / 255).mean() < 0.01


@pytest.mark.parametrize("line", ["", "val_3.JPEG\tn99999999\t0\t0\t1\t1\n"])
def test_a_picture_without_a_known_class_is_refused(tmp_path, line):
    config = download(tmp_path)
    path = tmp_path / "val" / "val_annotations.txt"
    rest = [row for row in path.read_text().splitlines(True) if "val_3." not in row]
    path.write_text("".join([*rest, line]))

    with pytest.raises(UserError) as error:
        load(config)

    for word in ("--data.name", "val_annotations.txt", "1 have none: val_3.JPEG"):
        assert word in str(error.value)


def test_annotations_left_behind_after_sorting_do_no_harm(tmp_path):
    config = download(tmp_path)
    for number, path in enumerate(sorted((tmp_path / "val" / "images").iterdir())):
        (tmp_path / "val" / WNIDS[number % 3]).mkdir(exist_ok=True)
        path.rename(tmp_path / "val" / WNIDS[number % 3] / path.name)
    for path in (tmp_path / "test" / "images").iterdir():
        path.unlink()

    source = load(config)

    assert sizes(source) == {"train": 27, "validation": 3, "test": 6}
    assert np.bincount(source.splits["test"].labels).tolist() == [2, 2, 2]


def decode(path):
    """Returns the mode of a picture and its uint8 [H, W, 3] as PIL decodes it."""
    with Image.open(path) as picture:
        return picture.mode, np.asarray(picture.convert("RGB"))


@pytest.mark.data
def test_real_pictures_have_three_channels_and_the_class_of_their_folder(data_folder):
    root = data_folder / "tiny_imagenet"
    files = {name: sorted(root.glob(f"{name}/*/*.JPEG")) for name in ("train", "val")}

    source = load(DataConfig(name=f"folder:{root}", image_size=64))

    assert source.num_classes == len(list((root / "train").iterdir())) >= 200
    assert source.image_shape == (64, 64, 3) and source.report["skipped"] == 0
    counts = sizes(source)
    assert counts["train"] + counts["validation"] == len(files["train"])
    assert counts["test"] == len(files["val"])
    images, labels = source.splits["test"].arrays()
    names = [source.class_names[label] for label in labels]
    assert names == [path.parent.name for path in files["val"]]
    # The split keeps the sorted order, so picture n is file n.
    modes = [decode(path)[0] for path in files["val"]]
    grey = [number for number, mode in enumerate(modes) if mode == "L"]
    assert grey
    for number in grey:
        np.testing.assert_array_equal(images[number, ..., 0], images[number, ..., 1])
        np.testing.assert_array_equal(images[number, ..., 0], images[number, ..., 2])
    for number in [*grey, *range(0, len(images), 100)]:
        expected = decode(files["val"][number])[1] / np.float32(255)
        assert np.abs(images[number] - expected).mean() < 0.005
