"""VOC 2012, ADE20K and the classes of Cityscapes, by both conventions."""

import pathlib

import numpy as np
import pytest

from kerobust.data import load
from kerobust.data.label_maps import ADE_NAMES, VOC_NAMES, ade20k_objects, cityscapes
from tests.data.dense_masks_test import (
    config,
    everything,
    picture,
    refused,
    save,
    sizes,
)


def write_voc(root: pathlib.Path, train, val, folder: str = "SegmentationClass"):
    """Writes a VOCdevkit/VOC2012 whose masks hold number, background and void."""
    for number in (*train, *val):
        save(root / "JPEGImages" / f"{number}.jpg", picture(number, (15, 20)))
        values = np.full([15, 20], number, np.uint8)
        values[:, 10:] = 0
        values[:5] = 255
        save(root / folder / f"{number}.png", values, "P")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True, exist_ok=True)
    for name, numbers in (("train", train), ("val", val)):
        (lists / f"{name}.txt").write_text("".join(f"{x}\n" for x in numbers))
    return lists


@pytest.mark.parametrize("inside", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_voc_is_tested_on_val_and_void_has_no_label(tmp_path, inside):
    write_voc(tmp_path / inside, range(1, 11), (15, 20))

    source = load(config(tmp_path, "voc", image_size=15))
    numbers, masks = everything(source.splits["test"])

    assert source.mask_names == VOC_NAMES and len(VOC_NAMES) == 21
    assert sizes(source) == {"train": 9, "validation": 1, "test": 2}
    assert numbers == [15, 20]
    for number, found in zip(numbers, masks, strict=True):
        assert (found[:5] == -1).all() and (found[5:, 10:] == 0).all()
        assert (found[5:, :7] == number).all()


def test_voc_of_the_cross_task_benchmark_has_void_and_background_in_one(tmp_path):
    write_voc(tmp_path, range(1, 11), (15, 20))

    source = load(config(tmp_path, "voc", image_size=15, labels="repo"))
    _, masks = everything(source.splits["test"])

    assert set(np.unique(masks)) == {0, 15, 20} and (masks[:, :5] == 0).all()
    assert source.mask_names == ("background or void", *VOC_NAMES[1:])


def test_voc_trains_on_the_augmented_list_where_its_masks_are(tmp_path):
    lists = write_voc(tmp_path, range(1, 11), (15, 20))
    (lists / "trainaug.txt").write_text("\n".join(map(str, range(1, 21))))
    assert sum(sizes(load(config(tmp_path, "voc", image_size=15))).values()) == 12
    write_voc(tmp_path, range(1, 11), (15, 20), "SegmentationClassAug")
    refused(config(tmp_path, "voc", image_size=15), "what it tests: 15, 20")
    (lists / "trainaug.txt").write_text("\n".join(map(str, range(1, 15))))
    refused(config(tmp_path, "voc", image_size=15), "are missing: JPEGImages/11.jpg")
    write_voc(tmp_path, range(11, 15), (15, 20), "SegmentationClassAug")

    source = load(config(tmp_path, "voc", image_size=15))

    assert sum(sizes(source).values()) == 14 + 2


def test_voc_needs_a_size_and_its_folders(tmp_path):
    refused(config(tmp_path, "voc", image_size=15), "SegmentationClass/", "JPEGImages/")
    lists = write_voc(tmp_path, range(1, 11), (15, 20))
    refused(config(tmp_path, "voc"), "--data.image_size", "image_size=None")
    (lists / "val.txt").unlink()
    refused(config(tmp_path, "voc", image_size=15), "Segmentation/val.txt")


@pytest.mark.parametrize("inside", ["", "ADEChallengeData2016"])
@pytest.mark.parametrize("labels", ["standard", "repo"])
def test_ade20k_leaves_out_what_is_other_or_makes_it_class_0(tmp_path, inside, labels):
    values = np.arange(151, dtype=np.uint8)
    values = np.concatenate([values, np.zeros(9, np.uint8)]).reshape(10, 16)
    for part, count in (("training", 5), ("validation", 2)):
        for number in range(count):
            place = tmp_path / inside
            name = f"{part}/ADE_{number:08}"
            save(place / "images" / f"{name}.jpg", picture(number, (10, 16)))
            save(place / "annotations" / f"{name}.png", values)

    source = load(config(tmp_path, "ade20k", image_size=10, labels=labels))
    found = everything(source.splits["test"])[1][0]

    shift = 1 if labels == "standard" else 0
    # Without resizing: the centre, columns 3 to 12.
    np.testing.assert_array_equal(found, values[:, 3:13].astype(int) - shift)
    expected = ADE_NAMES if labels == "standard" else ("other", *ADE_NAMES)
    assert source.mask_names == expected and len(ADE_NAMES) == 150
    assert (ADE_NAMES[0], ADE_NAMES[79], ADE_NAMES[149]) == ("wall", "hovel", "flag")
    assert sizes(source)["test"] == 2
    refused(config(tmp_path, "ade20k"), "--data.image_size")
    refused(config(tmp_path / "x", "ade20k"), "annotations/training/", "ADEChallenge")


def test_cityscapes_ids_are_the_19_classes_that_count():
    standard, repo = cityscapes("standard"), cityscapes("repo")

    ids = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert [int(standard.table[x]) for x in ids] == list(range(19))
    assert [int(repo.table[x]) for x in ids] == list(range(1, 20))
    others = [x for x in (*range(34), 255) if x not in ids]
    assert set(standard.table[others]) == {-1} and set(repo.table[others]) == {0}
    assert (standard.names[0], standard.names[13], standard.names[18]) == (
        *("road", "car", "bicycle"),
    )
    assert len(standard.names) == 19 and len(repo.names) == 20


def test_the_objects_of_ade20k_are_100_of_its_classes():
    names = ade20k_objects("standard").names

    assert len(set(names)) == 100 and names[0] == "bed" and names[-1] == "flag"
    assert "sky" not in names and "wall" not in names
