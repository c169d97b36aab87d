"""Published weights, read into the models of this library."""

import os
import re

import numpy as np

from kerobust.models.checkpoint_files import read_npz
from kerobust.models.heads import Classifier
from kerobust.models.resnet import ResNet
from kerobust.models.weights import assign_named, named_weights

_TORCH = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "bias": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def load_torch_resnet(model: ResNet | Classifier, path: str | os.PathLike) -> None:
    """Gives a residual network the weights of a PyTorch one.

    Names are those of public CIFAR code: `conv1.weight`, `bn1.running_var`,
    `layer2.0.conv1.weight`, `linear.bias`. A checkpoint becomes such a file by
    `np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})`.

    Args:
        model: `ResNet`, or `Classifier` of one and a head without norm, of the depth
            and the number of classes of the file. Its mean and std must be those of
            the training; the file does not know them.
        path: An npz file without pickled objects: kernels [out, in, 3, 3], the dense
            one [classes, width].

    Raises:
        UserError: If the file is not readable, or if its names or shapes are not those
            of the model (shapes are told in the layout of Keras); nothing is assigned
            then.

    Example:
        model = Classifier(ResNet(20), ClassifierHead(10, norm=False))
        load_torch_resnet(model, "resnet20.npz")
    """
    arrays = read_npz(path).items()
    kept = {name: each for name, each in arrays if not name.endswith(_COUNTER)}
    values = {name: _keras_layout(each) for name, each in kept.items()}
    weights = {_torch_name(name): each for name, each in named_weights(model).items()}
    assign_named(weights, values, str(path))


# Counts batches for averages that this library does not take.
_COUNTER = ".num_batches_tracked"


def _torch_name(name: str) -> str:
    """Returns PyTorch's name of a variable: `stages/0/2/norm1/gamma` -> `layer1.2...`.

    Args:
        name: From `named_weights` of a `ResNet` or of a `Classifier`.
    """
    *path, leaf = name.removeprefix("encoder/").split("/")
    owner = ".".join(path).replace("norm", "bn").replace("head.dense", "linear")
    owner = re.sub(
        r"stages\.(\d+)", lambda match: f"layer{int(match.group(1)) + 1}", owner
    )
    return f"{owner}.{_TORCH[leaf]}"


def _keras_layout(values: np.ndarray) -> np.ndarray:
    """Returns kernels [out, in, ...] as [..., in, out]; other arrays as they are."""
    if values.ndim < 2:
        return values
    return np.transpose(values, [*range(2, values.ndim), 1, 0])
