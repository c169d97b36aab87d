"""Weights of other programs into models of this library, and its models out again."""

import contextlib
import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from kerobust.config import Config, UserError, check_name, setting
from kerobust.models.bundle import MANIFEST, BundleError, load_bundle, read_info
from kerobust.models.checkpoint_files import read_state
from kerobust.models.export import (
    FORMATS,
    check_exportable,
    export,
    image_shape,
    outputs,
)
from kerobust.models.pretrained import load_resnet18
from kerobust.models.sources import load_vit
from kerobust.models.torch_names import ignored_names
from kerobust.workflows.carding import facts, write_card

OWN = "kerobust"
VITS = ("dino", "dinov2", "mae", "timm")
SOURCES = (*VITS, "deacl", OWN)
TOLERANCE = 1e-4  # Of outputs: graphs may add up in another order.


@dataclasses.dataclass(frozen=True)
class ConvertConfig(Config):
    """What to convert and how."""

    from_: str | None = setting(
        None,
        "Whose weights these are: dino, dinov2, mae, timm (vision transformers), deacl "
        "(the ResNet-18 of solo-learn and DeACL) or kerobust (a bundle).",
        choices=SOURCES,
    )
    weights: str | None = setting(
        None,
        "File (.pth, .pt, .bin, .ckpt, .safetensors, .npz), or folder of a bundle.",
    )
    out: str | None = setting(None, "Folder to write, new or empty.")
    checkpoint_key: str | None = setting(
        None,
        "Part of a nested checkpoint, such as teacher or student, or model of a bundle "
        "of several; empty = the usual one.",
    )
    image_size: int | None = setting(
        None,
        "Side of the images in pixels; positions are interpolated as the source does. "
        "Empty = the size of the weights.",
        low=1,
    )
    heads: int | None = setting(
        None,
        "Attention heads, which weights do not tell; empty = one for 64 channels, or "
        "that of the published model.",
        low=1,
    )
    stem_padding: int | None = setting(
        None,
        "Zeros around the images for the first convolution of --from=deacl; empty = 2, "
        "as solo-learn and DeACL have it. Most other code has 1.",
        low=1,
    )
    mean: tuple[float, ...] = setting(
        (), "Subtracted from the pixels inside the model; empty = what the source does."
    )
    std: tuple[float, ...] = setting(
        (),
        "Then divides the pixels; empty = what the source does.",
        low=0,
        open_low=True,
    )
    format: str = setting(
        "bundle",
        "; ".join(f"{name}: {each.about}" for name, each in FORMATS.items()) + ".",
        choices=tuple(FORMATS),
    )
    license: str = setting(
        "unknown",
        "Licence of the weights, for the model card: a word of the Hugging Face list, "
        "such as apache-2.0.",
    )

    @classmethod
    def flag(cls, name: str) -> str:
        """Returns the flag of a field: these have no section."""
        return f"--{name.rstrip('_')}"


def convert(config: ConvertConfig, dry_run: bool = False) -> int:
    """Reads weights, checks the model and writes it in another format, with a card.

    Says on standard output what was read, what was left out and what was written.

    Args:
        config: What to convert.
        dry_run: Read and check, write nothing.

    Returns:
        Exit code 0.

    Raises:
        UserError: If something is missing or does not fit; see `read_state`,
            `load_vit` and `export`.
    """
    _require_complete(config)
    folder = pathlib.Path(str(config.out))
    model, info = _read(config)
    images = _seeded_images(model)
    _require_finite(config, model, images)
    print(f"model: {_said(facts(model))}", flush=True)
    if dry_run:
        return 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        export(model, folder, config.format, info)
    except OSError as error:
        expectation = f"must be a folder that can be written ({error.strerror})"
        config.require(False, "out", expectation, "Choose another folder.")
    _require_same(config, model, folder, images)
    write_card(folder, config.format, model, info, license=config.license)
    names = sorted(path.name for path in folder.iterdir())
    print(f"wrote: {folder} ({', '.join(names)}); read again, it is equal", flush=True)
    return 0


def _require_complete(config: ConvertConfig) -> None:
    """Refuses what cannot work before a large file is read."""
    for name in ("from_", "weights", "out"):
        given = getattr(config, name) is not None
        config.require(given, name, "must be given", "Run with --help for the list.")
    there = pathlib.Path(str(config.weights)).exists()
    expectation = f"must name a file or a bundle; {config.weights} does not exist"
    config.require(there, "weights", expectation, "Correct the path.")
    folder = pathlib.Path(str(config.out))
    free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    config.require(free, "out", "must be new or empty", "Choose another or remove it.")
    _require_of_source(config)


def _require_of_source(config: ConvertConfig) -> None:
    """Refuses flags that the source has no use for."""
    source, unused = config.from_, ["stem_padding"]
    if source == OWN:
        unused += ["image_size", "heads", "mean", "std"]
    if source == "deacl":
        unused = ["image_size", "heads"]
    for name in unused:
        empty = getattr(config, name) in (None, ())
        config.require(empty, name, f"must be empty for --from={source}")
    fits = source != "deacl" or config.format != "timm"
    config.require(fits, "format", "must not be timm unless it is a transformer")


def _read(config: ConvertConfig) -> tuple[tf.keras.Model, dict[str, Any]]:
    """Returns the model and what its bundle shall know about its origin."""
    path = pathlib.Path(str(config.weights))
    read = _read_own if config.from_ == OWN else _read_other
    model, before, parts = read(config)
    digest = _digest(path / MANIFEST if config.from_ == OWN else path)
    origin = {
        "source": str(config.from_),
        "file": path.name,
        "SHA-256": digest,
        **parts,
    }
    print(f"read: {path}; {_said(origin)}", flush=True)
    earlier = {f"earlier {k}": v for k, v in before.get("origin", {}).items()}
    return model, {**before, "origin": {**earlier, **origin}}


def _read_other(config: ConvertConfig):
    """Returns the model, no older info, and which part of the file it is."""
    with _explained(config):
        state = read_state(str(config.weights), config.checkpoint_key)
    _require_fit(config, state.arrays)
    options: dict[str, Any] = {
        name: getattr(config, name)
        for name in ("heads", "mean", "std", "stem_padding")
        if getattr(config, name)
    }
    source, side = str(config.from_), config.image_size
    with _explained(config):
        if source == "deacl":
            model = load_resnet18(state.arrays, **options)
        else:
            size = None if side is None else (side, side)
            model = load_vit(state.arrays, source, size, **options)
        rest = ignored_names(state.arrays, source)
    names = (*state.ignored, *rest)
    parts = {"part": state.taken or "all", "left out": _short(names)}
    return model, {}, parts


def _require_fit(config: ConvertConfig, arrays: dict[str, np.ndarray]) -> None:
    """Refuses flags that do not fit the first kernel of the network."""
    names = ("patch_embed.proj.weight", "conv1.weight")
    found = [each for name, each in arrays.items() if name.endswith(names)]
    if not found or found[0].ndim != 4:
        return  # Another network: the loader tells the names.
    _, channels, _, side = found[0].shape
    for name in ("mean", "std"):
        count = len(getattr(config, name))
        config.require(
            count in (0, 1, channels), name, f"must have one number or {channels}"
        )
    fits = not config.image_size or config.image_size % side == 0
    config.require(fits, "image_size", f"must be a multiple of {side}, the patch size")


def _read_own(config: ConvertConfig):
    """Returns the model of a bundle, its info, and which of several it is."""
    with _explained(config):
        bundle, info = load_bundle(str(config.weights)), read_info(str(config.weights))
    name, parts = config.checkpoint_key, {}
    if isinstance(bundle, dict):
        name = name or ("encoder" if "encoder" in bundle else next(iter(bundle)))
        check_name("--checkpoint_key", name, bundle)
        rest = tuple(each for each in bundle if each != name)
        parts = {"part": name, "left out": _short(rest)}
        bundle = bundle[name]
    with _explained(config):
        return check_exportable(bundle), info, parts


@contextlib.contextmanager
def _explained(config: ConvertConfig) -> Iterator[None]:
    """Puts the flag before what the library says about a file."""
    try:
        yield
    except BundleError as error:
        path = str(config.weights)
        raise error.named("--weights", "weights", path) from error
    except UserError as error:
        raise UserError(
            f"`--weights` must hold weights that `--from={config.from_}` can read. "
            f"Received: weights={config.weights}. {error}"
        ) from error


def _said(items: dict[str, str]) -> str:
    return "; ".join(f"{name}: {text}" for name, text in items.items())


def _short(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return ", ".join(names[:12]) + more if names else "nothing"


def _digest(path: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _seeded_images(model: tf.keras.Model) -> np.ndarray:
    """Returns one image of noise, always the same, of the size that the model takes."""
    height, width, channels = image_shape(model)
    shape = [1, height or 32, width or 32, channels]
    return np.random.default_rng(0).uniform(size=shape).astype(np.float32)


def _require_finite(config: ConvertConfig, model, images: np.ndarray) -> None:
    for name, values in outputs(model, images).items():
        finite = bool(np.isfinite(values).all())
        expectation = f"must hold numbers: with these, {name} is not finite"
        config.require(finite, "weights", expectation, "The file may be damaged.")


def _require_same(config: ConvertConfig, model, folder, images: np.ndarray) -> None:
    difference = FORMATS[config.format].difference(model, folder, images)
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"What was written to {folder} differs from the model by {difference:.3g}: "
            "a fault of this library. Please report it, with the model's source."
        )
