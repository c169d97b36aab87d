"""The attack inside a training step that moves an embedding."""

import dataclasses

from kerobust.attacks import PGD
from kerobust.config import Config, setting


@dataclasses.dataclass(frozen=True)
class InnerAttackConfig(Config):
    """Ball and steps; methods override the defaults that their papers set."""

    norm: str = setting("linf", "Norm of the attack.", choices=("linf", "l2", "l1"))
    epsilon: float = setting(
        8 / 255,
        "Radius of the attack, pixel units of images in [0, 1].",
        low=0,
        hint="Images lie in [0, 1]: did you mean 8/255?",
    )
    steps: int = setting(10, "Steps of the attack.", low=1)
    step_size: float | None = setting(
        None, "Step of the attack, pixel units; empty = 2.5 epsilon / steps.", low=0
    )

    def attack(self) -> PGD:
        """Returns the attack, which starts at random.

        At the clean image the gradient of a distance from it is zero.
        """
        return PGD(
            self.epsilon,
            norm=self.norm,
            steps=self.steps,
            step_size=self.step_size,
            random_start=True,
        )
