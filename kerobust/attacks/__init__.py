"""Attacks as Keras layers: an objective to climb, a ball to stay in, a way to climb."""

from kerobust.attacks.attacked import Attacked
from kerobust.attacks.balls import BALLS, L1Ball, L2Ball, LinfBall, NormBall
from kerobust.attacks.base import Attack
from kerobust.attacks.config import AttackConfig
from kerobust.attacks.curve import SecurityCurve, security_curve
from kerobust.attacks.gradient import FGSM, PGD, MomentumPGD
from kerobust.attacks.margins import (
    DLR,
    TargetedCrossEntropy,
    TargetedDLR,
    TargetedMargin,
    ranked_goals,
)
from kerobust.attacks.msd import MSD
from kerobust.attacks.objectives import (
    CosineDistance,
    CrossEntropy,
    FeatureDistance,
    LogitMargin,
    Objective,
    SoftCrossEntropy,
)
from kerobust.attacks.sparse import SparsePGD
from kerobust.attacks.stochastic import Averaged, Bpda
from kerobust.attacks.union import Union
from kerobust.attacks.union_ball import UnionBall
from kerobust.types import AttackInfo

ATTACKS = {"fgsm": FGSM, "pgd": PGD, "momentum_pgd": MomentumPGD}

__all__ = [
    "ATTACKS",
    "BALLS",
    "DLR",
    "FGSM",
    "MSD",
    "PGD",
    "Attack",
    "AttackConfig",
    "AttackInfo",
    "Attacked",
    "Averaged",
    "Bpda",
    "CosineDistance",
    "CrossEntropy",
    "FeatureDistance",
    "L1Ball",
    "L2Ball",
    "LinfBall",
    "LogitMargin",
    "MomentumPGD",
    "NormBall",
    "Objective",
    "SecurityCurve",
    "SoftCrossEntropy",
    "SparsePGD",
    "TargetedCrossEntropy",
    "TargetedDLR",
    "TargetedMargin",
    "Union",
    "UnionBall",
    "ranked_goals",
    "security_curve",
]
