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
from kerobust.evaluation.online import OnlineKnn, OnlineLinear
from kerobust.evaluation.plots import amplify, panel
from kerobust.evaluation.probes import fit_heads, linear_probe, whole_image
from kerobust.evaluation.report import compare, row, table, write_report
from kerobust.evaluation.representation import Representation
from kerobust.evaluation.results import Evaluation
from kerobust.evaluation.task_config import BenchmarkConfig
from kerobust.evaluation.task_evaluator import TaskEvaluator
from kerobust.evaluation.task_results import Probed, TaskResults
from kerobust.evaluation.transfer import TransferMatrix, transfer_matrix

__all__ = [
    "BenchmarkConfig",
    "Diversity",
    "DiversityConfig",
    "EvaluateConfig",
    "Evaluation",
    "Evaluator",
    "McNemar",
    "OnlineKnn",
    "OnlineLinear",
    "Probed",
    "RepresentConfig",
    "Representation",
    "TaskEvaluator",
    "TaskResults",
    "TransferMatrix",
    "VulnerabilityDiversity",
    "amplify",
    "attention_maps",
    "attention_panel",
    "compare",
    "evaluate",
    "fit_heads",
    "fit_linear",
    "knn_predict",
    "linear_probe",
    "mcnemar",
    "paired_bootstrap",
    "panel",
    "row",
    "table",
    "transfer_matrix",
    "vulnerability_diversity",
    "whole_image",
    "wilson",
    "write_report",
]
