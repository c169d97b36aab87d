"""Loss functions that are not in Keras."""

from kerobust.losses.dependence import (
    ESTIMATORS,
    HSIC,
    NormalizedHSIC,
    RenyiMutualInformation,
    chunk_mean,
)
from kerobust.losses.reconstruction import normalise_patches, reconstruction_error

__all__ = [
    "ESTIMATORS",
    "HSIC",
    "NormalizedHSIC",
    "RenyiMutualInformation",
    "chunk_mean",
    "normalise_patches",
    "reconstruction_error",
]
