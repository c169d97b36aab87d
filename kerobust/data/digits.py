"""The embedded data set: 1,797 real handwritten digits of 8 by 8 pixels.

Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, 1998, UCI Machine
Learning Repository, https://archive.ics.uci.edu/dataset/80, doi:10.24432/C50P49,
licence CC BY 4.0. `digits.npz` holds the images of its test set in the order of
scikit-learn's `load_digits`, values 0 to 16, with source and licence inside.
"""

import pathlib

import numpy as np

from kerobust.data.arrays import Memory, array_digest, resize_all
from kerobust.data.config import DataConfig
from kerobust.data.splits import DataSource, Split
from kerobust.data.stratify import carve

TRAIN, VALIDATION, TEST = 1100, 200, 497
_FILE = pathlib.Path(__file__).with_name("digits.npz")


def load_digits(config: DataConfig) -> DataSource:
    """Returns the digits in fixed stratified splits of 1,100, 200 and 497 images.

    Pixels are the stored value / 16. The splits are those of seed 0 whatever the
    settings, so results are comparable.
    """
    with np.load(_FILE) as file:
        stored, labels = file["images"], file["labels"].astype(np.int32)
        report = {"source": str(file["source"]), "license": str(file["license"])}
    images = (stored / np.float32(16))[..., np.newaxis].astype(np.float32)
    digest = array_digest(images, labels)
    if config.image_size is not None:
        images = resize_all(images, config.image_size)
    whole = Split(Memory(images), np.arange(len(labels)), labels)
    rest, test = carve(whole, TEST / whole.size, 0, "test")
    train, validation = carve(rest, VALIDATION / rest.size, 0, "validation")
    splits = {"train": train, "validation": validation, "test": test}
    names = tuple(str(digit) for digit in range(10))
    return DataSource("digits", names, digest, splits, report)
