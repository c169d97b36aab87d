"""The embedded digits: what they are and how they are divided."""

import hashlib
import pathlib

import numpy as np

from kerobust.data import DataConfig, digits, load

# Made once from scikit-learn 1.9.1 `load_digits`; never regenerated.
FILE_SHA256 = "e5beb783ea2edfc9262c6d707830b2fce1b50b17432b2ceab6f4d61d8dd74185"
# The ids of train, validation and test: published numbers rest on them.
SPLITS_SHA256 = "7a46944367f7949b094d20e72e0cd140020ac63f33a82f88cb8ca3f160c7bd10"


def test_the_file_is_the_one_that_was_checked():
    path = pathlib.Path(digits.__file__).with_name("digits.npz")

    assert hashlib.sha256(path.read_bytes()).hexdigest() == FILE_SHA256


def test_source_and_licence_travel_with_the_images():
    report = load(DataConfig()).report

    assert "10.24432/C50P49" in report["source"]
    assert "archive.ics.uci.edu" in report["source"]
    assert "CC BY 4.0" in report["license"]


def test_splits_have_fixed_sizes_share_nothing_and_cover_everything():
    splits = load(DataConfig()).splits

    assert {name: split.size for name, split in splits.items()} == {
        "train": 1100,
        "validation": 200,
        "test": 497,
    }
    ids = np.concatenate([split.ids for split in splits.values()])
    np.testing.assert_array_equal(np.sort(ids), np.arange(1797))


def test_splits_do_not_depend_on_settings():
    one = load(DataConfig())
    two = load(DataConfig(label_seed=7, validation_fraction=0.5))

    for name, split in one.splits.items():
        np.testing.assert_array_equal(split.ids, two.splits[name].ids)
    ids = np.concatenate([split.ids for split in one.splits.values()])
    assert hashlib.sha256(ids.tobytes()).hexdigest() == SPLITS_SHA256


def test_every_class_has_its_share_of_every_split():
    splits = load(DataConfig()).splits
    labels = np.concatenate([split.labels for split in splits.values()])
    share = np.bincount(labels) / len(labels)

    for split in splits.values():
        # A largest-remainder share is less than 1 from the exact quota; carving twice
        # can add two such errors.
        assert np.abs(np.bincount(split.labels) - share * split.size).max() < 2


def test_pixels_are_sixteenths_and_grey_in_three_channels():
    images, labels = load(DataConfig()).splits["train"].arrays()

    assert images.dtype == np.float32 and images.shape == (1100, 8, 8, 3)
    assert labels.dtype == np.int32
    assert images.min() == 0 and images.max() == 1
    np.testing.assert_array_equal(images * 16, np.round(images * 16))
    np.testing.assert_array_equal(images[..., 0], images[..., 2])


def test_digits_can_be_enlarged():
    source = load(DataConfig(image_size=16))

    images, _ = source.splits["validation"].arrays()

    assert source.image_shape == (16, 16, 3) == images.shape[1:]
    assert images.min() >= 0 and images.max() <= 1
    assert source.digest == load(DataConfig()).digest
