"""Weights of other programs: files read into arrays by name."""

import contextlib
import os
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors

from kerobust.config import UserError, suggestion
from kerobust.models.pickle_values import ForbiddenError
from kerobust.models.torch_files import StoredTensor, from_bfloat16, read_torch

TORCH = (".pth", ".pt", ".bin", ".ckpt")
# Where checkpoints keep the weights, the better choice first: the averaged weights of
# a teacher before those that were trained.
USUAL_KEYS = (
    *("teacher", "model_ema", "state_dict_ema", "model", "state_dict", "backbone"),
    *("encoder", "student", "module"),
)
_DAMAGED = (
    *(OSError, EOFError, ValueError, IndexError, KeyError, TypeError, AttributeError),
    *(OverflowError, RecursionError, MemoryError, RuntimeError, struct.error),
    *(zipfile.BadZipFile, zlib.error, safetensors.SafetensorError),
)


_SAFETENSORS = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?"},
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"},
    **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1"},
}


class State(NamedTuple):
    """The weights that were found in a checkpoint.

    Attributes:
        arrays: Arrays by the names of the file; bfloat16 has become float32.
        taken: Where they lay, such as `teacher`; empty if the file holds nothing else.
        ignored: What else the file holds, names in its order.
    """

    arrays: dict[str, np.ndarray]
    taken: str
    ignored: tuple[str, ...]


def read_state(path: str | os.PathLike, key: str | None = None) -> State:
    """Returns the weights in a file of PyTorch, safetensors or NumPy.

    Nothing that the file holds is run: see `read_torch` for what is refused.

    Args:
        path: `.pth`, `.pt`, `.bin`, `.ckpt` (PyTorch), `.safetensors` or `.npz`.
        key: Which part of a nested checkpoint, such as `teacher`; a dot goes one level
            deeper. None takes the first of `USUAL_KEYS`, again within that.

    Raises:
        UserError: If the file is missing, damaged, of another kind or asks to run
            code, or holds no weights under `key`.

    Example:
        state = read_state("dino_checkpoint.pth", "teacher")
        print(state.taken, state.ignored, len(state.arrays))
    """
    return select_state(read_tree(path), key, str(path))


def read_tree(path: str | os.PathLike) -> Any:
    """Returns all that a file holds: dicts, lists, numbers and tensors.

    Args:
        path: See `read_state`. Tensors of PyTorch are `StoredTensor`, read when needed;
            others are arrays.

    Raises:
        UserError: If the file is missing, damaged, of another kind or asks to run code.
    """
    path = pathlib.Path(path)
    if path.suffix == ".npz":
        return read_npz(path)
    with _explained(str(path)):
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        if path.suffix in TORCH:
            return read_torch(path)
    raise UserError(
        f"`path` must name a file that ends in {', '.join(TORCH)}, .safetensors or "
        f".npz. Received: path={path}. Rename it if it is one of these."
    )


def select_state(
    tree: Any, key: str | None = None, source: str = "the checkpoint"
) -> State:
    """Returns the weights of a nested checkpoint and says where they lay.

    Args:
        tree: From `read_tree`.
        key: See `read_state`.
        source: Where the tree comes from, for messages.

    Raises:
        UserError: If no weights lie under `key`, or the tensors do not fit the file.
    """
    with _explained(source):
        return _select(tree, key, source)


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns the arrays of an npz file.

    Raises:
        UserError: If it is not readable, or holds pickled objects.
    """
    try:
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            return {name: archive[name] for name in archive.files}
    except _DAMAGED as error:  # AttributeError: an npy file has no `files`.
        raise UserError(
            "`path` must name an npz file of plain arrays, as `numpy.savez` writes it. "
            f"Received: path={path} ({error})."
        ) from error


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    arrays = {}
    for name, entry in safetensors.deserialize(path.read_bytes()):
        kind = _SAFETENSORS.get(entry["dtype"])
        if kind is None:
            raise ValueError(f"{name} has numbers of type {entry['dtype']}")
        values = np.frombuffer(entry["data"], kind).reshape(entry["shape"])
        arrays[name] = from_bfloat16(values) if entry["dtype"] == "BF16" else values
    return arrays


def _select(tree: Any, key: str | None, source: str) -> State:
    found, ignored = tree, list[str]()
    path = key.split(".") if key else _usual_path(tree)
    for name in path:
        if not isinstance(found, Mapping) or name not in found:
            raise _no_weights(source, key, found)
        ignored += [str(each) for each in found if each != name]
        found = found[name]
    if not isinstance(found, Mapping) or not any(map(_is_tensor, found.values())):
        raise _no_weights(source, key, found)
    ignored += [str(name) for name, each in found.items() if not _is_tensor(each)]
    tensors = {str(name): each for name, each in found.items() if _is_tensor(each)}
    arrays = {name: _array(each) for name, each in tensors.items()}
    return State(arrays, ".".join(path), tuple(ignored))


def _usual_path(tree: Any) -> list[str]:
    """Returns the usual names from the top to the weights, at most three."""
    path: list[str] = []
    while isinstance(tree, Mapping) and len(path) < 3:
        inside = [name for name in USUAL_KEYS if isinstance(tree.get(name), Mapping)]
        if not inside:
            break
        path.append(inside[0])
        tree = tree[inside[0]]
    return path


def _is_tensor(value: Any) -> bool:
    return isinstance(value, (StoredTensor, np.ndarray))


def _array(value: StoredTensor | np.ndarray) -> np.ndarray:
    """Returns contiguous values: other programs take for granted that they are."""
    return np.ascontiguousarray(
        value.array() if isinstance(value, StoredTensor) else value
    ).reshape(value.shape)


@contextlib.contextmanager
def _explained(source: str) -> Iterator[None]:
    """Turns what a damaged or malicious file raises into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except ForbiddenError as error:
        raise UserError(
            "`path` must hold nothing but tensors and plain values. Received: "
            f"path={source}, which asks for {error}. Nothing of it was run. Where the "
            "file was made, save the weights alone: "
            "`torch.save(model.state_dict(), path)`, or safetensors."
        ) from error
    except _DAMAGED as error:
        missing = isinstance(error, FileNotFoundError)
        reason = str(error).split("\n")[0][:200] or type(error).__name__
        raise UserError(
            "`path` must name an intact file of weights. Received: "
            f"path={source} ({'it does not exist' if missing else reason}). Copy it "
            "again or name another file."
        ) from error


def _no_weights(source: str, key: str | None, found: Any) -> UserError:
    held = [str(name) for name in found] if isinstance(found, Mapping) else []
    there = ", ".join(held[:20]) or f"a {type(found).__name__}"
    near = suggestion(key, held) if key else ""
    return UserError(
        "`checkpoint_key` must name a part of the checkpoint that holds tensors. "
        f"Received: checkpoint_key={key} for {source}, where there is: {there}.{near}"
    )
