"""PyTorch checkpoints, read without PyTorch and without running what they hold."""

import functools
import io
import mmap
import os
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, cast

import numpy as np

from kerobust.models.pickle_values import (
    ForbiddenError,
    Global,
    PickleMachine,
    Record,
    checked_dict,
)

# Storage class of PyTorch -> type of its elements. NumPy has no bfloat16: its 16 bits
# are the upper half of a float32.
_BFLOAT16 = "bfloat16"
_STORAGES = {
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": _BFLOAT16,
    "torch.DoubleStorage": "float64",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_MOST_AXES = 32  # Those of a NumPy array.


class Storage:
    """A flat array in a file, read when it is first needed.

    Args:
        kind: Type of its elements: a name of NumPy or bfloat16.
        elements: How many the checkpoint claims.
        key: Its name in the file.
    """

    def __init__(self, kind: str, elements: int, key: str):
        self.kind, self.elements, self.key = kind, elements, key
        self.big_endian = False
        self.read: Callable[[], bytes] | None = None

    @property
    def element_bytes(self) -> int:
        """Bytes of one element in the file."""
        return 2 if self.kind == _BFLOAT16 else np.dtype(self.kind).itemsize

    @functools.cached_property
    def values(self) -> np.ndarray:
        """The elements, bfloat16 as float32: read-only [elements].

        Raises:
            ValueError: If the file holds more or fewer bytes than it claims.
        """
        data = b"" if self.read is None else self.read()
        if len(data) != self.elements * self.element_bytes:
            raise ValueError(
                f"storage {self.key} has {len(data)} bytes instead of "
                f"{self.elements} x {self.element_bytes}"
            )
        kind = np.dtype("uint16" if self.kind == _BFLOAT16 else self.kind)
        values = np.frombuffer(data, kind.newbyteorder(">" if self.big_endian else "<"))
        if self.kind == _BFLOAT16:
            return from_bfloat16(values)
        return values.astype(kind, copy=False)


class StoredTensor:
    """A tensor of a checkpoint: a view of a storage, not yet read.

    Args:
        storage: Where its elements lie.
        offset: Place of its first element.
        shape, strides: Sizes and steps of its axes, in elements.
    """

    def __init__(self, storage: Storage, offset: int, shape: tuple, strides: tuple):
        numbers = [offset, *shape, *strides]
        if not isinstance(storage, Storage):
            raise ValueError("a tensor without a storage")
        if len(shape) != len(strides) or len(shape) > _MOST_AXES:
            raise ValueError(f"a tensor of {len(shape)} axes, {len(strides)} strides")
        if any(type(each) is not int or each < 0 for each in numbers):
            raise ValueError(f"a tensor of shape {shape}, strides {strides}")
        self._storage, self._offset = storage, offset
        self.shape, self._strides = shape, strides

    def array(self) -> np.ndarray:
        """Returns the elements, a read-only view: two tensors may share a storage.

        Raises:
            ValueError: If the tensor reaches beyond its storage, or repeats elements
                (a size that the file does not hold would be made up).
        """
        count, steps = 1, zip(self.shape, self._strides, strict=True)
        for size in self.shape:
            count *= size
        if count == 0:
            return np.zeros(self.shape, self._storage.values.dtype)
        last = self._offset + sum((size - 1) * stride for size, stride in steps)
        if last >= self._storage.elements or count > self._storage.elements:
            raise ValueError(
                f"a tensor of shape {self.shape} does not fit its storage of "
                f"{self._storage.elements} elements"
            )
        values = self._storage.values
        strides = [stride * values.itemsize for stride in self._strides]
        return np.lib.stride_tricks.as_strided(
            values[self._offset :], self.shape, strides, writeable=False
        )


def from_bfloat16(halves: np.ndarray) -> np.ndarray:
    """Returns uint16 bit patterns of bfloat16 as float32 of the same shape."""
    return (halves.astype(np.uint32) << 16).view(np.float32)


def read_torch(path: pathlib.Path) -> Any:
    """Returns the tree of a checkpoint; its tensors are `StoredTensor`.

    Two formats are read: the zip archive of PyTorch 1.6 and later, and the stream of
    pickles before it. Unknown globals, and everything that would run code, are refused.

    Raises:
        ForbiddenError: If the file asks for anything but tensors and plain values.
        ValueError, OSError and others: If it is damaged.
    """
    if zipfile.is_zipfile(path):
        return _read_zip(path)
    # Mapped, so that a claimed length reads no more than there is.
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view,
    ):
        return _read_stream(path, cast(BinaryIO, view), len(view))


def _read_zip(path: pathlib.Path) -> Any:
    archive = zipfile.ZipFile(path)  # Closes itself when no tensor needs it any more.
    entries = archive.infolist()
    # Stored, and together no larger than the file: nothing can unfold in memory.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("an archive with compressed entries")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError("an archive whose entries are larger than itself")
    names = {entry.filename for entry in entries}
    roots = [name[: -len("data.pkl")] for name in names if _is_tree(name)]
    if len(roots) != 1:
        raise ValueError("an archive without a data.pkl, or with several")
    (root,) = roots
    order = archive.read(f"{root}byteorder") if f"{root}byteorder" in names else b""
    if order not in (b"", b"little", b"big"):
        raise ValueError(f"byte order {order!r}")
    storages: dict[str, Storage] = {}
    tree = _machine(storages).read(io.BytesIO(archive.read(f"{root}data.pkl")))
    for key, storage in storages.items():
        storage.big_endian = order == b"big"
        storage.read = functools.partial(archive.read, f"{root}data/{key}")
    return tree


def _is_tree(name: str) -> bool:
    return name == "data.pkl" or (name.endswith("/data.pkl") and name.count("/") == 1)


def _read_stream(path: pathlib.Path, file: BinaryIO, size: int) -> Any:
    plain, storages = PickleMachine({}), dict[str, Storage]()
    if plain.read(file) != _LEGACY_MAGIC or plain.read(file) != _LEGACY_PROTOCOL:
        raise ValueError("neither a zip archive nor the older format of torch.save")
    system = plain.read(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("it was not written on a little-endian machine")
    tree = _machine(storages).read(file)
    for key in plain.read(file):
        elements = int.from_bytes(file.read(8), "little", signed=True)
        if key not in storages or elements != storages[key].elements:
            raise ValueError(f"storage {key} is not the one of its tensors")
        start, count = file.tell(), elements * storages[key].element_bytes
        if elements < 0 or start + count > size:
            raise ValueError(f"it ends within storage {key}")
        storages[key].read = functools.partial(_region, path, start, count)
        file.seek(count, os.SEEK_CUR)
    return tree


def _region(path: pathlib.Path, start: int, count: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(count)


def _machine(storages: dict[str, Storage]) -> PickleMachine:
    """Returns a reader that collects the storages it meets under their keys."""

    def persistent(identity: Any) -> Storage:
        tag, typed, key, _, elements, *view = identity
        kind = _STORAGES.get(typed.name) if isinstance(typed, Global) else None
        if tag != "storage" or kind is None or any(view):
            raise ForbiddenError("a persistent id that is no storage of numbers")
        if type(key) is not str or type(elements) is not int or elements < 0:
            raise ValueError("a storage without a key or a size")
        known = storages.setdefault(key, Storage(kind, elements, key))
        if (known.kind, known.elements) != (kind, elements):
            raise ValueError(f"storage {key} has two types or sizes")
        return known

    return PickleMachine(_STAND_INS, persistent)


def _tensor(storage, offset, shape, strides, *_) -> StoredTensor:
    return StoredTensor(storage, offset, tuple(shape), tuple(strides))


def _encoded(text: str, coding: str) -> bytes:
    """Does `_codecs.encode` for the one coding that pickles of bytes use."""
    if coding != "latin1":
        raise ForbiddenError(f"text in the coding {coding}")
    return text.encode("latin1")


def _recorded(kind: str) -> Callable[..., Record]:
    return lambda *arguments: Record(kind, {"arguments": arguments})


_STAND_INS: dict[str, Callable[..., Any] | None] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_parameter": lambda tensor, gradient, hooks: tensor,
    "collections.OrderedDict": lambda pairs=(): checked_dict(pairs),
    "argparse.Namespace": lambda: Record("argparse.Namespace", {}),
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch.device": _recorded("torch.device"),
    "numpy.dtype": _recorded("numpy.dtype"),
    "numpy.core.multiarray.scalar": _recorded("numpy.scalar"),
    "numpy._core.multiarray.scalar": _recorded("numpy.scalar"),
    "_codecs.encode": _encoded,
    **dict.fromkeys(_STORAGES),
    **{f"torch.{name}": None for name in (*_STORAGES.values(), "half", "float")},
}
