"""Sets of TensorFlow Datasets, by name: those for classification are read here."""

import hashlib

import numpy as np

from kerobust.config import UserError
from kerobust.data.arrays import from_arrays
from kerobust.data.config import DataConfig
from kerobust.data.records import Records, read_all
from kerobust.data.splits import DataSource, consecutive
from kerobust.data.stratify import complete_splits
from kerobust.data.tfds_builder import (
    ROLES,
    find_builder,
    image_shape,
    prepare,
    random_access,
)
from kerobust.data.tfds_dense import SETS, load_tfds_dense


def load_tfds(config: DataConfig) -> DataSource:
    """Returns a set of TensorFlow Datasets, in memory if it fits.

    Splits that it does not have are made as `complete_splits` says. Sets that do not
    fit must be prepared in a format with random access.

    Raises:
        UserError: If the name is unknown, the set is not one of labelled images, is not
            prepared, or is too large for memory and not stored for random access.
    """
    builder = find_builder(config)
    if builder.name in SETS:
        return load_tfds_dense(config, builder)
    keys = _keys(builder, config)
    shape = image_shape(config, builder.info.features[keys[0]])
    prepare(builder, config)
    parts = _parts(builder, keys, config)
    counts = [builder.info.splits[part].num_examples for part in parts.values()]
    fits = sum(counts) * np.prod(shape) <= config.memory_gigabytes * 1e9
    names = tuple(builder.info.features[keys[1]].names)
    report: dict = {"tfds": builder.info.full_name}
    unused = [name for name in builder.info.splits if name not in parts.values()]
    if unused:
        report["not used"] = unused
    report["kept"] = "in memory" if fits else "on disk"
    if not random_access(builder):
        _require_memory(fits, config)
        read = [
            read_all(
                _stored(builder, part, keys[0]), count, keys, config.image_size, shape
            )
            for part, count in zip(parts.values(), counts, strict=True)
        ]
        images = np.concatenate([images for images, _ in read])
        labels = dict(zip(parts, (labels for _, labels in read), strict=True))
        return from_arrays(config, images, labels, names, report)
    pictures, labels = _records(builder, parts, keys, config.image_size, shape)
    if fits:
        return from_arrays(config, pictures.everything(), labels, names, report)
    splits = complete_splits(config, consecutive(pictures, labels), report)
    digest = hashlib.sha256(f"{builder.info.full_name} {counts}".encode())
    return DataSource(config.name, names, digest.hexdigest(), splits, report)


def _keys(builder, config: DataConfig) -> tuple[str, str]:
    """Returns the names of the image and the label in a record."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    kinds = (tfds.features.Image, tfds.features.ClassLabel)
    wanted = builder.info.supervised_keys or ("image", "label")
    found = len(wanted) == 2 and all(
        key in features and isinstance(features[key], kind)
        for key, kind in zip(wanted, kinds, strict=True)
    )
    if not found:
        raise UserError(
            "`--data.name` must be a set of images with one class label each. Received:"
            f" name={config.name}, whose records hold: {', '.join(features)}. Of the "
            f"sets with masks or depths these can be read: {', '.join(SETS)}; and the "
            "folders of voc:PATH, ade20k:PATH, masks:PATH and depth:PATH."
        )
    return wanted


def _parts(builder, keys: tuple[str, str], config: DataConfig) -> dict[str, str]:
    """Returns our split names -> theirs; hidden test labels do not make a test set."""
    parts: dict[str, str] = {}
    for name in builder.info.splits:
        if name in ROLES:
            parts.setdefault(ROLES[name], name)
    if "train" not in parts:
        raise UserError(
            "`--data.name` must have a split called train. Received: "
            f"name={config.name} with {', '.join(builder.info.splits)}."
        )
    if "test" in parts and _first_label(builder, parts["test"], keys) < 0:
        del parts["test"]
    order = ("train", "validation", "test")
    return {role: parts[role] for role in order if role in parts}


def _first_label(builder, part: str, keys: tuple[str, str]) -> int:
    image_key, label_key = keys
    if random_access(builder):
        return int(_source(builder, part, image_key)[0][label_key])
    return int(next(iter(_stored(builder, f"{part}[:1]", image_key)))[label_key])


def _require_memory(fits: bool, config: DataConfig) -> None:
    if not fits:
        raise UserError(
            "`--data.memory_gigabytes` is too small to keep the data set in memory, "
            "and it is stored without random access. Received: memory_gigabytes="
            f"{config.memory_gigabytes:g}, name={config.name}. Raise it, or prepare "
            "the set once more, for random access, in another folder with: "
            "--data.download=true --data.dir=FOLDER."
        )


def _stored(builder, part: str, image_key: str):
    """Returns the records of a split in stored order, pictures still encoded."""
    import tensorflow_datasets as tfds

    return builder.as_dataset(
        split=part,
        shuffle_files=False,
        decoders={image_key: tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
    )


def _source(builder, part: str, image_key: str):
    """Returns the records of a split at random access, pictures still encoded."""
    import tensorflow_datasets as tfds

    return builder.as_data_source(
        part, decoders={image_key: tfds.decode.SkipDecoding()}
    )


def _records(builder, parts: dict[str, str], keys, size: int | None, shape):
    """Returns (all images as `Records`, split name -> labels int32 [n])."""
    image_key, label_key = keys
    sources = [_source(builder, part, image_key) for part in parts.values()]
    labels = {
        role: np.array([source[row][label_key] for row in range(len(source))], np.int32)
        for role, source in zip(parts, sources, strict=True)
    }
    return Records(sources, image_key, size, shape), labels
