"""TensorFlow Datasets by name: small prepared sets, and the real CIFAR-10."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.data import DataConfig, load, training_batches


def prepare(folder, file_format: str, shape=(8, 8, 3)) -> None:
    """Stores digits as a TensorFlow data set called `tiny`."""
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=shape),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
    )
    splits = load(DataConfig()).splits
    stored = {"train": splits["validation"], "test": splits["test"]}
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny",
        version="1.0.0",
        features=features,
        split_datasets={name: records(split) for name, split in stored.items()},
        data_dir=folder,
        file_format=file_format,
        disable_shuffling=True,
    )


def records(split) -> tf.data.Dataset:
    images, labels = split.arrays()
    images = np.uint8(np.round(images * 255))
    return tf.data.Dataset.from_tensor_slices(
        {"image": images, "label": labels.astype(np.int64)}
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Returns file format -> settings of the stored set."""
    found = {}
    for file_format in ("tfrecord", "array_record"):
        folder = tmp_path_factory.mktemp(file_format)
        prepare(folder, file_format)
        found[file_format] = DataConfig(name="tiny", dir=str(folder))
    return found


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_a_prepared_set_is_read_completely_and_in_order(tiny, file_format):
    digits = load(DataConfig()).splits

    source = load(tiny[file_format])

    assert source.num_classes == 10 and source.image_shape == (8, 8, 3)
    assert source.report["kept"] == "in memory"
    assert {name: split.size for name, split in source.splits.items()} == {
        "train": 180,
        "validation": 20,
        "test": 497,
    }
    images, labels = source.splits["test"].arrays()
    expected, expected_labels = digits["test"].arrays()
    np.testing.assert_array_equal(labels, expected_labels)
    np.testing.assert_array_equal(np.round(images * 255), np.round(expected * 255))


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_tensorflow_alone_decodes_pictures(tiny, file_format, monkeypatch):
    import tensorflow_datasets as tfds

    for name in ("decode_example", "decode_example_np"):  # The second asks for OpenCV.
        monkeypatch.delattr(tfds.features.Image, name)

    assert load(tiny[file_format]).splits["test"].size == 497


def test_the_format_of_the_files_does_not_matter(tiny):
    one, two = load(tiny["tfrecord"]), load(tiny["array_record"])

    assert one.digest == two.digest
    np.testing.assert_array_equal(one.splits["train"].ids, two.splits["train"].ids)


def test_records_read_from_disk_equal_those_in_memory(tiny):
    config = tiny["array_record"].replace(image_size=12)
    kept, read = load(config), load(config.replace(memory_gigabytes=0))

    assert read.report["kept"] == "on disk"
    for name, split in kept.splits.items():
        np.testing.assert_array_equal(split.ids, read.splits[name].ids)
        np.testing.assert_array_equal(split.labels, read.splits[name].labels)
        np.testing.assert_array_equal(split.arrays()[0], read.splits[name].arrays()[0])
    first, second = (
        next(iter(training_batches(source.splits["train"], batch_size=8, steps=1)))
        for source in (kept, read)
    )
    np.testing.assert_array_equal(first["images"], second["images"])


def test_a_set_too_large_for_memory_needs_random_access(tiny):
    with pytest.raises(UserError) as error:
        load(tiny["tfrecord"].replace(memory_gigabytes=1e-6))

    for word in ("--data.memory_gigabytes", "1e-06", "--data.download=true"):
        assert word in str(error.value)


def test_images_of_different_sizes_need_an_image_size(tmp_path):
    prepare(tmp_path, "tfrecord", shape=(None, None, 3))
    config = DataConfig(name="tiny", dir=str(tmp_path))

    with pytest.raises(UserError, match="--data.image_size.*name=tiny"):
        load(config)

    assert load(config.replace(image_size=6)).image_shape == (6, 6, 3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar10", ("--data.download=true", "not in", "docs/data.md")),
        ("digitz", ('Did you mean "digits"?', "folder:PATH")),
        ("cifar_10", ("name=cifar_10", 'Did you mean "cifar10')),
        ("foldr:somewhere", ('Did you mean "folder"?',)),
        ("coco", ("one class label each", "objects")),
        ("cifar10/absent", ("configuration", "(BuilderConfig absent not found")),
        ("CIFAR10", ('Did you mean "cifar10"?',)),
        ("cityscapes", ("--data.download=true", "not in")),
        ("voc/2012", ("one class label each", "voc:PATH, ade20k:PATH")),
    ],
)
def test_wrong_names_are_answered_with_the_way_out(tmp_path, name, words):
    with pytest.raises(UserError) as error:
        load(DataConfig(name=name, dir=str(tmp_path)))

    for word in ("--data.name", f"name={name}", *words):
        assert word in str(error.value)


def test_a_missing_image_size_is_found_before_the_set_is_prepared(tmp_path):
    config = DataConfig(name="imagenet2012", dir=str(tmp_path), download=True)

    with pytest.raises(UserError, match="--data.image_size.*image_size=None"):
        load(config)

    assert list(tmp_path.iterdir()) == []


def test_a_folder_named_as_if_it_were_a_set_is_answered_with_its_prefix(tmp_path):
    (tmp_path / "tiny_imagenet").mkdir()
    np.savez(tmp_path / "arrays.npz")

    for name, folder, hint in (
        ("tiny_imagenet", tmp_path, f"folder:{tmp_path / 'tiny_imagenet'}"),
        (str(tmp_path / "tiny_imagenet"), None, f"folder:{tmp_path / 'tiny_imagenet'}"),
        (str(tmp_path / "arrays.npz"), None, f"npz:{tmp_path / 'arrays.npz'}"),
    ):
        with pytest.raises(UserError, match=f"--data.name={hint}"):
            load(DataConfig(name=name, dir=folder and str(folder)))


def test_a_folder_inside_a_set_is_answered_with_the_one_above(tmp_path):
    inside = tmp_path / "cifar10" / "3.0.2"
    inside.mkdir(parents=True)

    with pytest.raises(UserError, match=f"Did you mean --data.dir={tmp_path}\\?"):
        load(DataConfig(name="cifar10", dir=str(inside)))


def test_a_missing_set_is_one_message_and_no_warning(tmp_path, caplog):
    with pytest.raises(UserError):
        load(DataConfig(name="cifar10", dir=str(tmp_path)))

    assert caplog.text == ""


@pytest.mark.data
@pytest.mark.slow
def test_cifar10_is_the_official_one(tmp_path, data_folder):
    maker = data_folder / "cifar10" / "make_cifar10.py"
    folder = tmp_path / "tfds"
    command = [sys.executable, maker, tmp_path / "made", "--tfds", folder]
    subprocess.run(command, check=True, capture_output=True)

    source = load(DataConfig(name="cifar10", dir=str(folder), download=True))

    assert {name: split.size for name, split in source.splits.items()} == {
        "train": 45000,
        "validation": 5000,
        "test": 10000,
    }
    assert source.class_names[:2] == ("airplane", "automobile")
    for split in source.splits.values():
        assert len(set(np.bincount(split.labels))) == 1
    # TFDS stores the records in an order of its own: compare as a multiset.
    images, labels = source.splits["test"].arrays()
    rows = np.uint8(np.round(images * 255)).transpose(0, 3, 1, 2).reshape(10000, -1)
    rows = np.concatenate([labels[:, None].astype(np.uint8), rows], axis=1)
    official = tmp_path / "made" / "cifar-10-batches-bin" / "test_batch.bin"
    expected = np.fromfile(official, np.uint8).reshape(10000, 3073)
    order = lambda table: sorted(row.tobytes() for row in table)  # noqa: E731
    assert order(rows) == order(expected)
    shutil.rmtree(folder)
