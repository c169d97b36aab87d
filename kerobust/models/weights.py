"""Weights found by name, and copied from one encoder to another."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from kerobust.config import UserError
from kerobust.models.positions import resize_positions
from kerobust.models.transformer import VisionTransformer


def named_weights(model: tf.keras.layers.Layer) -> dict[str, tf.Variable]:
    """Returns the variables of a model under their attribute paths.

    A path such as `encoder/blocks/0/attention/qkv/kernel` depends on the model's code
    only, unlike a variable's own name, which counts earlier models of the process.
    """
    view = tf.train.TrackableView(model)
    wanted = {id(variable) for variable in model.weights}
    found: dict[str, tf.Variable] = {}
    seen, queue = {id(model)}, [("", model)]
    for path, item in queue:  # Grows while it is read: nearest paths come first.
        for name, child in sorted(view.children(item).items()):
            if id(child) in seen:
                continue
            seen.add(id(child))
            queue.append((f"{path}{name}/", child))
            if id(child) in wanted:
                found[path + name] = child
    return found


def assign_weights(
    model: tf.keras.layers.Layer, values: Mapping[str, np.ndarray], source: str
) -> None:
    """Gives every variable of `model` the value of the same name.

    Args:
        model: Target; variables are found by `named_weights`.
        values: Arrays by name.
        source: Where the values come from, for the message.

    Raises:
        UserError: If names are missing or unexpected, or shapes differ; nothing is
            assigned then.
    """
    assign_named(named_weights(model), values, source)


def assign_named(
    weights: Mapping[str, tf.Variable], values: Mapping[str, np.ndarray], source: str
) -> None:
    """Does what `assign_weights` does for variables under names of another origin."""
    problems = [f"missing {name}" for name in sorted(weights.keys() - values.keys())]
    problems += [
        f"unexpected {name}" for name in sorted(values.keys() - weights.keys())
    ]
    problems += [
        f"{name} has shape {values[name].shape} instead of {tuple(weight.shape)}"
        for name, weight in weights.items()
        if name in values and values[name].shape != tuple(weight.shape)
    ]
    if problems:
        raise UserError(
            "`source` must hold the weights of the model it is loaded into. "
            f"Received: source={source}, with {len(problems)} differences: "
            f"{'; '.join(problems)}. Build the model with the settings of the source."
        )
    for name, weight in weights.items():
        weight.assign(values[name])


def copy_weights(source: tf.keras.Model, target: tf.keras.Model) -> None:
    """Gives every variable of `target` the value of the same name in `source`.

    Raises:
        UserError: If a name is missing or unexpected, or a shape differs.
    """
    values = {name: each.numpy() for name, each in named_weights(source).items()}
    assign_weights(target, values, "the source model")


def copy_encoder_weights(source: VisionTransformer, target: VisionTransformer) -> None:
    """Copies a pretrained encoder into one that is built for fine-tuning.

    The target may lack the final norm, train positions that are fixed in the source
    (they start at the source's values), have another drop path, and another patch grid
    if the source has an `interpolation`, by which its positions are then fitted.

    Raises:
        UserError: If the patch grids differ and the source has no `interpolation` or
            the positions of the target are fixed, or if any other weight is missing,
            unexpected or of another shape; nothing is copied then.
    """
    trained = "positions" in named_weights(target)
    if source.grid != target.grid and not (trained and source.interpolation):
        raise UserError(
            "`target` must have the patch grid of the source, unless positions are "
            "interpolated (--model.interpolation) and trained. Received: "
            f"source.grid={source.grid}, target.grid={target.grid}. "
            "Keep --data.image_size and --model.patch_size."
        )
    values = {name: each.numpy() for name, each in named_weights(source).items()}
    if target.norm is None:
        values = {name: v for name, v in values.items() if not name.startswith("norm/")}
    if trained:
        positions = tf.convert_to_tensor(source.positions)
        if source.interpolation:
            positions = resize_positions(
                positions, source.grid, target.grid, source.interpolation
            )
        values["positions"] = positions.numpy()
    assign_weights(target, values, "the source encoder")
