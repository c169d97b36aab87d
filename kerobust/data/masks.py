"""Folders of images and masks: your own, VOC 2012, ADE20K."""

import pathlib

import numpy as np

from kerobust.config import UserError
from kerobust.data.config import DataConfig
from kerobust.data.dense import Kind, Pairs, dense_source, read_pairs
from kerobust.data.label_maps import UNKNOWN, LabelMap, ade20k, voc
from kerobust.data.listing import find_pictures, shorten
from kerobust.data.maps import class_decoder
from kerobust.data.splits import UNLABELLED, DataSource

# Names of folders -> ours.
_SPLITS = {"train": "train", "validation": "validation", "val": "validation"}
_SPLITS |= {"test": "test"}
_CLASSES = "classes.txt"
_OWN = (
    "Expected images/train/1.jpg beside labels/train/1.png (or masks/), with val/ and "
    "test/ if there are any, or images/1.jpg beside labels/1.png"
)
_VOC = (
    "Expected JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/train.txt and "
    "val.txt, as in VOCdevkit/VOC2012"
)
_ADE = (
    "Expected images/training/, images/validation/ and annotations/ with the same "
    "folders, as in ADEChallengeData2016"
)


def load_masks(config: DataConfig, root: pathlib.Path) -> DataSource:
    """Returns the images and masks of a folder of your own.

    `images/` and `labels/` (or `masks/`) hold train, val (or validation) and test, or
    the files themselves. Masks are 8-bit PNG files whose values are classes, but for
    those of `--data.ignore`, which mean "no label". `classes.txt` may name them:
    number, TAB, name; without it the highest value says how many there are. Missing
    splits are carved image by image: for the frames of a film make folders instead,
    because neighbours are almost equal.

    Raises:
        UserError: If the folder or a file is not as described, or too much is damaged.
    """
    labels = _own_labels(config, root)
    pairs = _pairs(config, root, labels, _OWN)
    images = root / "images"
    found = [x for x in ("labels", "masks") if (root / x).is_dir()]
    if not images.is_dir() or len(found) != 1:
        raise pairs.problem("must hold images/ and either labels/ or masks/")
    inside = {path.name: path for path in images.iterdir() if path.is_dir()}
    if not set(inside) & set(_SPLITS):
        pairs.pair("train", images, root / found[0])
        return _source(pairs, labels)
    loose = [
        path.name
        for path in find_pictures(images)
        if path.relative_to(images).parts[0] not in _SPLITS
    ]
    if loose:
        raise pairs.problem(
            "must have its images in train/, val/ or test/ once there is one of these, "
            f"found {len(loose)} outside of them: {shorten(loose)}"
        )
    for name in sorted(set(inside) & set(_SPLITS)):
        pairs.pair(_SPLITS[name], inside[name], root / found[0] / name)
    return _source(pairs, labels)


def load_voc(config: DataConfig, root: pathlib.Path) -> DataSource:
    """Returns VOC 2012 as unpacked: 21 classes, see `label_maps`.

    `val.txt` is the test set, as is usual because the test set's masks are not public;
    validation images are carved from the training images. With SegmentationClassAug/
    and trainaug.txt the training images are those 10,582.

    Raises:
        UserError: If a folder, a list or `--data.image_size` is missing.
    """
    homes = (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012")
    home = next((x for x in homes if (x / "SegmentationClass").is_dir()), None)
    labels = voc(config.labels)
    pairs = _pairs(config, home or root, labels, _VOC)
    if home is None:
        raise pairs.problem("must hold SegmentationClass/")
    _require_size(config)
    lists = home / "ImageSets" / "Segmentation"
    extra = home / "SegmentationClassAug"
    more = extra.is_dir() and (lists / "trainaug.txt").is_file()
    train = _listed(pairs, lists / ("trainaug.txt" if more else "train.txt"))
    test = _listed(pairs, lists / "val.txt")
    both = sorted(set(train) & set(test))
    if both:
        raise pairs.problem(f"must not train on what it tests: {shorten(both)}")
    _add(pairs, "train", train, extra if more else home / "SegmentationClass")
    _add(pairs, "validation", test, home / "SegmentationClass")
    return _source(pairs, labels)


def load_ade20k(config: DataConfig, root: pathlib.Path) -> DataSource:
    """Returns ADE20K's scene parsing as unpacked: 150 classes, see `label_maps`.

    Its validation images are the test set; validation images are carved from the
    training images. (TFDS's `scene_parse150` has other masks, see `tfds_dense`.)

    Raises:
        UserError: If a folder or `--data.image_size` is missing.
    """
    inner = root / "ADEChallengeData2016"
    root = inner if inner.is_dir() else root
    labels = ade20k(config.labels)
    pairs = _pairs(config, root, labels, _ADE)
    if not (root / "annotations" / "training").is_dir():
        raise pairs.problem("must hold annotations/training/")
    _require_size(config)
    for part, name in (("train", "training"), ("validation", "validation")):
        pairs.pair(part, root / "images" / name, root / "annotations" / name)
    return _source(pairs, labels)


def _pairs(config, root: pathlib.Path, labels: LabelMap, layout: str) -> Pairs:
    kind = Kind("masks", "mask", np.int16, class_decoder(labels), layout)
    return Pairs(config, root, kind=kind)


def _source(pairs: Pairs, labels: LabelMap) -> DataSource:
    found = read_pairs(pairs)
    names = labels.names or tuple(str(n) for n in range(int(found.maps.max()) + 1))
    parts = {
        name: np.flatnonzero(found.parts == name)
        for name in ("train", "validation", "test")
    }
    return dense_source(pairs.config, found, "masks", parts, names)


def _own_labels(config: DataConfig, root: pathlib.Path) -> LabelMap:
    """Returns what classes.txt and `--data.ignore` say of the stored values."""
    named = _read_classes(config, root / _CLASSES)
    table = np.arange(256, dtype=np.int16)
    if named:
        table[[value for value in range(256) if value not in named]] = UNKNOWN
    table[list(config.ignore)] = UNLABELLED
    kept = [value for value in named if value not in config.ignore]
    if named and len(kept) < 2:
        raise UserError(
            f"`--data.ignore` must leave two classes of {_CLASSES}. Received: "
            f"ignore={config.ignore}, classes {shorten(map(str, named))}."
        )
    count = max(kept) + 1 if kept else 0
    return LabelMap(table, tuple(named.get(n, str(n)) for n in range(count)))


def _read_classes(config: DataConfig, path: pathlib.Path) -> dict[int, str]:
    """Returns number -> name; nothing without the file."""
    if not path.is_file():
        return {}
    found: dict[int, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        number, _, rest = line.partition("\t" if "\t" in line else " ")
        name, number = rest.split("\t")[0].strip(), number.strip()
        if not line.strip():
            continue
        wrong = not number.isdecimal() or int(number) > 255 or int(number) in found
        if wrong or not name:
            raise UserError(
                f"`--data.name` must have a {_CLASSES} whose lines hold a number from "
                "0 to 255, only once each, a TAB and a name. Received: "
                f"name={config.name}, line {line!r}."
            )
        found[int(number)] = name
    return found


def _require_size(config: DataConfig) -> None:
    config.require(
        config.image_size is not None,
        "image_size",
        f"must be given, because the images of {config.name} differ in size",
        "Try 224.",
    )


def _listed(pairs: Pairs, path: pathlib.Path) -> list[str]:
    if not path.is_file():
        raise pairs.problem(f"must hold {path.relative_to(pairs.root)}")
    return path.read_text(encoding="utf-8").split()


def _add(pairs: Pairs, part: str, names: list[str], masks: pathlib.Path) -> None:
    """Adds the listed images with their masks."""
    images = [pairs.root / "JPEGImages" / f"{name}.jpg" for name in names]
    targets = [masks / f"{name}.png" for name in names]
    lost = [path for path in (*images, *targets) if not path.is_file()]
    if lost:
        shown = shorten(str(path.relative_to(pairs.root)) for path in lost)
        raise pairs.problem(
            f"must hold every image and mask of its lists, but {len(lost)} are "
            f"missing: {shown}"
        )
    pairs.add_files(part, images, [UNLABELLED] * len(images))
    pairs.maps += targets
