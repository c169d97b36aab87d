"""FARE: a robust copy of an encoder that stays where the original is."""

import dataclasses

import tensorflow as tf

from kerobust.attacks import FeatureDistance
from kerobust.config import setting
from kerobust.losses.similarity import squared_distance
from kerobust.methods.base import Batch
from kerobust.methods.frozen_teacher import FrozenTeacher, FrozenTeacherConfig


@dataclasses.dataclass(frozen=True)
class FareConfig(FrozenTeacherConfig):
    """The attack of FARE; the defaults are those of its code at 4/255."""

    SECTION = "fare"

    epsilon: float = setting(4 / 255, "Radius of the attack, pixel units.", low=0)
    steps: int = setting(10, "Steps of the attack.", low=1)
    step_size: float | None = setting(
        1 / 255, "Step of the attack, pixel units; empty = 2.5 epsilon / steps.", low=0
    )


class Fare(FrozenTeacher):
    """Keeps the embedding of attacked images at the original embedding.

    L = mean ||f_S(x') - f_T(x)||^2 (the sum over coordinates), x' maximises the same
    distance; there is no clean term.

    References:
        Schlarmann et al., 2024, arXiv:2402.12336, equation 4, and its code.

    Differences:
        The random start is clipped to [0, 1] before the first gradient.
    """

    TERMS = ("adversarial",)
    SECTION = "fare"

    def __init__(self, student, teacher, config: FareConfig, **kwargs):
        super().__init__(student, teacher, config, **kwargs)
        self.attack = config.attack()
        self.objective = FeatureDistance(lambda images: self.embed(student, images))

    def loss_terms(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        adversarial = self.embed(
            self.encoder, batch["adversarial"], training, batch["keys"]
        )
        self.measure_adversarial(adversarial, batch["target"])
        distance = squared_distance(adversarial, batch["target"])
        return {"adversarial": tf.reduce_mean(distance)}
