"""TFRecord examples: written, read again, refused when damaged."""

import json

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from kerobust.config import UserError
from kerobust.data import DataConfig, load
from kerobust.data.arrays import Memory
from kerobust.data.examples import FILE, write_examples
from kerobust.data.splits import DataSource, Split


def source(images: np.ndarray) -> DataSource:
    """A data set of six images, the last without a label; ids are not rows."""
    pictures, ids = Memory(images), np.array([7, 3, 9, 1, 0, 5])
    labels = np.array([0, 1, 1, 0, 1, -1])
    splits = {
        name: Split(pictures, rows, labels[rows], ids[rows])
        for name, rows in {
            "train": np.array([0, 1, 5]),
            "validation": np.array([2]),
            "test": np.array([3, 4]),
        }.items()
    }
    return DataSource("six", ("no", "yes"), "abc", splits, {"license": "free"})


def bytes_images() -> np.ndarray:
    draws = np.random.default_rng(0)
    return draws.integers(0, 256, [6, 4, 5, 3]).astype(np.uint8)


def read(folder, **changes) -> DataSource:
    return load(DataConfig(name=f"examples:{folder}", **changes))


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_what_is_read_is_what_was_written(tmp_path, kind):
    images = bytes_images()
    if kind == "float32":
        images = (images / np.float32(257)).astype(np.float32)  # No whole 255ths.
    before = source(images)

    digest = write_examples(before, tmp_path)

    after = read(tmp_path)
    assert after.digest == digest != before.digest
    assert after.class_names == before.class_names
    assert after.report == {"license": "free", "examples of": "six"}
    for name, split in before.splits.items():
        found = after.splits[name]
        np.testing.assert_array_equal(found.ids, split.ids)
        for one, other in zip(found.arrays(), split.arrays(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_images_may_be_changed_on_the_way(tmp_path):
    seen = []

    def darker(name, images, labels, ids):
        seen.append((name, list(labels), list(ids)))
        return images / 3 if name == "test" else images

    before = source(bytes_images())

    write_examples(before, tmp_path, darker, {"attack": "night"})

    after = read(tmp_path)
    assert seen[0] == ("train", [0, 1, -1], [7, 3, 5])
    assert after.report["attack"] == "night"
    expected = before.splits["test"].arrays()[0] / 3
    np.testing.assert_array_equal(after.splits["test"].arrays()[0], expected)
    unchanged = before.splits["train"].arrays()[0]
    np.testing.assert_array_equal(after.splits["train"].arrays()[0], unchanged)


def test_the_digest_follows_pixels_labels_ids_and_names(tmp_path):
    images = bytes_images()
    base = source(images)
    relabelled, renamed, moved = source(images), source(images), images.copy()
    relabelled.splits["test"].labels[0] = 1
    renamed.splits["test"].ids[0] = 100
    moved[0, 0, 0, 0] ^= 1
    changed = [relabelled, renamed, source(moved)]

    first = write_examples(base, tmp_path / "a")
    others = [write_examples(each, tmp_path / "b") for each in changed]

    assert write_examples(source(images), tmp_path / "c") == first
    assert len({first, *others}) == 4


def test_other_programs_can_read_the_records_and_the_schema(tmp_path):
    write_examples(source(bytes_images()), tmp_path)

    text = (tmp_path / "schema.pbtxt").read_text()
    schema = text_format.Parse(text, schema_pb2.Schema())
    file = tmp_path / "Split-test" / "data_tfrecord-00000-of-00001.gz"
    records = [x.numpy() for x in tf.data.TFRecordDataset(str(file), "GZIP")]
    examples = [tf.train.Example.FromString(record) for record in records]

    names = [feature.name for feature in schema.feature]
    assert sorted(names) == sorted(examples[0].features.feature)
    assert schema.feature[names.index("label")].int_domain.max == 1
    values = [x.features.feature["label"].int64_list.value[0] for x in examples]
    assert values == [0, 1]


def test_a_smaller_size_may_be_asked_for(tmp_path):
    write_examples(source(bytes_images()), tmp_path)

    assert read(tmp_path, image_size=2).image_shape == (2, 2, 3)


def damage(folder, how: str) -> None:
    file = folder / "Split-train" / "data_tfrecord-00000-of-00001.gz"
    about = folder / FILE
    if how == "no folder":
        about.unlink()
    elif how == "cut json":
        about.write_text(about.read_text()[:40])
    elif how == "cut records":
        file.write_bytes(file.read_bytes()[:-30])
    elif how == "no records":
        file.unlink()
    else:
        content = json.loads(about.read_text())
        about.write_text(json.dumps({**content, "digest": "0" * 64}))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("no folder", "must name a folder with examples.json"),
        ("cut json", "must hold an intact examples.json"),
        ("cut records", "must hold an intact data_tfrecord"),
        ("no records", "must hold an intact data_tfrecord"),
        ("other digest", "records differ"),
    ],
)
def test_what_is_damaged_is_refused(tmp_path, how, words):
    write_examples(source(bytes_images()), tmp_path)
    damage(tmp_path, how)

    with pytest.raises(UserError, match="`--data.name` must") as caught:
        read(tmp_path)

    assert words in str(caught.value)
    assert f"Received: name=examples:{tmp_path}" in str(caught.value)


def test_examples_that_do_not_fit_into_memory_are_refused(tmp_path):
    write_examples(source(bytes_images()), tmp_path)

    with pytest.raises(UserError, match="`--data.memory_gigabytes` must be at least"):
        read(tmp_path, memory_gigabytes=1e-9)
