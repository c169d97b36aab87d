"""Checkpoints in PyTorch's zip format, written without PyTorch."""

import zipfile

import numpy as np


def entry(shape, strides, *, offset=0, kind="Float", key="0", elements=6):
    """The pickled call that rebuilds a tensor, in the oldest protocol."""
    numbers = [b"".join(b"I%d\n" % each for each in item) for item in (shape, strides)]
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\n%sStorage\nV%s\nVcpu\n"
        b"I%d\ntQI%d\n(%st(%stI00\nNtR"
        % (kind.encode(), key.encode(), elements, offset, *numbers)
    )


def write(path, *tensors, data=None, order=None, content=b"", compression=0):
    """Writes a zip checkpoint {"0": tensor, ...} with storages `data` by key."""
    items = b"".join(b"V%d\n%ss" % item for item in enumerate(tensors))
    data = {"0": np.arange(6, dtype="<f4").tobytes()} if data is None else data
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", b"}" + items + content + b".")
        if order is not None:
            archive.writestr("archive/byteorder", order)
        for key, values in data.items():
            archive.writestr(f"archive/data/{key}", values)
    return path


def save(path, **parts):
    """Writes {part: {name: float32 array}, ..., "epoch": 3} as `torch.save` would."""
    content, data = b"Vepoch\nI3\ns", {}
    for part, arrays in parts.items():
        items = b""
        for name, array in arrays.items():
            key, shape = str(len(data)), array.shape
            data[key] = np.ascontiguousarray(array, "<f4").tobytes()
            strides = [int(np.prod(shape[axis + 1 :])) for axis in range(array.ndim)]
            tensor = entry(shape, strides, key=key, elements=array.size)
            items += b"V%s\n%ss" % (name.encode(), tensor)
        content += b"V%s\n}%ss" % (part.encode(), items)
    return write(path, data=data, content=content)
