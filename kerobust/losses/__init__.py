"""Loss functions that are not in Keras."""

from kerobust.losses.dependence import (
    ESTIMATORS,
    HSIC,
    NormalizedHSIC,
    RenyiMutualInformation,
    chunk_mean,
)
from kerobust.losses.depth import gradient_loss, sig_loss
from kerobust.losses.pixels import pixel_cross_entropy
from kerobust.losses.reconstruction import normalise_patches, reconstruction_error

__all__ = [
    "ESTIMATORS",
    "HSIC",
    "NormalizedHSIC",
    "RenyiMutualInformation",
    "chunk_mean",
    "gradient_loss",
    "normalise_patches",
    "pixel_cross_entropy",
    "reconstruction_error",
    "sig_loss",
]
