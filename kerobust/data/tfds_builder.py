"""Finding a set of TensorFlow Datasets by its name and preparing it."""

import contextlib
import importlib.util
import logging
import pathlib
import re

from kerobust.config import UserError, suggestion
from kerobust.data.config import DataConfig

# Split names of TensorFlow Datasets and what they are here.
ROLES = {"train": "train", "validation": "validation", "test": "test"}
ROLES |= {"val": "validation", "valid": "validation", "dev": "validation"}
_OTHERS = (
    *("digits", "scenes", "examples:PATH"),
    *("folder:PATH", "npz:PATH", "imagenet_subset:FILE"),
    *("masks:PATH", "depth:PATH", "voc:PATH", "ade20k:PATH"),
)
_WORDS = tuple(name.split(":")[0] for name in _OTHERS)


def find_builder(config: DataConfig):
    """Returns the builder of the named set without touching the network.

    Raises:
        UserError: If there is no such set, configuration or version.
    """
    import tensorflow_datasets as tfds

    base = re.split("[/:]", config.name)[0]
    known = tfds.list_builders(with_community_datasets=False)
    stored = pathlib.Path(_folder(config)) / base
    if not base or (base not in known and not stored.is_dir()):
        raise UserError(
            f"`--data.name` must be one of: {', '.join(_OTHERS)}, or an image "
            "classification set of TensorFlow Datasets such as cifar10. Received: "
            f"name={config.name}.{_meant(config, (*_WORDS, *known))}"
        )
    try:
        with _without_warnings():
            return tfds.builder(config.name, data_dir=_folder(config))
    except (ValueError, AssertionError) as error:
        # The first line, without the arguments that it repeats.
        reason = str(error).strip().splitlines()[0].split('}": ')[-1]
        near = "" if base in known else _meant(config, ())
        raise UserError(
            "`--data.name` must be a name, name/configuration or name:version that "
            f"TensorFlow Datasets knows. Received: name={config.name} "
            f"({reason.split(' Here are')[0].rstrip('.')}).{near}"
        ) from error


def prepare(builder, config: DataConfig) -> None:
    """Downloads the set if that is needed and permitted.

    It is stored for random access where that is possible, so that it need not fit into
    memory.

    Raises:
        UserError: If it is not permitted, or fails.
    """
    with _without_warnings():
        if builder.is_prepared():
            return
    folder = _folder(config)
    if not config.download:
        raise UserError(
            f"`--data.name` must be a prepared data set, but {config.name} is not in "
            f"{folder}. Received: name={config.name}, download=False."
            f"{_above(folder, builder.name)} Add --data.download=true to fetch and "
            "prepare it, or name another --data.dir. docs/data.md says how to do it "
            "without a network."
        )
    try:
        builder.download_and_prepare(file_format=_file_format())
    except _failures() as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"`--data.download` could not fetch the data set. Received: name="
            f"{config.name}, dir={folder} ({reason}). Check the network, the space on "
            "the disk, or the manual steps that the data set asks for. docs/data.md "
            "says how to do it without a network."
        ) from error


def image_shape(config: DataConfig, feature) -> tuple[int, int, int]:
    """Returns the (H, W, 3) of all images; `feature` is that of the image."""
    if config.image_size is not None:
        return (config.image_size, config.image_size, 3)
    height, width = feature.shape[:2]
    if height is None or width is None:
        raise UserError(
            "`--data.image_size` must be given, because the images of the set differ "
            f"in size. Received: name={config.name}, image_size=None."
        )
    return (height, width, 3)


def random_access(builder) -> bool:
    """Returns whether the prepared set's records can be read in any order."""
    import tensorflow_datasets as tfds

    formats = tfds.core.FileFormat.with_random_access()
    return bool(builder.info.available_file_formats() & formats)


def _meant(config: DataConfig, known) -> str:
    """Returns what the name may have been meant for: a path, a near name."""
    for path in (pathlib.Path(config.name), pathlib.Path(_folder(config), config.name)):
        if path.is_dir() and config.name:
            return f" For the pictures in that folder: --data.name=folder:{path}"
        if path.suffix == ".npz" and path.is_file():
            return f" For the arrays in that file: --data.name=npz:{path}"
    return suggestion(re.split("[/:]", config.name)[0].lower(), known)


@contextlib.contextmanager
def _without_warnings():
    """Silences what TFDS logs about a set that is not there; our message says it."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _folder(config: DataConfig) -> str:
    import tensorflow_datasets as tfds

    return str(pathlib.Path(config.dir or tfds.core.constants.DATA_DIR).expanduser())


def _above(folder: str, name: str) -> str:
    """Returns a hint if `folder` lies inside a data set instead of holding it."""
    path = pathlib.Path(folder)
    inside = [item for item in (path, *path.parents[:2]) if item.name == name]
    return f" Did you mean --data.dir={inside[0].parent}?" if inside else ""


def _file_format() -> str | None:
    """Returns the format with random access, or None where it is absent."""
    return "array_record" if importlib.util.find_spec("array_record") else None


def _failures() -> tuple[type[Exception], ...]:
    """Returns the errors of a download that are not the program's fault."""
    from tensorflow_datasets.core.download import download_manager, extractor, util

    return (
        OSError,
        AssertionError,
        download_manager.NonMatchingChecksumError,
        extractor.ExtractError,
        extractor.UnsafeArchiveError,
        util.DownloadError,
    )
