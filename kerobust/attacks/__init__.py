"""Attacks as Keras layers: an objective to climb, a ball to stay in, a way to climb."""

from kerobust.attacks.attacked import Attacked
from kerobust.attacks.autoattack import AutoAttack
from kerobust.attacks.autopgd import AutoPGD
from kerobust.attacks.balls import BALLS, L1Ball, L2Ball, LinfBall, NormBall
from kerobust.attacks.base import Attack
from kerobust.attacks.config import AttackConfig
from kerobust.attacks.curve import SecurityCurve, security_curve
from kerobust.attacks.dense import DepthError, DepthPGD, PixelCrossEntropy, SegPGD
from kerobust.attacks.dense_losses import (
    DepthMeasure,
    JensenShannon,
    MaskedCrossEntropy,
)
from kerobust.attacks.diagnostics import diagnose
from kerobust.attacks.diverse import DiversePGD
from kerobust.attacks.embed import EmbedAttack
from kerobust.attacks.embedding import TokenDistance, TokenMatch, whitening_of
from kerobust.attacks.fab import FAB
from kerobust.attacks.gradient import FGSM, PGD, DecayingPGD, MomentumPGD
from kerobust.attacks.margins import (
    DLR,
    LegacyMargin,
    TargetedCrossEntropy,
    TargetedDLR,
    TargetedMargin,
    ranked_goals,
)
from kerobust.attacks.masking.findings import Finding, MaskingError
from kerobust.attacks.mora import Mora
from kerobust.attacks.msd import MSD
from kerobust.attacks.multinorm import MultiNorm, MultiNormReport
from kerobust.attacks.objectives import (
    CosineDistance,
    CrossEntropy,
    FeatureDistance,
    FeatureMatch,
    LogitMargin,
    Objective,
    SoftCrossEntropy,
)
from kerobust.attacks.reweighted import ReweightedEnsemble
from kerobust.attacks.sparse import SparsePGD
from kerobust.attacks.square import Square
from kerobust.attacks.stochastic import Averaged, Bpda
from kerobust.attacks.suite_report import AutoAttackReport
from kerobust.attacks.union import Union
from kerobust.attacks.union_ball import UnionBall
from kerobust.types import AttackInfo

ATTACKS = {
    "fgsm": FGSM,
    "pgd": PGD,
    "momentum_pgd": MomentumPGD,
    "decaying_pgd": DecayingPGD,
    "autopgd": AutoPGD,
    "fab": FAB,
    "square": Square,
}

__all__ = [
    "ATTACKS",
    "BALLS",
    "DLR",
    "FAB",
    "FGSM",
    "MSD",
    "PGD",
    "Attack",
    "AttackConfig",
    "AttackInfo",
    "Attacked",
    "AutoAttack",
    "AutoAttackReport",
    "AutoPGD",
    "Averaged",
    "Bpda",
    "CosineDistance",
    "CrossEntropy",
    "DecayingPGD",
    "DepthError",
    "DepthMeasure",
    "DepthPGD",
    "DiversePGD",
    "EmbedAttack",
    "FeatureDistance",
    "FeatureMatch",
    "Finding",
    "JensenShannon",
    "L1Ball",
    "L2Ball",
    "LegacyMargin",
    "LinfBall",
    "LogitMargin",
    "MaskedCrossEntropy",
    "MaskingError",
    "MomentumPGD",
    "Mora",
    "MultiNorm",
    "MultiNormReport",
    "NormBall",
    "Objective",
    "PixelCrossEntropy",
    "ReweightedEnsemble",
    "SecurityCurve",
    "SegPGD",
    "SoftCrossEntropy",
    "SparsePGD",
    "Square",
    "TargetedCrossEntropy",
    "TargetedDLR",
    "TargetedMargin",
    "TokenDistance",
    "TokenMatch",
    "Union",
    "UnionBall",
    "diagnose",
    "ranked_goals",
    "security_curve",
    "whitening_of",
]
