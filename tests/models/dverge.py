"""DVERGE's ResNet-20 with the weights of its goldens (`fill` of dverge.json)."""

import tempfile

import numpy as np

from kerobust.models import Classifier, ClassifierHead, ResNet, load_torch_resnet
from tests.models.filled import fill

SHA256 = "d05105e75e23e15a504c918cdcf15bd2284da70f33f27e9454ade1ee99344f67"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
WIDTHS = (16, 32, 64)
# Of the three members in V4; the golden does not tell, but its twelve numbers do.
PHASES = (0.31, 0.47, 0.59)


def resnet20(phase: float = PHASES[0]) -> Classifier:
    """Returns the network, filled with a phase."""
    encoder = ResNet(20, mean=MEAN, std=STD, shortcut="projection")
    model = Classifier(encoder, ClassifierHead(10, norm=False))
    values = fill(_order(), phase)
    for name in [name for name in values if name.endswith("weight")]:
        if values[name].ndim == 1:
            owner = name.removesuffix(".weight")
            values[f"{owner}.running_mean"] = np.zeros_like(values[name])
            values[f"{owner}.running_var"] = np.ones_like(values[name])
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        np.savez(file, **values)
        file.flush()
        load_torch_resnet(model, file.name)
    return model


def _order() -> list:
    """(name, shape) of every parameter, in the order in which PyTorch keeps them."""
    found = [["conv1.weight", [16, 3, 3, 3]], *_norm("bn1", 16)]
    before = 16
    for stage, width in enumerate(WIDTHS):
        for block in range(3):
            owner = f"layer{stage + 1}.{block}"
            found.append([f"{owner}.conv1.weight", [width, before, 3, 3]])
            found += _norm(f"{owner}.bn1", width)
            found.append([f"{owner}.conv2.weight", [width, width, 3, 3]])
            found += _norm(f"{owner}.bn2", width)
            if width != before:
                found.append([f"{owner}.downsample.0.weight", [width, before, 1, 1]])
                found += _norm(f"{owner}.downsample.1", width)
            before = width
    return [*found, ["linear.weight", [10, 64]], ["linear.bias", [10]]]


def _norm(owner: str, width: int) -> list:
    return [[f"{owner}.weight", [width]], [f"{owner}.bias", [width]]]
