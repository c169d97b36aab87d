"""Signs that an encoder stops telling images apart, with what to do about them."""

import math

from kerobust.training.monitors import Monitor

SPREAD = Monitor(
    "feature_spread",
    0.01,
    math.inf,
    "the embeddings of all images point the same way",
    "lower --pretrain.base_rate, lengthen --pretrain.warmup_epochs, or lower the "
    "epsilon of the attack; with a moving teacher try other --dino.teacher_momentum.",
)
RANK = Monitor(
    "feature_rank",
    1.05,
    math.inf,
    "the embeddings vary along one direction only",
    "lower --pretrain.base_rate, raise --dino.prototypes, or use larger batches.",
)


def entropy_monitor(prototypes: int) -> Monitor:
    """Returns the limits of the entropy of a teacher that chooses among prototypes.

    References:
        The remedies are those of the authors of DINO in the issues of their code.
    """
    return Monitor(
        "teacher_entropy",
        0.05,
        0.99 * math.log(prototypes),
        "the teacher answers the same to every image (one prototype, or all of them "
        "alike)",
        "at the upper limit lower --dino.teacher_temperature (0.02), at the lower one "
        "raise it (0.07) or lower --dino.centre_momentum; try "
        "--dino.teacher_momentum=0.99 or 0.9995 and larger batches.",
    )
