"""Settings of the data."""

import dataclasses

from kerobust.config import Config, setting


@dataclasses.dataclass(frozen=True)
class DataConfig(Config):
    """Which images to use and how they are divided."""

    SECTION = "data"

    name: str = setting(
        "digits",
        "Data set: digits (embedded); scenes or scenes:SEED (rendered: labels, masks"
        " and depths); a name of TensorFlow Datasets such as cifar10;"
        " folder:PATH; npz:PATH; examples:PATH, TFRecord files that this library wrote;"
        " imagenet_subset:FILE, a list of class folders below --data.dir; with masks:"
        " masks:PATH, voc:PATH, ade20k:PATH; with depth maps: depth:PATH.",
    )
    dir: str | None = setting(
        None,
        "Folder of TensorFlow Datasets (empty = its own default), or of ImageNet's"
        " train/ and val/ for imagenet_subset.",
    )
    download: bool = setting(
        False, "Allow TensorFlow Datasets to download and prepare a missing set."
    )
    image_size: int | None = setting(
        None,
        "Side in pixels to which images are resized (shorter side, then a centre"
        " crop; masks and depths take the nearest pixel); empty = as stored.",
        low=1,
    )
    validation_fraction: float = setting(
        0.1,
        "Share of the training images kept for validation where the data set has no"
        " split for it (and for testing where it has none for that either).",
        low=0,
        high=0.5,
        open_low=True,
    )
    label_fraction: float = setting(
        1.0,
        "Share of the training labels that fine-tuning may use, the same in every"
        " class.",
        low=0,
        high=1,
        open_low=True,
    )
    label_seed: int = setting(
        0, "Seed that chooses the labelled and the validation images.", low=0
    )
    pretrain_validation: bool = setting(
        False, "Whether pretraining, which reads no labels, sees validation images too."
    )
    corrupt_cap: float = setting(
        0.01, "Share of unreadable picture files that is tolerated.", low=0, high=1
    )
    memory_gigabytes: float = setting(
        4.0,
        "Data sets up to this size (10^9 bytes, decoded) are kept in memory; larger"
        " ones are read from disk again in every epoch. Sets with masks or depth maps,"
        " which count too, must fit.",
        low=0,
    )
    ignore: tuple[int, ...] = setting(
        (255,),
        "Values in the masks of masks:PATH that mean: no label; 0 to 255.",
        low=0,
        high=255,
    )
    labels: str = setting(
        "standard",
        "Classes of the masks of VOC, ADE20K and Cityscapes: standard (void has no"
        " label; 21, 150 and 19 classes), or repo, those of the cross-task benchmark's"
        " code (void is class 0; 21, 151 and 20), for --benchmark.void=0.",
        choices=("standard", "repo"),
    )
    depth_unit: float = setting(
        0.001,
        "Metres that one step of the stored values of depth:PATH means: 0.001 for"
        " millimetres, 1/5000 for TUM's RGB-D sets.",
        low=0,
        open_low=True,
    )
    test_sequences: tuple[str, ...] = setting(
        (),
        "Folders of depth:PATH that make the test split; empty = --data.label_seed"
        " chooses whole folders.",
    )
