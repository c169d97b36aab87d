"""What an evaluation does: the attacks, the images and the features of probes."""

import dataclasses

from kerobust.attacks import ATTACKS
from kerobust.attacks.members import MEMBERS
from kerobust.config import Config, setting
from kerobust.models.heads import POOLINGS

SUITES = {"autoattack": "standard", "autoattack-plus": "plus"}
EMBED = "embed"  # Attacks the encoder's representation; the classifier only judges.
NAMES = tuple(dict.fromkeys((*ATTACKS, EMBED, *SUITES, *MEMBERS)))


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(Config):
    """Which attacks a classifier must withstand, and on what."""

    SECTION = "evaluate"

    attacks: tuple[str, ...] = setting(
        ("fgsm", "pgd", "momentum_pgd"),
        "Attacks; an example counts as robust if it withstands all of them. embed is"
        " PGD on the distance of the encoder's class token from its clean one, blind to"
        " the head. autoattack (and -plus) and its members keep their own steps and"
        " queries.",
        choices=NAMES,
    )
    steps: int = setting(20, "Steps of the iterative attacks.", low=1)
    restarts: int = setting(2, "Random restarts of pgd.", low=1)
    batch_size: int = setting(256, "Images per batch; does not change results.", low=1)
    diagnose: bool = setting(
        True,
        "Whether signs of masked gradients are looked for, on 64 of the images.",
    )
    curve: bool = setting(
        True, "Whether attacks are also run at other radii than the threat's."
    )
    curve_attacks: tuple[str, ...] = setting(
        ("pgd",),
        "Attacks with a curve: pgd, embed or both.",
        choices=("pgd", EMBED),
    )
    every_curve: bool = setting(
        False, "Whether every network gets a curve, not only the first."
    )
    epsilons: tuple[float, ...] = setting(
        (),
        "Radii of the curve, in units of the threat's norm; empty = 1/4, 1/2, 1 and"
        " 2 times epsilon. 0 and the radius of a plain grey image are always added.",
        low=0,
    )
    split: str = setting(
        "test",
        "Images to evaluate; choose settings on validation, never on test.",
        choices=("validation", "test"),
    )
    limit: int | None = setting(
        None, "Evaluate this many images, evenly spread; empty = all.", low=1
    )
    seed: int = setting(0, "Seed of the attacks' random starts.", low=0)
    features: str = setting(
        "mean",
        "What linear probes read: the mean of the patch tokens; cls, the class token;"
        " cls_mean, both (DINO's ViT-B); last4_cls, the class tokens of the last four"
        " blocks (DINO's ViT-S).",
        choices=POOLINGS,
    )

    def __post_init__(self):
        super().__post_init__()
        names = self.attacks
        self.require(
            len(names) > 0 and len(set(names)) == len(names),
            "attacks",
            "must name at least one attack, and each only once",
        )
