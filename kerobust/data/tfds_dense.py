"""Sets of TensorFlow Datasets with masks or depth maps."""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from kerobust.config import UserError
from kerobust.data import label_maps
from kerobust.data.augmentations import nearest_square
from kerobust.data.config import DataConfig
from kerobust.data.dense import Found, Kind, dense_source, require_memory
from kerobust.data.maps import classes_of, png_values
from kerobust.data.pictures import UnreadableError, each_or_error, picture_decoder
from kerobust.data.splits import DataSource
from kerobust.data.tfds_builder import (
    ROLES,
    image_shape,
    prepare,
    random_access,
)

_CHUNK = 64


class DenseSet(NamedTuple):
    """A set of TensorFlow Datasets.

    Attributes:
        image: Name of the image in a record.
        target: Name of its map.
        labels: Convention -> what the stored values mean; None = depths in metres.
        hidden: Splits whose masks are not public.
        note: What the reader should know.
    """

    image: str
    target: str
    labels: Callable[[str], label_maps.LabelMap] | None = None
    hidden: tuple[str, ...] = ()
    note: str = ""


SETS = {
    "scene_parse150": DenseSet(
        "image",
        "annotation",
        label_maps.ade20k_objects,
        note="100 object categories; for the 150 classes of scene parsing: ade20k:PATH",
    ),
    "cityscapes": DenseSet(
        "image_left", "segmentation_label", label_maps.cityscapes, ("test",)
    ),
    "nyu_depth_v2": DenseSet("image", "depth"),
}


def load_tfds_dense(config: DataConfig, builder) -> DataSource:
    """Returns a set with masks or depth maps, in memory.

    Splits that it does not have are carved by image, without regard to the scenes that
    frames come from, which the records do not say: NYU-Depth-v2's validation split
    resembles its training split; its test split (654 images) is of other scenes.

    Differences:
        TFDS's `scene_parse150` (1.0.0) holds the masks of ADE20K's *instance*
        challenge: the first channel is one of 100 categories of objects, 0 anything
        else; walls, sky and 48 others are missing. Published 150-class numbers need
        `ade20k:PATH`.

    Raises:
        UserError: If the set is not prepared, has no such maps, or does not fit.

    References:
        Instance masks: github.com/CSAILVision/placeschallenge, instancesegmentation.
    """
    about = SETS[builder.name]
    features = builder.info.features
    if about.target not in features:
        raise UserError(
            f"`--data.name` must be a configuration of {builder.name} with "
            f"{about.target}. Received: name={config.name}, whose records hold: "
            f"{', '.join(features)}."
        )
    shape = image_shape(config, features[about.image])
    prepare(builder, config)
    parts: dict[str, str] = {}
    for name in builder.info.splits:
        if name in ROLES and name not in about.hidden:
            parts.setdefault(ROLES[name], name)
    kind, labels = _kind(config, about)
    sizes = [builder.info.splits[name].num_examples for name in parts.values()]
    require_memory(config, sum(sizes), shape, kind)
    roles = np.repeat([*parts], sizes)
    report: dict = {"tfds": builder.info.full_name, "kept": "in memory"}
    report |= {"note": about.note} if about.note else {}
    unused = [name for name in builder.info.splits if name not in parts.values()]
    report |= {"not used": unused} if unused else {}
    found = Found(
        np.empty([sum(sizes), *shape], np.uint8),
        np.empty([sum(sizes), *shape[:2]], kind.dtype),
        roles,
        report,
    )
    _read(builder, parts.values(), about, kind, config, found)
    rows = {name: np.flatnonzero(roles == name) for name in parts}
    return dense_source(config, found, kind.name, rows, labels)


def _kind(config: DataConfig, about: DenseSet) -> tuple[Kind, tuple[str, ...]]:
    """Returns how maps are decoded, and the names of their classes."""
    if about.labels is None:
        return Kind("depths", "depth map", np.float32, _metres, ""), ()
    labels = about.labels(config.labels)

    def decode(data: bytes, name: str) -> np.ndarray:
        values, _, _ = png_values(data)
        # The first of several channels is the class, see `load_tfds_dense`.
        values = values if values.ndim == 2 else values[..., 0]
        return classes_of(values, labels, name)

    return Kind("masks", "mask", np.int16, decode, ""), labels.names


def _metres(values, name: str) -> np.ndarray:
    """Returns depths float32 [H, W]; what is no number is unknown."""
    depths = np.asarray(values, np.float32)
    return np.where(np.isfinite(depths), depths, np.float32(0))


def _read(builder, parts, about: DenseSet, kind: Kind, config, found: Found) -> None:
    """Fills in the images and maps of all parts."""
    decode, size = picture_decoder(config.image_size), config.image_size

    def work(record):
        target = kind.decode(record[about.target], f"a record of {builder.name}")
        target = target if size is None else nearest_square(target, size).numpy()
        return decode(record[about.image]), target

    records = itertools.chain.from_iterable(
        _records(builder, part, about) for part in parts
    )
    row = 0
    # In pieces: a pool would read all records before the first is decoded.
    while chunk := list(itertools.islice(records, _CHUNK)):
        for result in each_or_error(work, chunk):
            if isinstance(result, UnreadableError):
                raise UserError(
                    f"`--data.name` must be undamaged, but an image or {kind.word} of "
                    f"record {row} {result}. Received: name={config.name}. Prepare it "
                    "anew."
                )
            found.images[row], found.maps[row] = result
            row += 1


def _records(builder, part: str, about: DenseSet) -> Iterator[dict]:
    """Yields the records of a split in stored order, pictures still encoded."""
    import tensorflow_datasets as tfds

    keys = [about.image] if about.labels is None else [about.image, about.target]
    decoders = {key: tfds.decode.SkipDecoding() for key in keys}
    if random_access(builder):
        source = builder.as_data_source(part, decoders=decoders)
        yield from (source[row] for row in range(len(source)))
        return
    stored = builder.as_dataset(
        split=part,
        shuffle_files=False,
        decoders=decoders,
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
    )
    yield from stored.as_numpy_iterator()
