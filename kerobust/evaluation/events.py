"""What an examination of representations found, as TensorBoard events."""

import pathlib

import numpy as np
import tensorflow as tf

from kerobust.evaluation.plots import heat_map

# Mark the files of this module, which alone it replaces.
_SUFFIX, _SHARED = ".evaluate", ".diversity"


def write_events(folder: pathlib.Path, found: dict[str, dict]) -> None:
    """Writes histograms, scalars and attention maps; replaces those of earlier calls.

    Tags are `<model>/cosine_<norm>`, whose step counts the radii of that norm from 0,
    `<model>/knn_robust_<norm>` of the smallest number of neighbours likewise, and
    `<model>/attention`.

    Args:
        folder: Where; made if needed.
        found: Model -> what `Representation` returns.
    """
    _replace(folder, _SUFFIX, found, _write)


def write_shared(folder: pathlib.Path, found: dict[str, dict]) -> None:
    """Writes what members share; replaces what earlier calls wrote.

    Tags are `<model>/transfer`, the picture of the success rates, and scalars
    `<model>/diversity`.

    Args:
        folder: Where; made if needed.
        found: Model -> what `Diversity` returns.
    """
    _replace(folder, _SHARED, found, _write_shared)


def _replace(folder: pathlib.Path, suffix: str, found: dict[str, dict], write) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob(f"*tfevents*{suffix}"):
        path.unlink()
    writer = tf.summary.create_file_writer(str(folder), filename_suffix=suffix)
    with writer.as_default(0):
        for name, item in found.items():
            write(name, item)
    writer.close()


def _write_shared(name: str, item: dict) -> None:
    picture = tf.io.decode_png(heat_map(item["transfer"]["success"]), channels=3)
    tf.summary.image(f"{name}/transfer", picture[tf.newaxis])
    tf.summary.scalar(f"{name}/diversity", item["diversity"]["mean"])


def _write(name: str, item: dict) -> None:
    steps: dict[tuple, int] = {}
    for entry in item["drift"]:
        norm = entry["norm"]
        step = sum(key[0] == norm for key in steps)
        steps[norm, entry["epsilon"]] = step
        values = np.asarray(entry["values"])
        tf.summary.histogram(f"{name}/cosine_{norm}", values, step)
        for part, value in entry["cosine"].items():
            tf.summary.scalar(f"{name}/cosine_{norm}_{part}", value, step)
    smallest = min(entry["k"] for entry in item["knn"])
    for entry in item["knn"]:
        if entry["k"] == smallest:
            step = steps[entry["norm"], entry["epsilon"]]
            tag = f"{name}/knn_robust_{entry['norm']}"
            tf.summary.scalar(tag, entry["robust"]["accuracy"], step)
    if item["attention"] is not None:
        tf.summary.image(f"{name}/attention", item["attention"][np.newaxis])
