"""Dividing a split fairly among its classes."""

import numpy as np
import tensorflow as tf

from kerobust.config import UserError
from kerobust.data.config import DataConfig
from kerobust.data.splits import UNLABELLED, Split
from kerobust.randomness import example_keys, fold_in


def labelled_subset(split: Split, fraction: float, seed: int) -> Split:
    """Returns the same share of every class, chosen by `seed`, in the split's order.

    The choice belongs to the example (its id and the seed), so the same images are
    chosen whatever the order of the split. Unlabelled images are left out.

    Raises:
        UserError: If a class would be left without an image.
    """
    labelled = split.subset(split.labels != UNLABELLED)
    if labelled.size == 0:
        raise UserError(
            "`--data.name` must have labels for this stage. Received: a data set "
            "without labels. Use class folders, or only pretrain."
        )
    if fraction == 1:
        return labelled
    chosen = stratified_choice(labelled, fraction, seed, "labelled")
    _require_every_class(labelled, chosen, fraction)
    return labelled.subset(chosen)


def carve(split: Split, fraction: float, seed: int, purpose: str):
    """Divides a split in two with equal shares of every class.

    What is carved is for measuring, so it has labels if any example has one.

    Returns:
        (what remains, at least one example: `fraction` of the split or of its labelled
        part).
    """
    labelled = np.flatnonzero(split.labels != UNLABELLED)
    pool = labelled if labelled.size else np.arange(split.size)
    chosen = pool[stratified_choice(split.subset(pool), fraction, seed, purpose)]
    rest = np.setdiff1d(np.arange(split.size), chosen)
    return split.subset(rest), split.subset(chosen)


def stratified_choice(split: Split, fraction: float, seed: int, purpose: str):
    """Returns ascending positions of round(fraction * N) examples, fair to classes.

    Args:
        split: What to choose from; unlabelled images count as a class of their own.
        fraction: Share in (0, 1).
        seed: Non-negative int.
        purpose: Keeps choices for different purposes independent.
    """
    keys = fold_in(example_keys(seed, 0, split.ids), purpose)
    order = np.argsort(tf.bitcast(keys, tf.int64).numpy(), kind="stable")
    classes, counts = np.unique(split.labels, return_counts=True)
    total = max(1, round(fraction * split.size))
    quotas = counts * (total / split.size)
    shares = np.floor(quotas + 1e-9).astype(int)
    # Largest remainders get what flooring left over; ties go to the lower label.
    remainders = np.argsort(shares - quotas, kind="stable")
    shares[remainders[: total - shares.sum()]] += 1
    ordered = split.labels[order]
    chosen = [
        order[ordered == label][:share]
        for label, share in zip(classes, shares, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def _require_every_class(split: Split, chosen: np.ndarray, fraction: float) -> None:
    missing = np.setdiff1d(split.labels, split.labels[chosen])
    if missing.size:
        label = missing[0]
        count = int(np.sum(split.labels == label))
        raise UserError(
            "`--data.label_fraction` must leave at least one image in every class, but "
            f"class {label} with {count} images would have none. Received: "
            f"label_fraction={fraction}. Raise it to at least {1 / count:.3g}."
        )


def complete_splits(
    config: DataConfig, splits: dict[str, Split], report: dict, always_tested=False
) -> dict[str, Split]:
    """Returns train, validation and test, carving from train what is missing.

    A set with validation but no test images is tested on its validation images, as is
    usual for ImageNet, and validated on a part of its training images. Training images
    without labels give no test split, unless `always_tested` (what is known of every
    pixel can be tested); where only some have labels, only these are carved. What was
    done is written to `report["splits"]`.
    """
    train, fraction = splits["train"], config.validation_fraction
    validation, test = splits.get("validation"), splits.get("test")
    origin = {name: "as given" for name in splits}
    if test is None and validation is not None:
        test, validation, origin["test"] = validation, None, "validation as given"
    carved = f"{fraction:g} of train, label_seed {config.label_seed}"
    if test is None and (always_tested or np.any(train.labels != UNLABELLED)):
        _require_size(config, train, 3)
        train, test = carve(train, fraction, config.label_seed, "test")
        origin["test"] = carved
    if validation is None:
        _require_size(config, train, 2)
        train, validation = carve(train, fraction, config.label_seed, "validation")
        origin["validation"] = carved
    report["splits"] = origin
    found = {"train": train, "validation": validation, "test": test}
    return {name: split for name, split in found.items() if split is not None}


def _require_size(config: DataConfig, split: Split, least: int) -> None:
    if split.size < least:
        raise UserError(
            f"`--data.name` must have at least {least} training images to divide. "
            f"Received: name={config.name} with {split.size}."
        )
