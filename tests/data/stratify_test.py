"""Splits, labelled subsets and carved splits."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.data import DataConfig, labelled_subset
from kerobust.data.arrays import Memory, from_arrays
from kerobust.data.splits import Split
from kerobust.data.stratify import carve


def make_split(labels, ids=None) -> Split:
    """Image number i is filled with the grey level i."""
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    return Split(Memory(np.tile(images, [1, 2, 2, 3])), np.arange(len(labels)), labels)


def test_a_subset_keeps_ids_labels_and_images_together():
    split = make_split([3, 1, 4, 1, 5])

    part = split.subset([4, 1]).subset([1, 0])

    np.testing.assert_array_equal(part.ids, [1, 4])
    np.testing.assert_array_equal(part.labels, [1, 5])
    images, labels = part.arrays()
    np.testing.assert_array_equal(images[:, 0, 0, 0], np.float32([1, 4]) / 255)
    np.testing.assert_array_equal(labels, [1, 5])


def test_joined_splits_hold_the_examples_of_both():
    split = make_split([3, 1, 4, 1, 5])

    both = split.subset([4, 1]).joined(split.subset([0]))

    np.testing.assert_array_equal(both.ids, [4, 1, 0])
    np.testing.assert_array_equal(both.labels, [5, 1, 3])
    levels = both.arrays()[0][:, 0, 0, 0]
    np.testing.assert_array_equal(levels, np.float32([4, 1, 0]) / 255)
    with pytest.raises(ValueError, match="same data set. Received: other of 2"):
        split.joined(make_split([0, 1]))


def test_images_can_be_fetched_in_a_graph_in_any_order():
    split = make_split([0] * 6)

    images = tf.function(split.fetch)(tf.constant([5, 0, 5]))

    expected = np.float32([5, 0, 5]) / 255
    np.testing.assert_array_equal(images[:, 1, 1, 2], expected)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9])
def test_a_labelled_subset_has_the_same_share_of_every_class(fraction):
    split = make_split([0] * 100 + [1] * 40 + [2] * 20)

    part = labelled_subset(split, fraction, seed=3)

    assert part.size == round(fraction * 160)
    quota = fraction * np.array([100, 40, 20])
    assert np.abs(np.bincount(part.labels) - quota).max() < 1
    assert (np.diff(part.ids) > 0).all()


def test_the_seed_and_the_id_choose_not_the_order_of_the_split():
    split = make_split([0, 1] * 50)
    shuffled = split.subset(np.random.default_rng(0).permutation(100))

    chosen = labelled_subset(split, 0.2, seed=1)
    same = labelled_subset(shuffled, 0.2, seed=1)
    other = labelled_subset(split, 0.2, seed=2)

    assert set(chosen.ids) == set(same.ids)
    assert set(chosen.ids) != set(other.ids)


def test_all_labels_means_every_labelled_image():
    part = labelled_subset(make_split([0, -1, 1, -1]), 1.0, seed=0)

    np.testing.assert_array_equal(part.ids, [0, 2])


def test_a_class_that_would_be_empty_is_named():
    split = make_split([0] * 90 + [1] * 10)

    with pytest.raises(UserError) as error:
        labelled_subset(split, 0.04, seed=0)

    # 4 images: quotas 3.6 and 0.4, so class 1 gets none; 1 of 10 needs 0.1.
    for words in ("--data.label_fraction", "class 1", "label_fraction=0.04", "0.1."):
        assert words in str(error.value)


def test_a_set_without_labels_has_no_labelled_subset():
    with pytest.raises(UserError, match="--data.name.*labels"):
        labelled_subset(make_split([-1, -1]), 1.0, seed=0)


def test_carving_divides_without_loss_or_overlap():
    split = make_split([0] * 60 + [1] * 40)

    rest, part = carve(split, 0.1, 0, "validation")

    assert (rest.size, part.size) == (90, 10)
    np.testing.assert_array_equal(np.bincount(part.labels), [6, 4])
    np.testing.assert_array_equal(np.union1d(rest.ids, part.ids), np.arange(100))


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ({"train": 100}, {"train": 81, "validation": 9, "test": 10}),
        ({"train": 100, "test": 20}, {"train": 90, "validation": 10, "test": 20}),
        ({"train": 100, "validation": 20}, {"train": 90, "validation": 10, "test": 20}),
        (
            {"train": 100, "validation": 20, "test": 30},
            {"train": 100, "validation": 20, "test": 30},
        ),
    ],
)
def test_missing_splits_are_carved_from_train(given, sizes):
    images = np.zeros([sum(given.values()), 2, 2, 3], np.uint8)
    labels = {name: np.arange(size) % 2 for name, size in given.items()}

    source = from_arrays(DataConfig(), images, labels)

    assert {name: split.size for name, split in source.splits.items()} == sizes
    ids = np.concatenate([split.ids for split in source.splits.values()])
    np.testing.assert_array_equal(np.sort(ids), np.arange(len(images)))


def test_images_without_labels_give_no_test_split():
    images = np.zeros([20, 2, 2, 3], np.uint8)

    source = from_arrays(DataConfig(), images, {"train": np.full(20, -1)})

    assert {n: s.size for n, s in source.splits.items()} == {
        "train": 18,
        "validation": 2,
    }
    assert source.num_classes == 0


def test_where_some_have_labels_only_these_are_carved():
    labels = np.where(np.arange(60) < 20, np.arange(60) % 2, -1)
    images = np.zeros([60, 2, 2, 3], np.uint8)

    source = from_arrays(DataConfig(name="made"), images, {"train": labels})

    # 10 % of the 20 labelled images, then 10 % of the 18 that are left.
    assert {name: split.size for name, split in source.splits.items()} == {
        "train": 56,
        "validation": 2,
        "test": 2,
    }
    for name in ("validation", "test"):
        assert sorted(source.splits[name].labels) == [0, 1]


def test_the_digest_follows_pixels_and_labels():
    images, labels = np.zeros([8, 2, 2, 3], np.uint8), np.arange(8) % 2
    changed = images.copy()
    changed[3, 1, 1, 2] = 1

    def digest(images, labels):
        return from_arrays(DataConfig(), images, {"train": labels}).digest

    assert digest(images, labels) == digest(images.copy(), labels)
    assert digest(images, labels) != digest(changed, labels)
    assert digest(images, labels) != digest(images, labels[::-1])
