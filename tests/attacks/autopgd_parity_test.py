"""Auto-PGD against the original implementation, started at the images themselves."""

import numpy as np
import pytest

from kerobust.attacks import DLR, AutoPGD, CrossEntropy, TargetedDLR
from tests.attacks.victims import convnet, digits, golden

LOSSES = {"ce": CrossEntropy, "dlr": DLR, "dlr-targeted": TargetedDLR}
RADII = {"Linf": 0.2, "L2": 0.5, "L1": 4.0}
FAST, SLOW = 22, (5, 23, 50, 100)
STEPS = [FAST, *(pytest.param(steps, marks=pytest.mark.slow) for steps in SLOW)]


@pytest.fixture(scope="module")
def network():
    return convnet()


@pytest.fixture(scope="module")
def reference():
    return golden("attacks_suite")


def targets_for(loss, labels, reference):
    if loss != "dlr-targeted":
        return labels
    return {"labels": labels, "goals": reference["target_top_other"]}


def without_success(kind, network):
    """Returns the objective with no notion of success: the largest value is best."""

    class Valued(kind):
        def fooled(self, outputs, targets):
            return None

    return Valued(network)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("steps", STEPS)
def test_finds_what_the_original_finds(network, reference, norm, loss, steps):
    images, labels = digits()
    targets = targets_for(loss, labels, reference)
    name = f"apgd_{norm}_eps{RADII[norm]}_{loss}_n{steps}_initclean"
    attack = AutoPGD(
        RADII[norm], norm=norm, steps=steps, random_start=False, compat=True
    )

    _, info = attack(images, targets, LOSSES[loss](network), return_info=True)

    same = info.success.numpy() == ~reference[f"{name}__robust"]
    assert same.mean() >= 0.99


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("steps", STEPS)
def test_climbs_as_high_as_the_original(network, reference, norm, steps):
    images, labels = digits()
    name = f"apgd_{norm}_eps{RADII[norm]}_ce_n{steps}_initclean"
    attack = AutoPGD(
        RADII[norm], norm=norm, steps=steps, random_start=False, compat=True
    )

    adversarial, info = attack(
        images, labels, without_success(CrossEntropy, network), return_info=True
    )

    difference = np.abs(info.loss - reference[f"{name}__loss_best"])
    assert (difference <= 1e-2).mean() >= 0.99
    if steps == 5:  # Later, rounding decides between points of one height.
        distance = np.abs(adversarial - reference[f"{name}__x_best"])
        assert (distance.max(axis=(1, 2, 3)) <= 1e-4).mean() >= 0.99
