"""Lists of picture files and the data sets they make."""

import dataclasses
import hashlib
import os
import pathlib

import numpy as np

from kerobust.config import UserError
from kerobust.data.arrays import Memory, array_digest
from kerobust.data.config import DataConfig
from kerobust.data.pictures import (
    SUFFIXES,
    Files,
    UnreadableError,
    decode_all,
    inspect_all,
)
from kerobust.data.splits import UNLABELLED, DataSource, Pictures, Split
from kerobust.data.stratify import complete_splits

_LAYOUT = (
    "Expected train/CLASS/picture.jpg with val/ and test/ beside train/ if there are "
    "any, or CLASS/picture.jpg with at least two classes, or pictures without classes"
)
_SHOWN = 5
_REPORTED = 20


@dataclasses.dataclass
class Listing:
    """The picture files of a data set, in an order that gives them their ids.

    Attributes:
        config: Settings that named them.
        root: Folder of all.
        paths: The files.
        labels: Label of each, -1 = none.
        splits: Split name of each.
        class_names: Name of each label.
        not_used: Names of parts that the folder has and the data set leaves out.
    """

    config: DataConfig
    root: pathlib.Path
    paths: list[pathlib.Path] = dataclasses.field(default_factory=list)
    labels: list[int] = dataclasses.field(default_factory=list)
    splits: list[str] = dataclasses.field(default_factory=list)
    class_names: tuple[str, ...] = ()
    not_used: list[str] = dataclasses.field(default_factory=list)

    def add_classes(self, split: str, folder: pathlib.Path) -> None:
        """Adds the pictures of every class folder below `folder`."""
        for label, name in enumerate(self.class_names):
            self.add(split, folder / name, label)

    def add(self, split: str, folder: pathlib.Path, label: int = UNLABELLED) -> None:
        """Adds the pictures in `folder` and below."""
        found = find_pictures(folder)
        self.add_files(split, found, [label] * len(found))

    def add_files(self, split: str, paths: list[pathlib.Path], labels: list[int]):
        """Adds files with a label each."""
        self.paths += paths
        self.labels += labels
        self.splits += [split] * len(paths)

    def names(self, numbers) -> list[str]:
        """Returns the files' names below the root."""
        return [str(self.paths[number].relative_to(self.root)) for number in numbers]


def find_pictures(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the picture files in `folder` and below, sorted."""
    return sorted(
        pathlib.Path(place) / name
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    )


def load_listing(listing: Listing) -> DataSource:
    """Returns the data set of a listing: in memory if it fits, else from the files."""
    config = listing.config
    if not listing.paths:
        raise problem(config, "must hold pictures (JPEG, PNG, BMP or GIF), found none")
    states = inspect_all(listing.paths)
    size, shape = config.image_size, image_shape(config, listing, states)
    good = readable(listing, states)
    fits = len(good) * np.prod(shape) <= config.memory_gigabytes * 1e9
    pictures: Pictures
    if fits:
        good, pixels = _decoded(listing, states, good, shape)
        pictures, rows = Memory(pixels), np.arange(len(good))
        digest = array_digest(pixels, np.asarray(listing.labels)[good])
    else:
        pictures = Files([str(path) for path in listing.paths], size, shape)
        rows, digest = good, _listing_digest(listing)
    labels, members = np.asarray(listing.labels)[good], np.asarray(listing.splits)[good]
    splits = {
        name: Split(pictures, rows[chosen], labels[chosen], good[chosen])
        for name in ("train", "validation", "test")
        if (chosen := members == name).any()
    }
    _require_training_images(listing, splits)
    report = report_of(listing, states, fits)
    splits = complete_splits(config, splits, report)
    return DataSource(config.name, listing.class_names, digest, splits, report)


def _decoded(listing: Listing, states: list, good: np.ndarray, shape):
    """Decodes all good files; `states` learns which of them turn out to be damaged.

    Returns:
        (numbers of the files that could be decoded, their uint8 [N, H, W, 3]).
    """
    pixels = np.empty([len(good), *shape], np.uint8)
    paths = [listing.paths[number] for number in good]
    for row, image in enumerate(decode_all(paths, listing.config.image_size)):
        if isinstance(image, UnreadableError):
            states[good[row]] = image
        else:
            pixels[row] = image
    kept = np.isin(good, readable(listing, states))
    return good[kept], pixels if kept.all() else pixels[kept]


def image_shape(config: DataConfig, listing: Listing, states: list):
    """Returns the (H, W, 3) of all images."""
    if config.image_size is not None:
        return (config.image_size, config.image_size, 3)
    first: dict[tuple[int, int], int] = {}
    for number, state in enumerate(states):
        if not isinstance(state, UnreadableError):
            first.setdefault(state, number)
    if len(first) > 1:
        examples = [
            f"{name} is {height} x {width}"
            for (height, width), name in zip(
                first, listing.names(first.values()), strict=True
            )
        ]
        raise UserError(
            "`--data.image_size` must be given for pictures of different sizes: "
            f"{shorten(examples)}. Received: image_size=None."
        )
    return (*next(iter(first), (0, 0)), 3)


def readable(listing: Listing, states: list) -> np.ndarray:
    """Returns the numbers of the files that can be read, if not too many cannot."""
    damaged = [
        n for n, state in enumerate(states) if isinstance(state, UnreadableError)
    ]
    cap = listing.config.corrupt_cap
    if len(damaged) > cap * len(states):
        lines = [
            f"{name} {states[number]}"
            for number, name in zip(damaged, listing.names(damaged), strict=True)
        ]
        raise UserError(
            f"`--data.corrupt_cap` allows a share of {cap:g} of unreadable pictures, "
            f"but {len(damaged)} of {len(states)} are: {shorten(lines)}. Received: "
            f"corrupt_cap={cap:g}. Repair or remove them, or raise the cap."
        )
    return np.setdiff1d(np.arange(len(states)), damaged)


def report_of(listing: Listing, states: list, in_memory: bool) -> dict:
    """Returns what was read, skipped and left out."""
    damaged = [
        n for n, state in enumerate(states) if isinstance(state, UnreadableError)
    ]
    left_out = {"not used": listing.not_used} if listing.not_used else {}
    return {
        **left_out,
        "pictures": len(states),
        "skipped": len(damaged),
        "skipped_files": [
            f"{name}: {states[number]}"
            for number, name in zip(
                damaged[:_REPORTED], listing.names(damaged[:_REPORTED]), strict=True
            )
        ],
        "kept": "in memory" if in_memory else "on disk",
    }


def _require_training_images(listing: Listing, splits: dict[str, Split]) -> None:
    train = splits.get("train")
    labels = set() if train is None else set(train.labels.tolist())
    empty = [name for n, name in enumerate(listing.class_names) if n not in labels]
    if train is None or empty:
        raise problem(
            listing.config,
            "must have a readable training picture in every class, but these have "
            f"none: {shorten(empty) or 'all'}",
        )


def _listing_digest(listing: Listing) -> str:
    digest = hashlib.sha256()
    for name, path in zip(
        listing.names(range(len(listing.paths))), listing.paths, strict=True
    ):
        digest.update(f"{name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()


def shorten(items) -> str:
    """Returns the first items as text, and how many more there are."""
    items = list(items)
    rest = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + rest


def problem(config: DataConfig, expectation: str) -> UserError:
    """Returns the error about `--data.name` that shows the layouts of folders."""
    return UserError(
        f"`--data.name` {expectation}. Received: name={config.name}. {_LAYOUT}."
    )
