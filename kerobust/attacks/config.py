"""The threat model of a run."""

import dataclasses

from kerobust.config import Config, setting


@dataclasses.dataclass(frozen=True)
class AttackConfig(Config):
    """How far an attacker may move an image, in which norm."""

    SECTION = "attack"

    epsilon: float = setting(
        8 / 255, "Radius of the norm ball, pixel units with images in [0, 1].", low=0
    )
    norm: str = setting(
        "linf",
        "linf: largest change of a pixel; l2: Euclidean length of all changes; l1: sum"
        " of all absolute changes.",
        choices=("linf", "l2", "l1"),
    )

    def __post_init__(self):
        super().__post_init__()
        self.require(
            self.norm != "linf" or self.epsilon <= 1,
            "epsilon",
            "must be at most 1 for norm linf",
            "Images lie in [0, 1]: did you mean 8/255?",
        )
        self.require(
            self.norm == "linf" or self.epsilon != type(self).epsilon,
            "epsilon",
            f"must be given for norm {self.norm}: its default is meant for linf",
            "A usual radius of 32 x 32 images is 0.5 in l2 and 12 in l1.",
        )
