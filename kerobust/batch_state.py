"""What an interrupted evaluation leaves behind, so that a rerun continues it."""

import hashlib
import io
import json
import os
import pathlib
import zipfile
from collections.abc import Callable

import numpy as np

_IDENTITY = "identity.json"


class BatchState:
    """Results of finished batches, one npz file per (attack, batch).

    A file appears whole or not at all, so a killed process loses at most the batch it
    was working on. The folder also says whose results it holds; those of another model,
    data set or setting are discarded with a message.

    Args:
        folder: Where to keep the files; None = nothing is kept.
        identity: What the results depend on, JSON text values by name.
        probe: float [P, K], logits of the first examples. They tell models apart whose
            weights agree or cannot be read; compared within 1e-4 of their scale.
        say: Called with a message about what was found.
    """

    def __init__(
        self,
        folder: str | os.PathLike | None,
        identity: dict[str, str],
        probe: np.ndarray,
        say: Callable[[str], None],
    ):
        self.folder = None if folder is None else pathlib.Path(folder)
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = sorted(self.folder.glob("*.npz"))
        differing = _differing(self.folder / _IDENTITY, identity, probe)
        if kept and differing:
            say(
                f"discarding {len(kept)} stored batches in {self.folder}: they belong "
                f"to another evaluation ({', '.join(differing)} differ)"
            )
            for path in kept:
                path.unlink()
        elif kept:
            say(f"continuing with {len(kept)} stored batches in {self.folder}")
        if differing:
            record = {"identity": identity, "probe": np.asarray(probe).tolist()}
            write_atomically(self.folder / _IDENTITY, json.dumps(record).encode())

    def get(self, key: str, batch: int, work: Callable[[], dict]) -> tuple[dict, bool]:
        """Returns (arrays, whether `work` had to run) of one attack on one batch.

        Args:
            key: Name of the attack, fit for a file name.
            batch: Number of the batch.
            work: Makes the arrays if they are not there.
        """
        if self.folder is None:
            return work(), True
        path = self.folder / f"{key}-{batch:06d}.npz"
        saved = _read(path)
        if saved is not None:
            return saved, False
        made = work()
        temporary = path.with_suffix(".tmp")
        with open(temporary, "wb") as file:
            np.savez(file, **made)
            _flush(file)
        os.replace(temporary, path)
        return made, True


def weights_digest(model) -> str:
    """Returns the SHA-256 of a model's weights in order, or "" if it shows none."""
    weights = getattr(model, "weights", None)
    if not weights:
        return ""
    digest = hashlib.sha256()
    for weight in weights:
        digest.update(array_digest(weight.numpy()).encode())
    return digest.hexdigest()


def array_digest(array) -> str:
    """Returns the SHA-256 of an array's type, shape and values."""
    array = np.ascontiguousarray(array)
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    digest.update(array.tobytes())
    return digest.hexdigest()


def path_digest(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file, or of all files of a folder and their names."""
    path, digest = pathlib.Path(path), hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.is_file():
            digest.update(str(file.relative_to(path)).encode())
            with open(file, "rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def write_atomically(path: pathlib.Path, content: bytes) -> None:
    """Writes a file that is there whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        _flush(file)
    os.replace(temporary, path)


def _differing(path: pathlib.Path, identity: dict[str, str], probe) -> list[str]:
    """Returns the names of what is not as it was when the folder was made."""
    try:
        before = json.loads(path.read_text())
        stored, outputs = before["identity"], np.array(before["probe"])
    except (OSError, ValueError, KeyError):
        return ["identity"]
    names = sorted({*stored, *identity})
    names = [name for name in names if stored.get(name) != identity.get(name)]
    scale = 1.0 + np.abs(probe).max(initial=0.0)
    same = outputs.shape == probe.shape
    if not (same and np.allclose(outputs, probe, rtol=0, atol=1e-4 * scale)):
        names.append("outputs of the model")
    return names


def _read(path: pathlib.Path) -> dict | None:
    """Returns the arrays of a file; None if it is missing or damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _flush(file) -> None:
    file.flush()
    os.fsync(file.fileno())
