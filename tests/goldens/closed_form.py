"""Reads golden files and rebuilds the closed-form inputs they name."""

import hashlib
import io
import json
import pathlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent
FUNCTIONS = {"sin": np.sin, "cos": np.cos}


def checks(name: str, sha256: str) -> dict:
    """Returns the checks of a golden file after comparing its digest."""
    return json.loads(_content(name, sha256))["checks"]


def arrays(name: str, sha256: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a golden npz file after comparing its digest."""
    with np.load(io.BytesIO(_content(name, sha256)), allow_pickle=False) as archive:
        return dict(archive)


def _content(name: str, sha256: str) -> bytes:
    content = (FOLDER / name).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(f"{name} was changed: its SHA-256 is {found}.")
    return content


def grid(shape, a, b, function="sin", scale=1.0, offset=0.0) -> np.ndarray:
    """Returns offset + scale * function(a * i + b), i = position in C order."""
    index = np.arange(np.prod(shape), dtype=np.float64)
    return (offset + scale * FUNCTIONS[function](a * index + b)).reshape(shape)


def gridq(shape, a, b, function="sin", scale=1.0, offset=0.0) -> np.ndarray:
    """Returns offset + scale * function(a * i^2 + b), i = position in C order."""
    index = np.arange(np.prod(shape), dtype=np.float64)
    return (offset + scale * FUNCTIONS[function](a * index**2 + b)).reshape(shape)
