"""Published weights, read into the models of this library."""

import os
import re
from collections.abc import Mapping

import numpy as np

from kerobust.models.checkpoint_files import read_npz
from kerobust.models.heads import Classifier
from kerobust.models.resnet import ResNet
from kerobust.models.resnet18 import ResNet18
from kerobust.models.torch_names import encoder_part, keras_layout
from kerobust.models.weights import assign_named, named_weights

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.247, 0.243, 0.261)
_USUAL_STEM = np.zeros([3, 3, 3, 64])
_TORCH = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "bias": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_OWNERS = {
    "shortcut_norm": "downsample.1",
    "shortcut": "downsample.0",
    "norm": "bn",
    "head.dense": "linear",
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
    values = {name: keras_layout(each) for name, each in kept.items()}
    weights = {_torch_name(name): each for name, each in named_weights(model).items()}
    assign_named(weights, values, str(path))


def load_resnet18(
    state: Mapping[str, np.ndarray],
    *,
    mean: tuple[float, ...] = CIFAR10_MEAN,
    std: tuple[float, ...] = CIFAR10_STD,
    stem_padding: int = 2,
) -> ResNet18:
    """Returns the ResNet-18 whose weights a PyTorch `state_dict` holds.

    Names are those of solo-learn and DeACL (`layer2.0.downsample.0.weight`) or of
    public CIFAR code (`layer2.0.shortcut.0.weight`), with or without `backbone.` or
    `encoder.` before them; classifiers and projectors are left out (`ignored_names`).

    Args:
        state: Arrays by name.
        mean, std: Channel normalisation of the training, which the weights do not know:
            those of CIFAR-10 as DeACL has them.
        stem_padding: That of the training, see `ResNet18`; the weights fit any.

    Raises:
        UserError: If names are missing or unexpected, or shapes are others (told in the
            layout of Keras).
    """
    inside, _ = encoder_part(state, "deacl")
    values = {
        name.replace(".shortcut.", ".downsample."): keras_layout(
            np.asarray(each, np.float32)
        )
        for name, each in inside.items()
    }
    stem = values.get("conv1.weight", _USUAL_STEM)
    stem = stem if stem.ndim == 4 else _USUAL_STEM
    encoder = ResNet18(
        mean=mean,
        std=std,
        channels=stem.shape[-2],
        stem_padding=stem_padding,
        widths=tuple(stem.shape[-1] * 2**stage for stage in range(4)),
    )
    weights = {_torch_name(name): each for name, each in named_weights(encoder).items()}
    assign_named(weights, values, "deacl weights")
    return encoder


# Counts batches for averages that this library does not take.
_COUNTER = ".num_batches_tracked"


def _torch_name(name: str) -> str:
    """Returns PyTorch's name of a variable: `stages/0/2/norm1/gamma` -> `layer1.2...`.

    Args:
        name: From `named_weights` of a `ResNet`, a `ResNet18` or a `Classifier`.
    """
    *path, leaf = name.removeprefix("encoder/").split("/")
    owner = ".".join(path)
    for ours, theirs in _OWNERS.items():
        owner = owner.replace(ours, theirs)
    owner = re.sub(
        r"stages\.(\d+)", lambda match: f"layer{int(match.group(1)) + 1}", owner
    )
    return f"{owner}.{_TORCH[leaf]}"
