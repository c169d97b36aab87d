"""Evaluation: attacks on classifiers, probes of encoders, statistics, reports."""

from kerobust.evaluation.attention import attention_maps, attention_panel
from kerobust.evaluation.config import EvaluateConfig, RepresentConfig
from kerobust.evaluation.diversity import (
    Diversity,
    DiversityConfig,
    VulnerabilityDiversity,
    vulnerability_diversity,
)
from kerobust.evaluation.evaluator import Evaluator, evaluate
from kerobust.evaluation.knn import knn_predict
from kerobust.evaluation.linear import fit_linear
from kerobust.evaluation.metrics import McNemar, mcnemar, paired_bootstrap, wilson
from kerobust.evaluation.online import OnlineKnn
from kerobust.evaluation.plots import amplify, panel
from kerobust.evaluation.report import compare, row, table, write_report
from kerobust.evaluation.representation import Representation
from kerobust.evaluation.results import Evaluation
from kerobust.evaluation.transfer import TransferMatrix, transfer_matrix

__all__ = [
    "Diversity",
    "DiversityConfig",
    "EvaluateConfig",
    "Evaluation",
    "Evaluator",
    "McNemar",
    "OnlineKnn",
    "RepresentConfig",
    "Representation",
    "TransferMatrix",
    "VulnerabilityDiversity",
    "amplify",
    "attention_maps",
    "attention_panel",
    "compare",
    "evaluate",
    "fit_linear",
    "knn_predict",
    "mcnemar",
    "paired_bootstrap",
    "panel",
    "row",
    "table",
    "transfer_matrix",
    "vulnerability_diversity",
    "wilson",
    "write_report",
]
