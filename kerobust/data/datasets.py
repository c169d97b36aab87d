"""Data sets by name."""

import pathlib

from kerobust.data.config import DataConfig
from kerobust.data.depths import load_depth
from kerobust.data.digits import load_digits
from kerobust.data.examples import load_examples
from kerobust.data.folder import load_folder, load_imagenet_subset
from kerobust.data.masks import load_ade20k, load_masks, load_voc
from kerobust.data.npz import load_npz
from kerobust.data.scenes import load_scenes
from kerobust.data.splits import DataSource, Split
from kerobust.data.stratify import labelled_subset
from kerobust.data.tfds_sets import load_tfds

__all__ = ["DataConfig", "DataSource", "Split", "labelled_subset", "load"]

# Prefix of `--data.name` -> loader of the path behind its colon.
PREFIXES = {
    "folder": load_folder,
    "npz": load_npz,
    "examples": load_examples,
    "imagenet_subset": load_imagenet_subset,
    "masks": load_masks,
    "voc": load_voc,
    "ade20k": load_ade20k,
    "depth": load_depth,
}

# Without files outside of the library.
EMBEDDED = {"digits": load_digits, "scenes": load_scenes}


def load(config: DataConfig) -> DataSource:
    """Returns the data set named by `config.name`.

    Raises:
        UserError: If it is unknown, missing, damaged or empty.
    """
    prefix, _, path = config.name.partition(":")
    if prefix in PREFIXES:
        config.require(bool(path), "name", f"must be written {prefix}:PATH")
        return PREFIXES[prefix](config, pathlib.Path(path).expanduser())
    if prefix in EMBEDDED:
        return EMBEDDED[prefix](config)
    return load_tfds(config)
