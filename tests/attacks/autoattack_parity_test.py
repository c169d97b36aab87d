"""AutoAttack on the embedded network against what the original finds there."""

import numpy as np
import pytest

from kerobust.attacks import AutoAttack
from tests.attacks.victims import convnet, digits

pytestmark = pytest.mark.slow

# (norm, epsilon) -> robust accuracy under the whole suite, and how near to it.
SUITE = {
    ("linf", 0.1): (0.855, 0.015),
    ("linf", 0.2): (0.462, 0.015),
    ("linf", 0.25): (0.117, 0.015),
    ("l2", 0.5): (0.750, 0.015),
    ("l1", 0.5): (0.890, 0.02),
}
# Robust accuracy under each member alone: fra31/auto-attack a392200, PyTorch 2.13, one
# core, 2026-11-25; apgd-ce is the mean of seeds 0, 1 and 2, the others seed 0.
MEMBERS = {
    ("linf", 0.2): {"apgd-ce": 0.495, "apgd-t": 0.465, "fab-t": 0.48, "square": 0.56},
    ("l2", 0.5): {"apgd-ce": 0.76, "apgd-t": 0.75, "fab-t": 0.765, "square": 0.83},
    ("l1", 0.5): {"apgd-ce": 0.895, "apgd-t": 0.9, "fab-t": 0.895, "square": 0.945},
}


@pytest.fixture(scope="module")
def network():
    return convnet()


@pytest.mark.parametrize(("norm", "epsilon"), SUITE)
def test_the_suite_leaves_what_the_original_leaves(network, norm, epsilon):
    images, labels = digits()
    expected, tolerance = SUITE[norm, epsilon]
    suite = AutoAttack(epsilon, norm)

    report = suite.evaluate(
        network, images, labels, diagnose=False, return_adversarial=True
    )

    assert report.suite["standard"] and report.clean_accuracy == 0.98
    assert abs(report.robust_accuracy - expected) <= tolerance
    # Below the reference counts only if it stayed in the ball.
    change = (report.adversarial - images).reshape(200, -1)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    sizes = np.linalg.norm(change.astype(np.float64), order, axis=1)
    assert sizes.max() <= epsilon * (1 + 1e-5)
    assert report.adversarial.min() >= 0 and report.adversarial.max() <= 1
    fooled = network(report.adversarial).numpy().argmax(axis=1) != labels
    np.testing.assert_array_equal(fooled, ~report.robust)


@pytest.mark.parametrize(("norm", "epsilon"), MEMBERS)
def test_no_member_is_weaker_than_the_original_alone(network, norm, epsilon):
    images, labels = digits()

    found = {
        name: AutoAttack(epsilon, norm, "custom", attacks=[name])
        .evaluate(network, images, labels, diagnose=False)
        .robust_accuracy
        for name in MEMBERS[norm, epsilon]
        if (norm, name) != ("l1", "apgd-ce")
    }
    if norm == "l1":  # Five restarts in the standard suite.
        suite = AutoAttack(epsilon, norm, "custom", attacks={"apgd-ce": 5})
        report = suite.evaluate(network, images, labels, diagnose=False)
        found["apgd-ce"] = report.robust_accuracy

    for name, accuracy in MEMBERS[norm, epsilon].items():
        assert found[name] <= accuracy + 0.02, name
