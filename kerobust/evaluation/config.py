"""What an evaluation does: the attacks, the images and the features of probes."""

import dataclasses

from kerobust.attacks import ATTACKS, AttackConfig
from kerobust.attacks.members import MEMBERS
from kerobust.config import Config, setting
from kerobust.models.heads import POOLINGS

SUITES = {"autoattack": "standard", "autoattack-plus": "plus"}
EMBED = "embed"  # Attacks the encoder's representation; the classifier only judges.
MORA = "mora"  # Attacks an ensemble through its members.
NAMES = tuple(dict.fromkeys((*ATTACKS, EMBED, MORA, *SUITES, *MEMBERS)))
# Attack -> what a model must have for it, and what it is if it has not.
NEEDS = {
    EMBED: ("encoder", "without an encoder"),
    MORA: ("member_logits", "no ensemble"),
}


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(Config):
    """Which attacks a classifier must withstand, and on what."""

    SECTION = "evaluate"

    attacks: tuple[str, ...] = setting(
        ("fgsm", "pgd", "momentum_pgd"),
        "Attacks; an example counts as robust if it withstands all of them. embed is"
        " PGD on the distance of the encoder's class token from its clean one, blind to"
        " the head. mora attacks ensembles through their members. autoattack"
        " (and -plus) and its members keep their own steps and queries.",
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
    represent: bool = setting(
        False,
        "Whether the encoders are examined too: the attack on the representation,"
        " nearest neighbours, attention; settings under --represent.",
    )
    diversity: bool = setting(
        True,
        "Whether ensembles are examined too: transfer between members and what they"
        " share; settings under --diversity.",
    )

    def __post_init__(self):
        super().__post_init__()
        names = self.attacks
        self.require(
            len(names) > 0 and len(set(names)) == len(names),
            "attacks",
            "must name at least one attack, and each only once",
        )


@dataclasses.dataclass(frozen=True)
class RepresentConfig(Config):
    """How representations are attacked and compared, see `--evaluate.represent`."""

    SECTION = "represent"

    epsilons: tuple[float, ...] = setting(
        (),
        "Radii in the threat's norm; empty = 1/8, 1/4 and 1/2 of its epsilon. The"
        " epsilon itself is always added.",
        low=0,
    )
    l2_epsilons: tuple[float, ...] = setting(
        (), "Radii at which the same attack is made in l2 as well.", low=0
    )
    limit: int = setting(
        1000, "Attack this many of the evaluated images, evenly spread.", low=1
    )
    neighbours: tuple[int, ...] = setting(
        (10, 20, 100, 200),
        "Numbers of nearest neighbours that vote; at most as many as there are.",
        low=1,
    )
    temperature: float = setting(
        0.07,
        "Temperature of the votes; lower = closer neighbours count more.",
        low=0,
        open_low=True,
    )
    maps: int = setting(
        3, "Images whose attention is shown, clean and attacked.", low=0
    )

    def radii(self, threat: AttackConfig) -> list[tuple[str, float]]:
        """Returns (norm, epsilon) of every attack, that of the threat among them."""
        chosen = self.epsilons or tuple(threat.epsilon / part for part in (8, 4, 2))
        pairs = {(threat.norm, float(each)) for each in (*chosen, threat.epsilon)}
        return sorted(pairs | {("l2", float(each)) for each in self.l2_epsilons})
