"""Sets of TensorFlow Datasets prepared without a network, as docs/data.md says."""

import csv
import pathlib
import re
import tarfile

import numpy as np
import pytest
from PIL import Image

from kerobust.config import UserError
from kerobust.data import DataConfig, load

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "data.md"
NAME = "cifar-100-binary.tar.gz"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Returns the functions that docs/data.md defines."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    names: dict = {}
    for block in blocks:
        if "def " in block:
            exec(compile(block, str(PAGE), "exec"), names)
    return names


def make_archive(folder: pathlib.Path, parts: dict) -> pathlib.Path:
    """Writes CIFAR-100's archive with the given images.

    Args:
        folder: Where to.
        parts: File name without suffix -> (images uint8 [N, 32, 32, 3], labels [N]).
    """
    inner = folder / "cifar-100-binary"
    inner.mkdir(parents=True)
    for name, (images, labels) in parts.items():
        rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        marks = np.stack([labels // 5, labels], axis=1).astype(np.uint8)
        np.concatenate([marks, rows], axis=1).tofile(inner / f"{name}.bin")
    for kind, count in (("coarse", 20), ("fine", 100)):
        names = "".join(f"{kind} {number}\n" for number in range(count))
        (inner / f"{kind}_label_names.txt").write_text(names)
    with tarfile.open(folder / NAME, "w:gz", compresslevel=1) as archive:
        archive.add(inner, inner.name)
    return folder / NAME


def digits(start: int, count: int):
    """Returns (uint8 [count, 32, 32, 3], labels 0 to 99 in turn)."""
    split = load(DataConfig(image_size=32)).splits["test"]
    images = split.fetch(np.arange(start, start + count)).numpy()
    return np.uint8(np.round(images * 255)), np.arange(count) % 100


def assert_same_images(split, images, labels):
    """Compares as multisets: TFDS keeps an order of its own."""
    found = np.uint8(np.round(split.arrays()[0] * 255))
    pairs = [
        sorted(
            (int(label), image.tobytes()) for image, label in zip(*part, strict=True)
        )
        for part in ((found, split.labels), (images, labels))
    ]
    assert pairs[0] == pairs[1]


def test_cifar100_is_prepared_from_an_archive_in_the_cache(tmp_path, page):
    parts = {"train": digits(0, 300), "test": digits(300, 100)}
    archive = make_archive(tmp_path / "made", parts)
    config = DataConfig(name="cifar100", dir=str(tmp_path / "tfds"))

    cached = page["put_into_cache"]("cifar100", archive, config.dir)
    source = load(config.replace(download=True))
    read = load(config.replace(memory_gigabytes=0))

    assert (source.report["kept"], read.report["kept"]) == ("in memory", "on disk")
    for name, split in source.splits.items():
        np.testing.assert_array_equal(split.arrays()[0], read.splits[name].arrays()[0])
    assert cached.name in PAGE.read_text()
    assert source.num_classes == 100 and source.class_names[7] == "fine 7"
    counts = {name: split.size for name, split in source.splits.items()}
    assert counts == {"train": 270, "validation": 30, "test": 100}
    assert_same_images(source.splits["test"], *parts["test"])


def test_an_archive_in_the_manual_folder_must_be_the_official_one(tmp_path):
    archive = make_archive(tmp_path / "made", {"train": digits(0, 3)})
    manual = tmp_path / "tfds" / "downloads" / "manual"
    manual.mkdir(parents=True)
    archive.rename(manual / NAME)

    with pytest.raises(UserError) as error:
        load(DataConfig(name="cifar100", dir=str(tmp_path / "tfds"), download=True))

    for word in ("--data.download", "name=cifar100", "checksum", NAME):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_the_bytes_of_stl10_are_read_as_tfds_reads_them(tmp_path, page):
    images = digits(0, 2)[0].repeat(3, axis=1).repeat(3, axis=2)
    # The file holds channels, then columns, then rows.
    images.transpose(0, 3, 2, 1).tofile(tmp_path / "unlabeled_X.bin")

    found = page["stl10_pictures"](tmp_path / "unlabeled_X.bin")

    np.testing.assert_array_equal(found, images)


def sheets(folder: pathlib.Path, name: str, page: dict, classes: list[str]):
    """Returns all tiles of a split of `cifar100/` with their labels."""
    paths = sorted(folder.glob(f"sheets/{name}_*.webp"))
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    images = np.concatenate([page["tiles"](picture, 32) for picture in pictures])
    with open(folder / f"{name}_index.csv") as file:
        rows = list(csv.reader(file))[1:]
    labels = [int(row[1]) for row in rows]
    assert all(classes[label] in row for label, row in zip(labels, rows, strict=True))
    return images, np.array(labels)


@pytest.mark.data
@pytest.mark.slow
def test_real_cifar100_is_the_same_from_tfds_and_from_arrays(
    tmp_path, data_folder, page
):
    folder = data_folder / "cifar100"
    classes = (folder / "classes.txt").read_text().split()
    parts = {name: sheets(folder, name, page, classes) for name in ("train", "test")}
    archive = make_archive(tmp_path / "made", parts)
    np.savez(
        tmp_path / "cifar100.npz",
        images_test=parts["test"][0],
        labels_test=parts["test"][1],
        images_train=parts["train"][0],
        labels_train=parts["train"][1],
        class_names=classes,
    )
    config = DataConfig(name="cifar100", dir=str(tmp_path / "tfds"), download=True)

    page["put_into_cache"]("cifar100", archive, config.dir)
    stored = load(config)
    arrays = load(DataConfig(name=f"npz:{tmp_path / 'cifar100.npz'}"))

    assert arrays.class_names == tuple(classes) and stored.num_classes == 100
    for name, split in arrays.splits.items():
        assert split.size == stored.splits[name].size
        assert len(set(np.bincount(split.labels))) == 1
    for source in (stored, arrays):
        assert_same_images(source.splits["test"], *parts["test"])
