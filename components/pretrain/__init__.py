"""A robust encoder, or an ensemble, by `--method`."""

from .component import Pretrain, PretrainEnsemble

__all__ = ["Pretrain", "PretrainEnsemble"]
