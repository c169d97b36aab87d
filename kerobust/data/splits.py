"""Parts of a data set: who belongs to them and how their images are fetched."""

import dataclasses
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

UNLABELLED = -1
_CHUNK = 512


class Pictures(Protocol):
    """Where images are kept: in memory, in files, in an archive.

    Those that know more of every pixel have an attribute `annotations`, the kinds that
    there are, and a method `annotated(rows, kinds)`, which returns the images and each
    of the kinds: "masks" int32 [B, H, W], -1 = no label; "depths" float32 [B, H, W] in
    metres, 0 = unknown.

    Attributes:
        image_shape: (H, W, 3).
    """

    image_shape: tuple[int, int, int]

    def fetch(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns float32 [B, H, W, 3] in [0, 1] for int32 [B]; works in graphs."""


class Split:
    """Some examples of a data set.

    Args:
        pictures: Where the images are.
        rows: int [N], where in `pictures` each example is.
        labels: int [N], -1 = unlabelled.
        ids: int [N], names of the examples, stable and shared with no other split;
            None = `rows`.

    Attributes:
        ids: int32 [N].
        labels: int32 [N].
        size: N.
        image_shape: (H, W, 3).
    """

    def __init__(self, pictures: Pictures, rows, labels, ids=None):
        self._pictures = pictures
        self._rows = np.asarray(rows, np.int32)
        self.labels = np.asarray(labels, np.int32)
        self.ids = self._rows if ids is None else np.asarray(ids, np.int32)
        self.size = len(self._rows)
        self.image_shape = pictures.image_shape
        with tf.device("CPU:0"):
            self._row_tensor = tf.constant(self._rows)

    def fetch(self, positions) -> tf.Tensor:
        """Returns the images at `positions`.

        Args:
            positions: int32 [B] in [0, N).

        Returns:
            float32 [B, H, W, 3] in [0, 1].
        """
        return self._pictures.fetch(tf.gather(self._row_tensor, positions))

    @property
    def annotations(self) -> frozenset[str]:
        """What is known of every pixel: "masks", "depths", see `Pictures`."""
        return frozenset(getattr(self._pictures, "annotations", ()))

    def read(self, positions, kinds: tuple[str, ...] = ()) -> dict[str, tf.Tensor]:
        """Returns "images" and the `kinds` of annotations at positions int32 [B]."""
        if not kinds:
            return {"images": self.fetch(positions)}
        pictures: Any = self._pictures
        return pictures.annotated(tf.gather(self._row_tensor, positions), kinds)

    def subset(self, positions) -> "Split":
        """Returns the examples at `positions`, an int or bool array, in that order."""
        rows, labels = self._rows[positions], self.labels[positions]
        return Split(self._pictures, rows, labels, self.ids[positions])

    def thinned(self, limit: int | None) -> "Split":
        """Returns at most `limit` examples, evenly spread; None = all."""
        if limit is None or limit >= self.size:
            return self
        return self.subset(np.arange(limit) * self.size // limit)

    def joined(self, other: "Split") -> "Split":
        """Returns the examples of both; `other` is of the same data set."""
        if other._pictures is not self._pictures:
            raise ValueError(
                "`other` must be a split of the same data set. Received: other of "
                f"{other.size} examples with pictures of its own."
            )
        parts = ("_rows", "labels", "ids")
        return Split(
            self._pictures,
            *(np.concatenate([getattr(self, x), getattr(other, x)]) for x in parts),
        )

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns (images float32 [N, H, W, 3] in [0, 1], labels int32 [N])."""
        images = np.empty([self.size, *self.image_shape], np.float32)
        for start in range(0, self.size, _CHUNK):
            stop = min(start + _CHUNK, self.size)
            images[start:stop] = self.fetch(tf.range(start, stop)).numpy()
        return images, self.labels.copy()


@dataclasses.dataclass(frozen=True)
class DataSource:
    """A loaded data set.

    Attributes:
        name: As in `--data.name`.
        num_classes: 0 for a set without labels.
        class_names: Name of each label.
        image_shape: (H, W, 3).
        digest: SHA-256 in hexadecimal of the content, or of the listing of sets that
            are too large to be read at the start.
        splits: "train", "validation" and, unless nothing is known of images but the
            images, "test".
        report: What the reader should know, for example skipped files.
        mask_names: Name of each class of the masks; empty = there are none.
    """

    name: str
    class_names: tuple[str, ...]
    digest: str
    splits: dict[str, Split]
    report: dict = dataclasses.field(default_factory=dict)
    mask_names: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of one image, the same in all splits."""
        return self.splits["train"].image_shape

    def summary(self) -> str:
        """Returns one line: classes, size, images per split and where they come from.

        Skipped files and parts that are not used are counted too.
        """
        origins = self.report.get("splits", {})
        parts = [
            f"{name} {split.size:,}"
            + (
                f" ({origins[name]})"
                if origins.get(name, "as given") != "as given"
                else ""
            )
            for name, split in self.splits.items()
        ]
        if self.report.get("skipped"):
            first = self.report["skipped_files"][0]
            parts.append(f"{self.report['skipped']} skipped, the first: {first}")
        if self.report.get("not used"):
            parts.append(f"not used: {', '.join(self.report['not used'])}")
        height, width, _ = self.image_shape
        kept = self.report.get("kept", "in memory")
        if self.report.get("note"):
            parts.append(self.report["note"])
        head = [f"{height} x {width} pixels", kept]
        known = self.splits["train"].annotations
        if "depths" in known:
            head.insert(0, "depth maps")
        if "masks" in known:
            head.insert(0, f"masks of {len(self.mask_names)} classes")
        if self.num_classes or not known:
            head.insert(0, f"{self.num_classes} classes")
        return f"{self.name}: {', '.join(head)}; {'; '.join(parts)}"


def consecutive(pictures: Pictures, labels: dict[str, np.ndarray]) -> dict[str, Split]:
    """Returns splits that follow each other in `pictures`; ids are rows.

    Args:
        pictures: All images.
        labels: Split name -> int [n], in the order of the images.
    """
    splits, start = {}, 0
    for name, part in labels.items():
        splits[name] = Split(pictures, np.arange(start, start + len(part)), part)
        start += len(part)
    return splits
