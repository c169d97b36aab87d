"""Images given as arrays in an .npz file, and the checks they must pass."""

import pathlib
import zipfile

import numpy as np

from kerobust.config import UserError
from kerobust.data.arrays import from_arrays
from kerobust.data.config import DataConfig
from kerobust.data.splits import UNLABELLED, DataSource


def load_npz(config: DataConfig, path: pathlib.Path) -> DataSource:
    """Returns the images of an .npz file.

    It holds `images` and `labels`, or `images_train`, `labels_train` and the same for
    `test` and `validation`. Images are uint8 or float in [0, 1], [N, H, W],
    [N, H, W, 1] or [N, H, W, 3]; labels are integers from 0, -1 or absent where there
    is none; `class_names` is optional. Splits that are absent are carved from the
    training images, stratified by `--data.label_seed`.

    Raises:
        UserError: If the file or its arrays are not like that.
    """
    arrays = _read(path)
    single = "images" in arrays
    names = (
        [""]
        if single
        else [
            f"_{name}"
            for name in ("train", "validation", "test")
            if f"images_{name}" in arrays
        ]
    )
    if not single and "_train" not in names:
        raise _problem(
            path,
            "must hold arrays `images` and `labels`, or `images_train` and "
            f"`labels_train`; it holds: {', '.join(arrays) or 'nothing'}",
        )
    images = [check_images(arrays[f"images{name}"], path) for name in names]
    labels = [
        _check_labels(arrays.get(f"labels{name}"), len(part), path)
        for name, part in zip(names, images, strict=True)
    ]
    if len({(part.shape[1:], part.dtype) for part in images}) > 1:
        raise _problem(path, "must hold images of one shape and type in all splits")
    splits = dict(zip((n[1:] or "train" for n in names), labels, strict=True))
    class_names = tuple(str(name) for name in arrays.get("class_names", ()))
    return from_arrays(config, np.concatenate(images), splits, class_names)


def check_images(images: np.ndarray, path) -> np.ndarray:
    """Returns uint8 or float32 [N, H, W, 1 or 3].

    Args:
        images: What the user gave.
        path: Where it came from, for the message.

    Raises:
        UserError: If rank, channels, type or values are wrong.
    """
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or 0 in images.shape:
        raise _problem(
            path, f"must hold images of shape [N, H, W, 3], found shape {images.shape}"
        )
    if images.shape[-1] not in (1, 3):
        hint = ", channels come last" if images.shape[1] in (1, 3) else ""
        raise _problem(
            path,
            f"must hold images with 1 or 3 channels, found {images.shape[-1]} channels "
            f"in shape {images.shape}{hint}",
        )
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise _problem(
            path, f"must hold images of type uint8 or float, found {images.dtype}"
        )
    return _check_range(images, path).astype(np.float32)


def _check_range(images: np.ndarray, path) -> np.ndarray:
    wrong = ~np.isfinite(images).reshape(len(images), -1).all(axis=1)
    if wrong.any():
        raise _problem(
            path,
            f"must hold finite pixels, found NaN or infinity in {wrong.sum()} images, "
            f"first number {wrong.argmax()}",
        )
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        fix = "undo the normalisation: models normalise by themselves"
        if low >= 0 and high <= 255:
            fix = "divide by 255, or store uint8"
        raise _problem(
            path, f"must hold float pixels in [0, 1], found [{low:g}, {high:g}]; {fix}"
        )
    return images


def _check_labels(labels: np.ndarray | None, count: int, path) -> np.ndarray:
    if labels is None:
        return np.full(count, UNLABELLED, np.int32)
    whole = np.issubdtype(labels.dtype, np.integer)
    if not whole or labels.shape != (count,) or labels.min() < UNLABELLED:
        raise _problem(
            path,
            "must hold one whole-number label from 0 (or -1 = unlabelled) per image, "
            f"found labels of type {labels.dtype} and shape {labels.shape} for "
            f"{count} images",
        )
    return labels.astype(np.int32)


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        # `np.load` with a path leaves the file open when it is damaged.
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise _problem(path, "must name a file that exists") from None
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise _problem(
            path, f"must name an .npz file of plain arrays ({error})"
        ) from error


def _problem(path, expectation: str) -> UserError:
    return UserError(f"`--data.name` {expectation}. Received: name=npz:{path}.")
