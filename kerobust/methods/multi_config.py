"""Settings of `multi`."""

import dataclasses
from typing import Any, ClassVar

from kerobust.attacks import MSD, PGD, Attack
from kerobust.config import setting
from kerobust.methods.adversaries import COMBINE, PARTS, TYPES
from kerobust.methods.frozen_teacher import FrozenTeacherConfig
from kerobust.methods.multipliers import KINDS


@dataclasses.dataclass(frozen=True)
class MultiConfig(FrozenTeacherConfig):
    """The attacks, the constraints and the average of `multi`."""

    SECTION = "multi"

    norm: ClassVar[str] = "linf"  # type: ignore[misc]  # `norms` stands in its place.
    tokens: str = setting(
        "both",
        "What is made robust and held in place: cls, patches, or both by halves.",
        choices=PARTS,
    )
    distance: str = setting(
        "mse",
        "How far tokens are apart: mse, or whitened (in units of the spread of the"
        " teacher's clean tokens, in every direction).",
        choices=("mse", "whitened"),
    )
    shrinkage: float = setting(
        0.1,
        "For whitened: a spread that is added in all directions, in means of theirs.",
        low=0,
        open_low=True,
    )
    attacks: tuple[str, ...] = setting(
        (),
        "What the attacks move: cls, patches, both (by halves); empty = all three, or"
        " with --multi.tokens=cls or patches that alone.",
        choices=PARTS,
    )
    norms: tuple[str, ...] = setting(
        ("linf",), "Norms of each attack.", choices=("linf", "l2", "l1")
    )
    l2_epsilon: float = setting(0.5, "Radius of l2, pixel units.", low=0)
    l1_epsilon: float = setting(12.0, "Radius of l1, pixel units.", low=0)
    steps: int = setting(10, "Steps of each attack.", low=1)
    step_size: float | None = setting(
        None,
        "Step in linf, pixel units; empty = 2.5 epsilon / steps, as in l2 and l1.",
        low=0,
    )
    combine: str = setting(
        "random",
        "random: one attack per batch, drawn; average: all, their losses averaged;"
        " maximum: of each image the attack that moves it farthest; msd: as random, the"
        " norms united in one search (MSD).",
        choices=COMBINE,
    )
    probabilities: tuple[float, ...] = setting(
        (0.25, 0.5, 0.25),
        "Relative chances of the attacks on cls, patches and both, for random and msd;"
        " those that are not in use do not count, norms share theirs equally.",
        low=0,
    )
    heads: tuple[str, ...] = setting(
        (),
        "Bundles of heads on the teacher, as the stage benchmark writes them"
        " (benchmark/DATA/ENCODER/TASK): each is attacked as one more way, by PGD,"
        " SegPGD or DepthPGD. Targets are its answers to the teacher's clean tokens.",
    )
    head_chance: float = setting(
        0.25, "Relative chance of each of --multi.heads, for random and msd.", low=0
    )
    constraint: str = setting(
        "adaptive",
        "Weight of the clean tokens' drift: adaptive (a network of the teacher's class"
        " token), scalar (one number per token type), fixed (--multi.weight) or none.",
        choices=KINDS,
    )
    weight: float = setting(1.0, "Weight of the drift for fixed.", low=0)
    rho_cls: float = setting(
        0.05, "Drift that class tokens may have, in mean squares of theirs.", low=0
    )
    rho_patches: float = setting(
        0.05, "Drift that patch tokens may have, in mean squares of theirs.", low=0
    )
    dual_width: int = setting(512, "Hidden width of the network of adaptive.", low=1)
    dual_rate: float = setting(5e-4, "Rate at which multipliers are raised.", low=0)
    dual_every: int = setting(
        5, "Updates of the encoder per update of multipliers.", low=1
    )
    warmup_share: float = setting(
        0.1, "Share of training over which all radii rise from 0.", low=0, high=1
    )
    ema: float = setting(
        0.999,
        "Momentum of the average of the weights that is exported; 0 = none, the last"
        " weights.",
        low=0,
        high=1,
        open_high=True,
    )

    def __post_init__(self):
        super().__post_init__()
        self._require_names("attacks", "both")
        self._require_names("norms", "linf")
        self.require(bool(self.norms), "norms", "must name a norm", "Try linf.")
        self.require(
            self.step_size is None or "linf" in self.norms,
            "step_size",
            f"must be empty unless {self.flag('norms')} holds linf, whose step it is",
            "Leave it empty: other norms take 2.5 epsilon / steps.",
        )
        for norm, radius in self.radii.items():
            name = "epsilon" if norm == "linf" else f"{norm}_epsilon"
            expectation = f"must be above 0 while {self.flag('norms')} holds {norm}"
            self.require(radius > 0, name, expectation, f"Leave {norm} out instead.")
        self.require(
            len(self.probabilities) == len(PARTS)
            and sum(self.chances[part] for part in self.parts) > 0,
            "probabilities",
            "must be three numbers, of cls, patches and both in this order, one of "
            f"those in use ({', '.join(self.parts)}) above 0",
            "Those of attacks that are not in use may have any value.",
        )

    def _require_names(self, name: str, example: str) -> None:
        values = getattr(self, name)
        expectation = "must hold each name once"
        fix = f"Leave the second one out, as in {self.flag(name)}={example}."
        self.require(len(set(values)) == len(values), name, expectation, fix)

    @property
    def parts(self) -> tuple[str, ...]:
        """What the attacks move."""
        default = PARTS if self.tokens == "both" else (self.tokens,)
        return self.attacks or default

    @property
    def types(self) -> tuple[str, ...]:
        """The token types that are trained."""
        return TYPES if self.tokens == "both" else (self.tokens,)

    @property
    def chances(self) -> dict[str, float]:
        """Relative chance by what an attack moves."""
        return dict(zip(PARTS, self.probabilities, strict=False))

    @property
    def radii(self) -> dict[str, float]:
        """Radius by norm."""
        known = {"linf": self.epsilon, "l2": self.l2_epsilon, "l1": self.l1_epsilon}
        return {norm: known[norm] for norm in self.norms}

    @property
    def lengths(self) -> dict[str, float | None]:
        """Length of a step by norm; None = 2.5 radius / steps."""
        return {n: self.step_size if n == "linf" else None for n in self.norms}

    def searches(self, kind: type[PGD] = PGD) -> list[Attack]:
        """Returns the attacks for one objective: one per norm, or MSD alone."""
        given: dict[str, Any] = {"steps": self.steps, "random_start": True}
        if self.combine == "msd":
            rule = min(2.5 / self.steps, 1.0)
            sizes = {
                norm: rule * self.radii[norm] if length is None else length
                for norm, length in self.lengths.items()
            }
            return [MSD(self.radii, step_sizes=sizes, **given)]
        return [
            kind(radius, norm=norm, step_size=self.lengths[norm], **given)
            for norm, radius in self.radii.items()
        ]
