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
        " imagenet_subset:FILE, a list of class folders below"
        " --data.dir.",
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
        " crop); empty = as stored.",
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
        " ones are read from disk again in every epoch.",
        low=0,
    )
