"""Checkpoints that survive kills, full disks and flipped bits."""

import hashlib
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Mapping

import tensorflow as tf

from kerobust.config import UserError

_MANIFEST = "manifest.json"
_EXTRA = "extra.json"
_STATE = "checkpoint"
_PARTIAL = ".partial-"


class Checkpoints:
    """A folder of checkpoints, each complete or absent.

    A checkpoint is written in a folder of another name, flushed to the disk, listed in
    a manifest with the SHA-256 of every file, and only then renamed to
    `step-00000123`. A kill at any moment leaves the older checkpoints as they were.

    Args:
        folder: Where the checkpoints stand; made if needed.
        keep: Number of newest checkpoints that are kept, at least 1.
        report: Called with one line of text for each damaged checkpoint.

    Raises:
        ValueError: If `keep` is below 1.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        keep: int = 2,
        report: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
    ):
        if keep < 1:
            raise ValueError(f"`keep` must be at least 1. Received: keep={keep}.")
        self.folder = pathlib.Path(folder)
        self.keep = keep
        self.report = report

    def all(self) -> list[pathlib.Path]:
        """Returns the folders of all checkpoints, the newest first."""
        return sorted(self.folder.glob("step-*"), reverse=True)

    def save(
        self,
        checkpoint: tf.train.Checkpoint,
        step: int,
        extra: Mapping | None = None,
    ) -> pathlib.Path:
        """Writes a checkpoint and deletes those beyond `keep`.

        Args:
            checkpoint: What to save.
            step: Global step, at least 0; the checkpoint's name.
            extra: JSON-able values that `restore` gives back.

        Returns:
            The checkpoint's folder.

        Raises:
            UserError: If the folder cannot be written.
        """
        target = self.folder / f"step-{step:08d}"
        partial = self.folder / f"{_PARTIAL}{target.name}"
        try:
            partial.mkdir(parents=True)
            checkpoint.write(str(partial / _STATE))
            _seal(partial, {**(extra or {}), "step": step})
            if target.exists():
                self._delete(target)
            partial.rename(target)
            _flush(self.folder)
            for old in self.all()[self.keep :]:
                self._delete(old)
        except tf.errors.UnavailableError:  # Another worker is gone.
            raise
        except (OSError, tf.errors.OpError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise unwritable(self.folder, error) from error
        return target

    def restore(
        self, checkpoint: tf.train.Checkpoint, expected: Mapping | None = None
    ) -> tuple[int, dict] | None:
        """Reads the newest intact checkpoint into `checkpoint`.

        Also removes what interrupted writes left behind, and renames damaged
        checkpoints to `damaged-...` once an intact one is found.

        Args:
            checkpoint: What to fill; all its variables must exist already.
            expected: Entries of `extra` that the checkpoint must have been saved with.

        Returns:
            (step, extra), or None if there is no checkpoint.

        Raises:
            UserError: If the folder cannot be written, every checkpoint is damaged, or
                the checkpoint belongs to another configuration.
        """
        self._prepare()
        damaged = {}
        for path in self.all():
            damage = _damage(path)
            if damage is None:
                break
            damaged[path] = damage
        else:
            if damaged:
                raise self._all_damaged(damaged)
            return None
        for bad, damage in damaged.items():
            self.report(f"Checkpoint {bad} is damaged ({damage}): using {path.name}.")
            _replace(bad, self.folder / f"damaged-{bad.name}")
        extra = json.loads((path / _EXTRA).read_text())
        self._read(checkpoint, path, extra, expected or {})
        return extra["step"], extra

    def _read(self, checkpoint, path, extra, expected):
        for name, value in expected.items():
            if extra.get(name) != value:
                found = f"{name}={extra.get(name)}, this run has {value}"
                raise self._other_configuration(path, found)
        try:
            checkpoint.read(str(path / _STATE)).assert_consumed()
        except (AssertionError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise self._other_configuration(path, reason) from error

    def _prepare(self):
        """Makes the folder, empties it of leftovers and sees that it can be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob(f"{_PARTIAL}*"):
                shutil.rmtree(leftover)
            probe = self.folder / f"{_PARTIAL}probe"
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def _delete(self, path):
        """Deletes a checkpoint so that a kill meanwhile leaves no half of it behind."""
        doomed = self.folder / f"{_PARTIAL}old-{path.name}"
        path.rename(doomed)
        shutil.rmtree(doomed)

    def _all_damaged(self, damaged):
        listed = "; ".join(f"{path.name}: {why}" for path, why in damaged.items())
        return UserError(
            "`--run.workdir` must hold an intact checkpoint or none at all. Received: "
            f"{self.folder} where every checkpoint is damaged ({listed}). Bring one "
            "back from a copy, or delete that folder to start from step 0."
        )

    def _other_configuration(self, path, found):
        return UserError(
            "`--run.workdir` holds another configuration, which is left untouched. "
            f"Received: {path} ({found}). Choose another --run.workdir, or repeat the "
            "settings of that run."
        )


def unwritable(folder: pathlib.Path, error: Exception) -> UserError:
    """Returns the error to raise when `folder` inside the run folder fails."""
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    return UserError(
        "`--run.workdir` must be a folder that can be written and has room. "
        f"Received: {folder} ({reason}). Free space there or choose another folder."
    )


def _seal(folder: pathlib.Path, extra: dict) -> None:
    """Adds `extra` and the manifest to `folder` and flushes all of it to the disk."""
    (folder / _EXTRA).write_text(json.dumps(extra, indent=1))
    digests = {path.name: _digest(path) for path in sorted(folder.iterdir())}
    (folder / _MANIFEST).write_text(json.dumps({"sha256": digests}, indent=1))
    for path in [*folder.iterdir(), folder]:
        _flush(path)


def _damage(folder: pathlib.Path) -> str | None:
    """Returns what is wrong with a checkpoint, or None if it is intact."""
    try:
        digests = json.loads((folder / _MANIFEST).read_text())["sha256"]
        if _EXTRA not in digests or f"{_STATE}.index" not in digests:
            return f"{_MANIFEST} lists too few files"
        for name, digest in digests.items():
            if _digest(folder / name) != digest:
                return f"{name} is not as written"
    except FileNotFoundError as error:
        return f"{pathlib.Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{_MANIFEST} cannot be read"
    return None


def _digest(path: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _flush(path: pathlib.Path) -> None:
    """Waits until the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(source: pathlib.Path, target: pathlib.Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    source.rename(target)
