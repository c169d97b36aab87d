"""Folders of images and depth maps, divided by sequence."""

import pathlib

import numpy as np
import tensorflow as tf

from kerobust.config import UserError
from kerobust.data.config import DataConfig
from kerobust.data.dense import Kind, Pairs, dense_source, read_pairs
from kerobust.data.listing import shorten
from kerobust.data.maps import metres_decoder
from kerobust.data.splits import DataSource
from kerobust.randomness import example_keys, fold_in

LEAST, MOST = 0.05, 100.0  # Metres; a median outside of them means a wrong unit.
_SPLITS = {"train": "train", "validation": "validation", "val": "validation"}
_SPLITS |= {"test": "test"}
_LAYOUT = (
    "Expected SEQUENCE/rgb/1.jpg beside SEQUENCE/depth/1.png (16 bits, 0 = no "
    "measurement), with the sequences in train/, val/ and test/ if there are such, or "
    "rgb/ and depth/ alone"
)
_ENOUGH = 10**6

Sequences = dict[str, np.ndarray]  # Name -> rows int [n], in the order of the film.


def load_depth(config: DataConfig, root: pathlib.Path) -> DataSource:
    """Returns the images and depth maps of a folder.

    A sequence is a folder with rgb/ and depth/, 16-bit PNG files of
    `--data.depth_unit`, 0 = no measurement. Splits consist of whole sequences, because
    neighbouring frames of a film are almost equal: frames drawn at random would test
    on what was trained on. `--data.test_sequences` names those of the test split;
    without it `--data.label_seed` chooses. Where there is one sequence only, its last
    frames are the test split and those before them validate: blocks, so that only the
    frames at the two borders have a neighbour in another split.

    Raises:
        UserError: If the folder or a file is not as described, the unit is wrong, or
            too much is damaged.
    """
    kind = Kind(
        "depths", "depth map", np.float32, metres_decoder(config.depth_unit), _LAYOUT
    )
    pairs = Pairs(config, root, kind=kind)
    for part, folder in _folders(pairs).items():
        pairs.pair(part, folder / "rgb", folder / "depth")
    found = read_pairs(pairs)
    _require_unit(config, found.maps)
    given: dict[str, Sequences] = {}
    for part in dict.fromkeys(pairs.splits):
        rows = np.flatnonzero(found.parts == part)
        split, _, name = part.partition("/")
        if len(rows):
            given.setdefault(split, {})[name] = rows
    parts, found.report["splits"] = divide(config, given)
    return dense_source(config, found, "depths", parts)


def divide(config: DataConfig, given: dict[str, Sequences]):
    """Returns (split name -> rows, split name -> where it comes from).

    As `complete_splits` does it: validation without test becomes the test split, and
    `validation_fraction` of the training frames, rounded to whole sequences, what is
    missing. Sequences with more than half of the frames are left to training, and so
    is one at least; where three or more are there, validation gets one too.

    Args:
        config: Settings.
        given: Split name -> its sequences.
    """
    train = given.get("train", {})
    test, validation = given.get("test"), given.get("validation")
    origin = {name: "as given" for name in given}
    if config.test_sequences:
        train, test = _named(config, train, given)
        origin["test"] = "--data.test_sequences"
    elif test is None and validation is not None:
        test, validation, origin["test"] = validation, None, "validation as given"
    if test is None:
        spare = 2 if len(train) > 2 and validation is None else 1
        train, test, origin["test"] = _take(config, train, "test", spare)
    if validation is None:
        train, validation, origin["validation"] = _take(config, train, "validation", 1)
    found = {"train": train, "validation": validation, "test": test}
    rows = {name: np.sort(np.concatenate([*x.values()])) for name, x in found.items()}
    return rows, {name: origin[name] for name in found}


def _take(config: DataConfig, train: Sequences, purpose: str, spare: int):
    """Returns (what remains, what is taken, a sentence about it)."""
    total = sum(map(len, train.values()))
    wanted = max(1, round(config.validation_fraction * total))
    if total < 2:
        raise UserError(
            "`--data.name` must have at least 3 images with depths to divide. "
            f"Received: name={config.name} with {total} left for training."
        )
    if len(train) == 1:
        ((name, rows),) = train.items()
        text = f"last {wanted} of {total} frames of the only sequence"
        return {name: rows[:-wanted]}, {name: rows[-wanted:]}, text
    keys = fold_in(example_keys(config.label_seed, 0, np.arange(len(train))), purpose)
    order = np.argsort(tf.bitcast(keys, tf.int64).numpy(), kind="stable")
    taken: Sequences = {}
    names, count = sorted(train), 0
    for name in (names[place] for place in order):
        size = len(train[name])
        if count >= wanted or len(taken) == len(names) - spare:
            break
        if 2 * (count + size) <= total:
            taken[name], count = train[name], count + size
    rest = {name: rows for name, rows in train.items() if name not in taken}
    listed = shorten(sorted(taken))
    return rest, taken, f"sequences {listed}, label_seed {config.label_seed}"


def _named(config: DataConfig, train: Sequences, given) -> tuple[Sequences, Sequences]:
    """Returns the training sequences without and with those that are named."""
    lost = [name for name in config.test_sequences if name not in train]
    config.require(
        not lost
        and "test" not in given
        and len(set(config.test_sequences)) < len(train),
        "test_sequences",
        "must name some, but not all, of the sequences for training, in a folder "
        f"without test/; they are {shorten(train)}",
    )
    test = {name: train[name] for name in config.test_sequences}
    return {name: rows for name, rows in train.items() if name not in test}, test


def _folders(pairs: Pairs) -> dict[str, pathlib.Path]:
    """Returns split/sequence -> folder with rgb/ and depth/."""
    root = pairs.root
    if not root.is_dir():
        raise pairs.problem("must name a folder that exists")
    splits = [x for x in _inside(root) if x.name in _SPLITS and _sequences(x)]
    if not splits:
        found = {f"train/{path.name}": path for path in _sequences(root)}
    else:
        found = {
            f"{_SPLITS[split.name]}/{path.name}": path
            for split in splits
            for path in _sequences(split)
        }
        pairs.not_used += [x.name for x in _inside(root) if x not in splits]
    if not any(part.startswith("train/") for part in found):
        raise pairs.problem("must hold sequences to train on, found none")
    return found


def _sequences(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folder itself if it is a sequence, or those inside it."""
    if (folder / "rgb").is_dir():
        return [folder]
    return [path for path in _inside(folder) if (path / "rgb").is_dir()]


def _inside(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _require_unit(config: DataConfig, depths: np.ndarray) -> None:
    """Raises a `UserError` if depths are implausible, as with a wrong unit."""
    some = depths.reshape(-1)[:: max(1, depths.size // _ENOUGH)]
    some = some[some > 0]
    if not some.size:
        return
    median = float(np.median(some))
    config.require(
        LEAST <= median <= MOST,
        "depth_unit",
        "must be the metres that one stored step means: with this one the median "
        f"depth is {median:.3g} metres",
        "Write 0.001 for millimetres, 1/5000 for TUM's sets, 0.01 for centimetres.",
    )
