"""How long and how fast: the settings that every training shares."""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from kerobust.config import Config, setting
from kerobust.methods.base import Method
from kerobust.training.optimizers import AdamW, MomentumSGD, layer_rate_scales
from kerobust.training.schedules import PerEpoch, WarmupCosine, scaled_rate


@dataclasses.dataclass(frozen=True)
class OptimisationConfig(Config):
    """Optimizer, rate and length; the rate is scaled by the batch size."""

    NO_DECAY: ClassVar[tuple[str, ...]] = ("bias",)

    epochs: int = setting(800, "Passes over the training images.", low=1)
    batch_size: int = setting(128, "Images per update over all devices.", low=1)
    accumulation_steps: int = setting(
        1,
        "Parts of a batch whose gradients are computed one after the other, to need"
        " less memory. What looks at a whole batch, as batch norm, sees one part.",
        low=1,
    )
    base_rate: float = setting(
        1.5e-4, "Peak rate at a batch of 256; scaled by batch/256.", low=0
    )
    warmup_epochs: float = setting(40.0, "Epochs of linear warm-up from 0.", low=0)
    final_rate: float = setting(0.0, "Rate at the end of the cosine.", low=0)
    initial_rate: float = setting(
        0.0, "Rate at the first step of the warm-up, not scaled.", low=0
    )
    inclusive_warmup: bool = setting(
        False,
        "Whether the last step of the warm-up has the peak rate (DINO, DeACL) or the"
        " first one after it (MAE).",
    )
    rate_per_epoch: bool = setting(
        False, "Whether the rate changes once per epoch instead of at every step."
    )
    milestones: tuple[float, ...] = setting(
        (),
        "Epochs after which the rate is divided by 10, instead of warm-up and cosine.",
        low=0,
    )
    optimizer: str = setting(
        "adamw",
        "adamw (decoupled weight decay, none for biases and norms) or sgd (momentum"
        " 0.9, coupled weight decay of everything).",
        choices=("adamw", "sgd"),
    )
    momentum: float = setting(0.9, "Momentum of sgd.", low=0, high=1, open_high=True)
    weight_decay: float = setting(0.05, "Weight decay.", low=0)
    final_weight_decay: float | None = setting(
        None, "Weight decay of adamw at the end of a cosine; empty = constant.", low=0
    )
    clip_norm: float | None = setting(
        None,
        "Largest l2 norm of the gradient of each tensor by itself; empty = no limit.",
        low=0,
        open_low=True,
    )
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
        self.require(
            self.final_weight_decay is None or self.optimizer == "adamw",
            "final_weight_decay",
            "must be empty with optimizer sgd",
        )

    def check_shares(self, workers: int, devices: int) -> None:
        """Raises a `UserError` unless every device has as many images of a part."""
        parts = workers * devices * self.accumulation_steps
        self.require(
            self.batch_size % parts == 0,
            "batch_size",
            f"must be a multiple of workers ({workers}) x --run.devices ({devices}) x "
            f"{self.flag('accumulation_steps')} ({self.accumulation_steps}) = {parts}",
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

    robust_every: int = setting(
        0,
        "Epochs between two measurements of the network that is trained: the best"
        " linear head on labelled images, without attack, under the attack on the"
        " embedding and under PGD at --attack.epsilon; 0 = never.",
        low=0,
    )


@dataclasses.dataclass(frozen=True)
class StartConfig(PretrainConfig):
    """How the stage `start` trains what the method starts from; DINO's defaults."""

    SECTION = "start"

    epochs: int = setting(100, "Passes over the training images.", low=1)
    batch_size: int = setting(512, "Images per update over all devices.", low=1)
    base_rate: float = setting(
        5e-4, "Peak rate at a batch of 256; scaled by batch/256.", low=0
    )
    warmup_epochs: float = setting(10.0, "Epochs of linear warm-up from 0.", low=0)
    inclusive_warmup: bool = setting(
        True, "Whether the last step of the warm-up has the peak rate already."
    )
    final_rate: float = setting(1e-6, "Rate at the end of the cosine.", low=0)
    weight_decay: float = setting(0.04, "Weight decay.", low=0)
    final_weight_decay: float | None = setting(
        0.4, "Weight decay of adamw at the end of a cosine; empty = constant.", low=0
    )
    beta_2: float = setting(
        0.999, "AdamW's second beta.", low=0, high=1, open_high=True
    )
    clip_norm: float | None = setting(
        3.0,
        "Largest l2 norm of the gradient of each tensor by itself; empty = no limit.",
        low=0,
        open_low=True,
    )


def compile_method(method: Method, config: OptimisationConfig, size: int) -> None:
    """Gives `method` its optimizer, built.

    Args:
        method: The method to train.
        config: Rates, decay and length.
        size: Number of training images.
    """
    steps_per_epoch = config.steps_per_epoch(size)
    optimizer = _make_optimizer(method, config, steps_per_epoch)
    if tf.keras.mixed_precision.global_policy().name == "mixed_float16":
        optimizer = tf.keras.mixed_precision.LossScaleOptimizer(optimizer)
    method.accumulation_steps = config.accumulation_steps
    method.compile(optimizer=optimizer)
    optimizer.build(method.trained_variables())


def _make_optimizer(method: Method, config: OptimisationConfig, steps_per_epoch: int):
    rate = _make_rate(config, steps_per_epoch)
    if config.optimizer == "sgd":
        return MomentumSGD(
            rate, config.momentum, config.weight_decay, clipnorm=config.clip_norm
        )
    decay, final = config.weight_decay, config.final_weight_decay
    if final is not None:
        decay = WarmupCosine(decay, 0, config.epochs * steps_per_epoch, final)
    optimizer = AdamW(
        rate,
        weight_decay=decay,
        beta_2=config.beta_2,
        no_decay=config.NO_DECAY,
        clipnorm=config.clip_norm,
    )
    if config.layer_decay < 1.0:
        scales = layer_rate_scales(method.rate_groups(), config.layer_decay)
        variables = [item for group in method.rate_groups() for item in group]
        optimizer.set_rate_scales(variables, scales)
    for epoch, variables in method.late_variables():
        optimizer.start_at(variables, round(epoch * steps_per_epoch))
    return optimizer


def _make_rate(config: OptimisationConfig, steps_per_epoch: int):
    """Returns the schedule of the rate over steps."""
    unit = 1 if config.rate_per_epoch else steps_per_epoch
    peak = config.peak_rate()
    if config.milestones:
        # The rate of a boundary's own step is still the one before it.
        ends = [round(epoch * unit) - 1 for epoch in config.milestones]
        rates = [peak * 0.1**index for index in range(len(ends) + 1)]
        rate = tf.keras.optimizers.schedules.PiecewiseConstantDecay(ends, rates)
    else:
        rate = WarmupCosine(
            peak,
            round(config.warmup_epochs * unit),
            config.epochs * unit,
            config.final_rate,
            config.initial_rate,
            config.inclusive_warmup,
        )
    return PerEpoch(rate, steps_per_epoch) if config.rate_per_epoch else rate
