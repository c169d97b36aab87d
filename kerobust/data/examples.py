"""Data sets as TFRecord files of `tf.train.Example`, laid out as TFX lays them out.

    Split-train/data_tfrecord-00000-of-00001.gz   one folder for every split
    schema.pbtxt                                  TensorFlow Metadata: the features
    examples.json                                 names, shape, counts, digest, report

Features: `image/encoded` and `image/format` (png: lossless uint8; float32: values in
[0, 1], little endian, for images that uint8 cannot hold), `label` (-1 = unlabelled),
`id`.
"""

import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from kerobust.batch_state import write_atomically
from kerobust.config import UserError
from kerobust.data.arrays import Memory, resize_all
from kerobust.data.config import DataConfig
from kerobust.data.splits import DataSource, Split

FILE, SCHEMA = "examples.json", "schema.pbtxt"
_RECORDS = "data_tfrecord-00000-of-00001.gz"
_CHUNK = 256
_FEATURES = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/format": tf.io.FixedLenFeature([], tf.string),
    "label": tf.io.FixedLenFeature([], tf.int64),
    "id": tf.io.FixedLenFeature([], tf.int64),
}
# Split, images float32 [B, H, W, 3], labels int32 [B], ids int32 [B] -> images.
Change = Callable[[str, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def write_examples(
    source: DataSource,
    folder: pathlib.Path,
    change: Change | None = None,
    report: dict | None = None,
) -> str:
    """Writes a data set; returns its digest.

    `examples.json` is written last, and whole: a folder without it is not finished.

    Args:
        source: What to write: splits, labels and ids stay what they are.
        folder: Where; made if needed, older files are replaced.
        change: What becomes of the images, such as an attack; None = nothing.
        report: Added to the data set's own report.
    """
    (folder / FILE).unlink(missing_ok=True)
    digest = hashlib.sha256(json.dumps(source.class_names).encode())
    sizes, bytes_per_value = {}, 1
    for name, split in source.splits.items():
        path = folder / f"Split-{name}" / _RECORDS
        path.parent.mkdir(parents=True, exist_ok=True)
        digest.update(name.encode())
        with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
            for record, exact in _records(name, split, change):
                digest.update(record)
                writer.write(record)
                bytes_per_value = bytes_per_value if exact else 4
        sizes[str(path.relative_to(folder))] = path.stat().st_size
    _write_schema(folder / SCHEMA, source)
    about: dict[str, Any] = {
        "name": source.name,
        "class_names": source.class_names,
        "image_shape": source.image_shape,
        "splits": {name: split.size for name, split in source.splits.items()},
        "files": sizes,
        "bytes_per_value": bytes_per_value,
        "digest": digest.hexdigest(),
        "source_digest": source.digest,
        "report": {**source.report, **(report or {})},
    }
    write_atomically(folder / FILE, json.dumps(about, indent=1).encode())
    return about["digest"]


def load_examples(config: DataConfig, path: pathlib.Path) -> DataSource:
    """Returns a data set that `write_examples` wrote, in memory.

    Raises:
        UserError: If there is none, it is damaged, or `--data.memory_gigabytes` is too
            little.
    """
    about = _read_about(path)
    shape = tuple(about["image_shape"])
    count = sum(about["splits"].values())
    values = count * int(np.prod(shape))
    _require_memory(config, values * about["bytes_per_value"], path)
    digest = hashlib.sha256(json.dumps(about["class_names"]).encode())
    images: list[np.ndarray] = []
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name in about["splits"]:
        digest.update(name.encode())
        labels, ids = [], []
        for batch in _read(path, name, digest):
            kinds = zip(batch["image/encoded"], batch["image/format"], strict=True)
            images += [_decoded(data, kind, shape) for data, kind in kinds]
            labels.append(batch["label"])
            ids.append(batch["id"])
        found[name] = np.concatenate(labels), np.concatenate(ids)
    if digest.hexdigest() != about["digest"]:
        raise _problem(path, f"must hold what its {FILE} says: records differ")
    return DataSource(
        config.name,
        tuple(about["class_names"]),
        about["digest"],
        _splits(_together(images, config.image_size), found),
        {**about["report"], "examples of": about["name"]},
    )


def is_intact(folder: pathlib.Path) -> bool:
    """Returns whether all files of a data set are there and have their sizes."""
    try:
        files = _read_about(folder)["files"].items()
        return all((folder / name).stat().st_size == size for name, size in files)
    except (OSError, UserError):
        return False


def _records(name, split: Split, change: Change | None) -> Iterator[tuple[bytes, bool]]:
    """Yields records, and whether each holds its image as uint8."""
    for start in range(0, split.size, _CHUNK):
        part = split.subset(np.arange(start, min(start + _CHUNK, split.size)))
        images, labels = part.arrays()
        if change is not None:
            images = change(name, images, labels, part.ids)
        for image, label, number in zip(images, labels, part.ids, strict=True):
            yield _record(image, int(label), int(number))


def _record(image: np.ndarray, label: int, number: int) -> tuple[bytes, bool]:
    pixels = np.round(image * 255).astype(np.uint8)
    exact = np.array_equal(pixels / np.float32(255), image)
    encoded = (
        tf.io.encode_png(pixels).numpy() if exact else image.astype("<f4").tobytes()
    )
    values = {
        "image/encoded": _bytes(encoded),
        "image/format": _bytes(b"png" if exact else b"float32"),
        "label": _number(label),
        "id": _number(number),
    }
    features = tf.train.Features(feature=values)
    example = tf.train.Example(features=features)
    return example.SerializeToString(deterministic=True), exact


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _number(value: int) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def _write_schema(path: pathlib.Path, source: DataSource) -> None:
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2

    schema = schema_pb2.Schema()
    for name, feature in _FEATURES.items():
        kind = "BYTES" if feature.dtype == tf.string else "INT"
        added = schema.feature.add(name=name, type=kind)
        added.presence.min_fraction = 1.0
        added.shape.SetInParent()
    domain = schema.feature[2].int_domain
    domain.min, domain.max = -1, max(source.num_classes - 1, -1)
    domain.is_categorical = True
    write_atomically(path, text_format.MessageToString(schema).encode())


def _read_about(path: pathlib.Path) -> dict:
    try:
        about = json.loads((path / FILE).read_text("utf-8"))
        wanted = ("name", "class_names", "image_shape", "splits", "digest", "report")
        return {name: about[name] for name in (*wanted, "files", "bytes_per_value")}
    except OSError:
        raise _problem(path, f"must name a folder with {FILE}") from None
    except (ValueError, KeyError, TypeError):
        raise _problem(path, f"must hold an intact {FILE}") from None


def _require_memory(config: DataConfig, size: int, path) -> None:
    need = size / 1e9
    config.require(
        need <= config.memory_gigabytes,
        "memory_gigabytes",
        f"must be at least {need:.1f} for examples:{path}, which are kept in memory",
        "Raise it, or name the original data set.",
    )


def _read(path: pathlib.Path, name: str, digest) -> Iterator[dict[str, np.ndarray]]:
    """Yields the features of the records of a split, and adds them to the digest."""
    file = path / f"Split-{name}" / _RECORDS
    try:
        for batch in tf.data.TFRecordDataset(str(file), "GZIP").batch(_CHUNK):
            for record in batch.numpy():
                digest.update(record)
            found = tf.io.parse_example(batch, _FEATURES)
            yield {key: values.numpy() for key, values in found.items()}
    except tf.errors.OpError as error:
        raise _problem(path, f"must hold an intact {file.name}") from error


def _decoded(data: bytes, kind: bytes, shape) -> np.ndarray:
    """Returns uint8 or float32 [H, W, 3]."""
    if kind == b"png":
        return tf.io.decode_png(data, channels=3).numpy()
    return np.frombuffer(data, "<f4").reshape(shape)


def _together(images: list[np.ndarray], size: int | None) -> np.ndarray:
    """Returns all images in one array: uint8 if each of them is."""
    if any(image.dtype != np.uint8 for image in images):
        images = [
            image / np.float32(255) if image.dtype == np.uint8 else image
            for image in images
        ]
    array = np.stack(images)
    return array if size is None else resize_all(array, size)


def _splits(images: np.ndarray, found) -> dict[str, Split]:
    pictures, splits, start = Memory(images), {}, 0
    for name, (labels, ids) in found.items():
        rows = np.arange(start, start + len(labels))
        splits[name] = Split(pictures, rows, labels, ids)
        start += len(labels)
    return splits


def _problem(path, expectation: str) -> UserError:
    return UserError(
        f"`--data.name` {expectation}. Received: name=examples:{path}. Write it anew."
    )
