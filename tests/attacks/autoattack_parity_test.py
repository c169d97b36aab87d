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
