"""Data sets with a map of every image, masks or depths, kept in memory.

An image and its map always go the same way: both are resized by `square` and
`nearest_square`, which have one geometry, or both stay as they are stored.
"""

import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kerobust.config import UserError
from kerobust.data.arrays import Memory
from kerobust.data.augmentations import nearest_square
from kerobust.data.config import DataConfig
from kerobust.data.listing import (
    Listing,
    find_pictures,
    image_shape,
    readable,
    report_of,
    shorten,
)
from kerobust.data.pictures import (
    UnreadableError,
    decode_all,
    each_or_error,
    inspect_all,
    read_bytes,
)
from kerobust.data.splits import UNLABELLED, DataSource, Split
from kerobust.data.stratify import complete_splits


class Kind(NamedTuple):
    """A kind of maps.

    Attributes:
        name: "masks" or "depths".
        word: What one is called in messages.
        dtype: In memory: int16 or float32.
        decode: (content of a file, its name) -> [H, W] of that type.
        layout: Sentence that shows how the files are expected.
    """

    name: str
    word: str
    dtype: type
    decode: Callable[[bytes, str], np.ndarray]
    layout: str


@dataclasses.dataclass(kw_only=True)
class Pairs(Listing):
    """The files of images and their maps; `splits` may hold other parts as well.

    Attributes:
        kind: Of the maps.
        maps: The file of each image's map.
    """

    kind: Kind
    maps: list[pathlib.Path] = dataclasses.field(default_factory=list)

    def pair(self, part: str, images: pathlib.Path, maps: pathlib.Path) -> None:
        """Adds the images of a folder with the maps of the same names, in order.

        Raises:
            UserError: If one of either has no partner.
        """
        pictures, targets = (self._by_name(folder) for folder in (images, maps))
        word = self.kind.word
        for have, want, here, there, what in (
            (pictures, targets, images, maps, f"a {word} for every image"),
            (targets, pictures, maps, images, f"an image for every {word}"),
        ):
            alone = sorted(set(have) - set(want))
            if alone:
                raise self.problem(
                    f"must have {what}, but {len(alone)} of {len(have)} files in "
                    f"{here.relative_to(self.root)}/ have none of their name in "
                    f"{there.relative_to(self.root)}/: {shorten(alone)}"
                )
        names = sorted(pictures, key=natural)
        self.add_files(part, [pictures[x] for x in names], [UNLABELLED] * len(names))
        self.maps += [targets[name] for name in names]

    def problem(self, expectation: str) -> UserError:
        """Returns the error about `--data.name` that shows the layout."""
        return UserError(
            f"`--data.name` {expectation}. Received: name={self.config.name}. "
            f"{self.kind.layout}."
        )

    def map_names(self, numbers) -> list[str]:
        """Returns the names of maps below the root."""
        return [str(self.maps[number].relative_to(self.root)) for number in numbers]

    def _by_name(self, folder: pathlib.Path) -> dict[str, pathlib.Path]:
        """Returns name without suffix -> file."""
        found: dict[str, pathlib.Path] = {}
        for path in find_pictures(folder):
            name = str(path.relative_to(folder).with_suffix(""))
            if name in found:
                raise self.problem(
                    f"must have one file of each name in {folder.name}/, found "
                    f"{found[name].name} and {path.name}"
                )
            found[name] = path
        return found


class Found(NamedTuple):
    """What was read.

    Attributes:
        images: uint8 [N, H, W, 3].
        maps: int16 or float32 [N, H, W].
        parts: Split, or other part, of each, str [N].
        report: What was skipped.
    """

    images: np.ndarray
    maps: np.ndarray
    parts: np.ndarray
    report: dict


def natural(name: str) -> list:
    """Returns the key that sorts names as people do: 2 before 10."""
    parts = re.split(r"(\d+)", name)
    return [int(x) if x.isdecimal() else x for x in parts]


def read_pairs(pairs: Pairs) -> Found:
    """Returns all images and maps; damaged ones are skipped up to the cap.

    Raises:
        UserError: If there are none, too many are damaged, an image and its map differ
            in size, `--data.image_size` is missing, or memory is too little.
    """
    config, kind = pairs.config, pairs.kind
    if not pairs.paths:
        raise pairs.problem("must hold pictures, found none")
    states = _inspected(pairs)
    shape = image_shape(config, pairs, states)
    good = readable(pairs, states)
    require_memory(config, len(good), shape, kind)
    images = np.empty([len(good), *shape], np.uint8)
    maps: np.ndarray = np.empty([len(good), *shape[:2]], kind.dtype)
    pictures = decode_all([pairs.paths[n] for n in good], config.image_size)
    decoded = each_or_error(lambda number: _decoded(pairs, number), good)
    for row, (image, target) in enumerate(zip(pictures, decoded, strict=True)):
        state = _state(image, target, kind)
        if isinstance(state, UnreadableError):
            states[good[row]] = state
        else:
            images[row], maps[row] = image, target
    kept = np.isin(good, readable(pairs, states))
    if not kept.all():
        images, maps = images[kept], maps[kept]
    parts = np.asarray(pairs.splits)[good[kept]]
    return Found(images, maps, parts, report_of(pairs, states, True))


def _inspected(pairs: Pairs) -> list:
    """Returns (height, width) or the error of every pair."""
    states = []
    sizes = zip(inspect_all(pairs.paths), inspect_all(pairs.maps), strict=True)
    word = pairs.kind.word
    for number, (image, target) in enumerate(sizes):
        state = _state(image, target, pairs.kind)
        if not isinstance(state, UnreadableError) and image != target:
            raise UserError(
                f"`--data.name` must have images and {word}s of the same size. "
                f"Received: {pairs.names([number])[0]} of {image[0]} x {image[1]} "
                f"pixels, {pairs.map_names([number])[0]} of {target[0]} x {target[1]}. "
                f"Resize neither alone; a {word} must take the nearest pixel."
            )
        states.append(state)
    return states


def _state(image, target, kind: Kind):
    """Returns `image`, or what is wrong with it or with its map."""
    if isinstance(target, UnreadableError) and not isinstance(image, UnreadableError):
        return UnreadableError(f"has a {kind.word} that {target}")
    return image


def _decoded(pairs: Pairs, number: int) -> np.ndarray:
    found = pairs.kind.decode(
        read_bytes(pairs.maps[number]), pairs.map_names([number])[0]
    )
    size = pairs.config.image_size
    return found if size is None else nearest_square(found, size).numpy()


def require_memory(config: DataConfig, count: int, shape, kind: Kind) -> None:
    """Raises a `UserError` if images and maps do not fit."""
    each = int(np.prod(shape)) + int(np.prod(shape[:2])) * np.dtype(kind.dtype).itemsize
    need = count * each / 1e9
    config.require(
        need <= config.memory_gigabytes,
        "memory_gigabytes",
        f"must be at least {need:.2g} for {config.name}: {count:,} images and "
        f"{kind.word}s of {shape[0]} x {shape[1]} pixels are kept in memory",
        "Raise it, or make them smaller with --data.image_size.",
    )


def dense_source(
    config: DataConfig,
    found: Found,
    kind: str,
    parts: dict[str, np.ndarray],
    names: tuple[str, ...] = (),
) -> DataSource:
    """Returns the data set of what was read; missing splits are carved.

    The digest covers images, maps, names and who belongs where.

    Args:
        config: Settings.
        found: All images and maps.
        kind: "masks" or "depths".
        parts: Split name -> rows int [n].
        names: Of the classes of masks.
    """
    pictures, report = Memory(found.images, {kind: found.maps}), dict(found.report)
    if not len(parts.get("train", ())):
        raise UserError(
            "`--data.name` must have training images. Received: "
            f"name={config.name} without any."
        )
    splits = {
        name: Split(pictures, rows, np.full(len(rows), UNLABELLED))
        for name, rows in parts.items()
        if len(rows)
    }
    if "splits" not in report:
        splits = complete_splits(config, splits, report, always_tested=True)
    digest = hashlib.sha256()
    for array in (found.images, found.maps):
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).data)
    for name, split in splits.items():
        digest.update(f"{name} {names}".encode())
        digest.update(split.ids.tobytes())
    _require_known(config, found.maps, splits, kind)
    return DataSource(
        config.name, (), digest.hexdigest(), splits, report, mask_names=names
    )


def _require_known(config: DataConfig, maps, splits, kind: str) -> None:
    """Raises a `UserError` if a split has not a single pixel that counts."""
    least = np.nextafter(np.float32(0), np.float32(1)) if kind == "depths" else 0
    known = np.array([bool((each >= least).any()) for each in maps])
    for name, split in splits.items():
        if not known[split.ids].any():
            what, flag = (
                ("a depth map with measurements", "")
                if kind == "depths"
                else ("a mask with labels", " --data.ignore and")
            )
            raise UserError(
                f"`--data.name` must have {what} in every split, but none of the "
                f"{split.size} of {name} has any. Received: name={config.name}, "
                f"ignore={config.ignore}. Check{flag} the files, or remove that split."
            )
