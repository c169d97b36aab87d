"""Folders that keep trained models.

A bundle is `config.json` (class, settings, info), `weights.safetensors` and
`manifest.json` (SHA-256 of both). Several models make one bundle each under `members/`.
Reading a bundle runs no code that came with it. The precision of computation is that of
the global policy at the time of loading.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.numpy
import tensorflow as tf

from kerobust.config import UserError
from kerobust.models.convnet import ConvNet
from kerobust.models.dense_heads import DensePredictor, DepthHead, SegmentationHead
from kerobust.models.ensemble import Ensemble
from kerobust.models.heads import Classifier, ClassifierHead
from kerobust.models.keras_cv_encoder import KerasCvEncoder
from kerobust.models.mae import MaeDecoder
from kerobust.models.projector import DinoHead
from kerobust.models.resnet import ResNet
from kerobust.models.resnet18 import ResNet18
from kerobust.models.vit import VisionTransformer
from kerobust.models.weights import assign_weights, named_weights

CLASSES = {
    "VisionTransformer": VisionTransformer,
    "ResNet": ResNet,
    "ResNet18": ResNet18,
    "ConvNet": ConvNet,
    "KerasCvEncoder": KerasCvEncoder,
    "MaeDecoder": MaeDecoder,
    "ClassifierHead": ClassifierHead,
    "Classifier": Classifier,
    "Ensemble": Ensemble,
    "DinoHead": DinoHead,
    "SegmentationHead": SegmentationHead,
    "DepthHead": DepthHead,
    "DensePredictor": DensePredictor,
}
CONFIG, WEIGHTS, MANIFEST = "config.json", "weights.safetensors", "manifest.json"


class BundleError(UserError):
    """A bundle that is missing, incomplete or altered.

    Args:
        folder: Where it was looked for.
        reason: What is wrong with it, as the end of "the folder, which ...".
        fix: Sentence that says what to do.
    """

    def __init__(
        self,
        folder: Path,
        reason: str,
        fix: str = "Copy it again or write it anew.",
    ):
        super().__init__(
            "`folder` must be an intact model bundle, as `save_bundle` writes it. "
            f"Received: folder={folder}, which {reason}. {fix}"
        )
        self.folder, self.reason, self.fix = folder, reason, fix

    def named(self, flag: str, name: str, given: str | os.PathLike) -> UserError:
        """Returns the same error about the flag through which the folder came.

        Args:
            flag: As `--run.init_from`.
            name: What stands before the folder in the message, as `init_from`.
            given: The folder that the flag holds; the fault may be in a member.
        """
        part = os.path.relpath(self.folder, given)
        which = "which" if part == "." else f"whose {part}"
        return UserError(
            f"`{flag}` must name an intact bundle of this library. "
            f"Received: {name}={given}, {which} {self.reason}. {self.fix}"
        )


def save_bundle(
    models: tf.keras.Model | Mapping[str, tf.keras.Model],
    folder: str | os.PathLike,
    info: Mapping[str, Any],
) -> None:
    """Writes a model, or several under names, to `folder`, replacing an older bundle.

    The bundle is written beside its place and renamed: readers see all or nothing.

    Args:
        models: One model of a class in `CLASSES`, or a mapping from names to them.
        folder: Where; parents are made.
        info: Anything JSON can hold: where the model comes from, how good it is.

    Raises:
        UserError: If `folder` holds something that is not a bundle, or a model is of
            another class.
    """
    folder = Path(folder).absolute()
    reason = "holds other files" if folder.is_dir() else "is a file"
    empty = folder.is_dir() and not any(folder.iterdir())
    if folder.exists() and not empty and not (folder / MANIFEST).is_file():
        raise UserError(
            "`folder` must be new, empty or an older bundle. Received: "
            f"folder={folder}, which {reason}. Choose another folder."
        )
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    stale = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        _write(models, fresh, dict(info))
        if folder.exists():
            folder.rename(stale)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(stale, ignore_errors=True)


def load_bundle(folder: str | os.PathLike) -> Any:
    """Returns the model of a bundle, or a dict of its named models.

    Raises:
        BundleError: If the bundle is missing, incomplete or altered.
        UserError: If it does not fit this version of the code.
    """
    folder = Path(folder)
    config = _read_config(folder)
    if "members" in config:
        names = [_checked_name(name) for name in config["members"]]
        return {name: load_bundle(folder / "members" / name) for name in names}
    try:
        model = _construct(config["model"])
        values = safetensors.numpy.load_file(folder / WEIGHTS)
    except (KeyError, TypeError, OSError, safetensors.SafetensorError) as error:
        raise BundleError(folder, f"does not fit this version ({error!r})") from error
    assign_weights(model, values, str(folder / WEIGHTS))
    return model


def read_info(folder: str | os.PathLike) -> dict[str, Any]:
    """Returns the `info` that was saved with a bundle.

    Raises:
        BundleError: If the bundle is missing, incomplete or altered.
    """
    return _read_config(Path(folder))["info"]


def is_intact(folder: str | os.PathLike) -> bool:
    """Returns whether a bundle is complete and unaltered, its members included."""
    folder = Path(folder)
    try:
        members = _read_config(folder).get("members", [])
    except UserError:
        return False
    return all(is_intact(folder / "members" / name) for name in members)


def _write(models, folder: Path, info: dict) -> None:
    folder.mkdir(parents=True)
    config: dict[str, Any] = {"info": info}
    files = [CONFIG]
    if isinstance(models, Mapping):
        config["members"] = [_checked_name(name) for name in models]
        for name, model in models.items():
            _write(model, folder / "members" / name, info)
            files.append(f"members/{name}/{MANIFEST}")
    else:
        config["model"] = _describe(tf.keras.saving.serialize_keras_object(models))
        arrays = {name: each.numpy() for name, each in named_weights(models).items()}
        safetensors.numpy.save_file(arrays, folder / WEIGHTS)
        files.append(WEIGHTS)
    _write_json(folder / CONFIG, config)
    _write_json(folder / MANIFEST, {name: _digest(folder / name) for name in files})


def _describe(value):
    """Returns class and settings of a serialised Keras object, nested ones included."""
    if isinstance(value, list):
        return [_describe(item) for item in value]
    if not isinstance(value, Mapping) or "class_name" not in value:
        return value
    name = value["class_name"]
    if name not in CLASSES or value.get("registered_name") != f"kerobust>{name}":
        raise UserError(
            f"`models` must be of these classes: {', '.join(CLASSES)}. "
            f"Received: {value.get('registered_name') or name}."
        )
    settings = {key: _describe(item) for key, item in value["config"].items()}
    return {"class": name, "config": settings}


def _construct(value):
    """Returns the object that `_describe` described; knows no class but `CLASSES`."""
    if isinstance(value, list):
        return [_construct(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    settings = {key: _construct(item) for key, item in value["config"].items()}
    return CLASSES[value["class"]](**settings)


def _read_config(folder: Path) -> dict[str, Any]:
    """Returns the content of `config.json` after checking every file's digest."""
    manifest = _read_json(folder, MANIFEST)
    for name, digest in manifest.items():
        if not (folder / name).is_file():
            raise BundleError(folder, f"lacks {name}")
        if _digest(folder / name) != digest:
            raise BundleError(folder, f"has a truncated or altered {name}")
    if CONFIG not in manifest:
        raise BundleError(folder, f"has a {MANIFEST} without {CONFIG}")
    return _read_json(folder, CONFIG)


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads((folder / name).read_text("utf-8"))
    except OSError as error:
        raise _unreadable(folder, name, error) from error
    except ValueError as error:
        raise BundleError(folder, f"has a truncated or altered {name}") from error
    if not isinstance(content, dict):
        raise BundleError(folder, f"has a truncated or altered {name}")
    return content


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _checked_name(name: str) -> str:
    if not re.fullmatch(r"\w[\w-]*", str(name)):
        raise UserError(
            "`models` must have names of letters, digits, _ and -. "
            f"Received: name={name!r}."
        )
    return name


def _unreadable(folder: Path, name: str, error: OSError) -> BundleError:
    """Returns the error about a file of a bundle that cannot be opened."""
    if folder.is_dir():
        missing = isinstance(error, FileNotFoundError)
        fault = f"lacks {name}" if missing else f"has a {name} that cannot be read"
        return BundleError(folder, fault)
    if folder.exists():
        fix = f"Name the folder of a bundle, the one with {MANIFEST} in it."
        return BundleError(folder, "is a file", fix)
    return BundleError(folder, "does not exist", "Correct the path.")
