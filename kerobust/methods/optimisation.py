"""How long and how fast: the settings that every training shares."""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from kerobust.config import Config, setting
from kerobust.methods.base import Method
from kerobust.training.optimizers import AdamW, layer_rate_scales
from kerobust.training.schedules import WarmupCosine, scaled_rate


@dataclasses.dataclass(frozen=True)
class OptimisationConfig(Config):
    """AdamW with linear warm-up and a cosine, the rate scaled by the batch size."""

    NO_DECAY: ClassVar[tuple[str, ...]] = ("bias",)

    epochs: int = setting(800, "Passes over the training images.", low=1)
    batch_size: int = setting(128, "Images per update over all devices.", low=1)
    base_rate: float = setting(
        1.5e-4, "Peak rate at a batch of 256; scaled by batch/256.", low=0
    )
    warmup_epochs: float = setting(40.0, "Epochs of linear warm-up from 0.", low=0)
    final_rate: float = setting(0.0, "Rate at the end of the cosine.", low=0)
    weight_decay: float = setting(0.05, "Decoupled weight decay.", low=0)
    beta_2: float = setting(0.95, "AdamW's second beta.", low=0, high=1, open_high=True)
    layer_decay: float = setting(
        1.0, "Factor on the rate per layer below the head.", low=0, high=1
    )
    augment: str = setting(
        "none",
        "Augmentation of training images.",
        choices=("none", "crop1", "crop4_flip", "resized_crop_flip"),
    )

    def __post_init__(self):
        super().__post_init__()
        self.require(
            self.warmup_epochs <= self.epochs,
            "warmup_epochs",
            f"must not exceed the {self.epochs} epochs of the training",
            f"Shorten it or raise {self.flag('epochs')}.",
        )

    def steps_per_epoch(self, size: int) -> int:
        """Returns updates per pass over `size` images; the short batch is dropped."""
        self.require(
            size >= self.batch_size,
            "batch_size",
            f"must not exceed the {size} training images",
            f"Use at most {size}.",
        )
        return size // self.batch_size

    def steps(self, size: int) -> int:
        """Returns all updates of this training on `size` images."""
        return self.epochs * self.steps_per_epoch(size)

    def peak_rate(self) -> float:
        """Returns the peak rate after scaling by the batch size."""
        return scaled_rate(self.base_rate, self.batch_size)


@dataclasses.dataclass(frozen=True)
class PretrainConfig(OptimisationConfig):
    """How an encoder is pretrained without labels; the defaults are MIMIR's."""

    SECTION = "pretrain"


def compile_method(method: Method, config: OptimisationConfig, size: int) -> None:
    """Gives `method` its optimizer, built.

    Args:
        method: The method to train.
        config: Rates, decay and length.
        size: Number of training images.
    """
    rate = WarmupCosine(
        config.peak_rate(),
        round(config.warmup_epochs * config.steps_per_epoch(size)),
        config.steps(size),
        config.final_rate,
    )
    optimizer = AdamW(
        rate,
        weight_decay=config.weight_decay,
        beta_2=config.beta_2,
        no_decay=config.NO_DECAY,
    )
    if config.layer_decay < 1.0:
        scales = layer_rate_scales(method.rate_groups(), config.layer_decay)
        variables = [item for group in method.rate_groups() for item in group]
        optimizer.set_rate_scales(variables, scales)
    if tf.keras.mixed_precision.global_policy().name == "mixed_float16":
        optimizer = tf.keras.mixed_precision.LossScaleOptimizer(optimizer)
    method.compile(optimizer=optimizer)
    optimizer.build(method.trained_variables())
