"""Where a training of an encoder starts, and how long it is."""

from typing import Any, NamedTuple

import tensorflow as tf

from kerobust.config import UserError
from kerobust.models.weights import copy_weights


class Length(NamedTuple):
    """Length of a training.

    Attributes:
        epochs: Passes over the images.
        steps_per_epoch: Updates per pass.
    """

    epochs: int
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        """All updates."""
        return self.epochs * self.steps_per_epoch


def encoder_of(start) -> Any:
    """Returns the encoder of a loaded bundle; None if there is none.

    Args:
        start: A model, a dict of models by name, or None.
    """
    if isinstance(start, dict):
        return start.get("encoder")
    return getattr(start, "encoder", start)


def new_encoder(experiment, image_shape, start, drop_path: float) -> tf.keras.Model:
    """Returns the encoder to train, which takes images of several sizes.

    Args:
        experiment: `ExperimentConfig`.
        image_shape: (height, width, channels).
        start: See `encoder_of`; its shape and weights are taken over.
        drop_path: Drop-path rate of the last block.

    Raises:
        UserError: If the encoder of `start` cannot read the images.
    """
    known = encoder_of(start)
    if known is None:
        rule = experiment.model.interpolation or "dino"
        model = experiment.model.replace(interpolation=rule)
        return model.build(image_shape, drop_path)
    settings = known.get_config()
    if settings["channels"] != image_shape[-1]:
        raise UserError(
            "`--run.init_from` must hold an encoder for images of "
            f"{image_shape[-1]} channels. Received: one for {settings['channels']}."
        )
    if "interpolation" in settings:
        settings["drop_path"] = drop_path
        settings["interpolation"] = settings["interpolation"] or "dino"
    encoder = type(known).from_config(settings)
    copy_weights(known, encoder)
    return encoder
