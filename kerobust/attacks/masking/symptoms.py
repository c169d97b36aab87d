"""What a victim's inputs and outputs give away before anybody attacks it.

Every check takes plain numbers and returns a `Finding`, or None if all is well.
"""

import numpy as np

from kerobust.attacks.balls import BALLS
from kerobust.attacks.masking.findings import Finding, beyond_chance, mean, too_many

LARGEST = float(np.finfo(np.float32).max)

# Resized images leave [0, 1] by less; attacks refuse what leaves it by more.
BOX_SLACK = 1e-4

# Softmax in bfloat16, the coarsest in use, sums to 1 within 4e-3 (half a unit in the
# last place, relative, per term). Logits of a whole batch never do by accident.
SUM_SLACK = 5e-3

# Networks that are merely untrained or poor gain nothing from another scale.
BETTER_SCALE = 0.1

# Any network may be wrong on fewer examples than this.
ENOUGH = 8

# Radii over the largest norm. A change of a tenth of one of the 255 levels of a pixel
# means nothing; n / 255 / 255 lies below for every n up to 25. Published l2 and l1
# radii lie above 1e-4 of the largest norm on images of any size, and below it when
# divided by 255 once more.
SMALLEST_RADIUS = {"linf": 0.1 / 255, "l2": 1e-4, "l1": 1e-4}

# One kernel on the same numbers repeats itself, but for the order of atomic sums: 1e-5
# of the spread even in deep float32 networks.
REPEAT_SLACK = {False: 1e-4, True: 1e-2}  # Half precision?
# Another batch size may choose another kernel: TF32 on GPUs, the coarsest, and a dozen
# units in the last place of bfloat16. Batch statistics move outputs by a tenth or more.
MATES_SLACK = {False: 1e-2, True: 0.1}


def non_finite_logits(logits: np.ndarray) -> Finding | None:
    """Reports logits [B, K] that are NaN or infinite."""
    share = mean(~np.isfinite(logits).all(axis=1))
    if share == 0:
        return None
    return Finding(
        "non-finite-logits",
        "error",
        share,
        0.0,
        f"{share:.1%} of the examples have NaN or infinite logits. The largest of them "
        "is undefined (TensorFlow then predicts class 0), so such examples count as "
        "right or wrong by accident. Find the layer that overflows.",
    )


def probabilities(logits: np.ndarray) -> Finding | None:
    """Reports outputs [B, K] that are probabilities."""
    off = float(np.abs(logits.sum(axis=1) - 1).max())
    if off > SUM_SLACK or logits.min() < -SUM_SLACK:
        return None
    return Finding(
        "probabilities",
        "warning",
        off,
        SUM_SLACK,
        "Outputs are probabilities (not negative, sums within "
        f"{off:.1g} of 1). A second softmax flattens the loss and rounding hides small "
        "probabilities, so gradient attacks get weaker. Give the logits in front of "
        "the softmax.",
    )


def log_probabilities(logits: np.ndarray) -> Finding | None:
    """Reports outputs [B, K] that are logarithms of probabilities."""
    if logits.max() > SUM_SLACK:
        return None
    off = float(np.abs(np.exp(logits).sum(axis=1) - 1).max())
    if off > SUM_SLACK:
        return None
    return Finding(
        "log-probabilities",
        "info",
        off,
        SUM_SLACK,
        "Outputs are log-probabilities. They are logits up to a shift that no loss "
        "here notices, unless they were clipped: better give the logits themselves.",
    )


def inputs_outside_bounds(images: np.ndarray) -> Finding | None:
    """Reports images that leave [0, 1] or hold NaN."""
    low, high = (float(end) for end in (images.min(), images.max()))
    excess = max(-low, high - 1)
    if excess <= BOX_SLACK:
        return None
    fix = "Divide by 255" if low >= 0 and high <= 255 else "Undo the normalisation"
    if not np.isfinite([low, high]).all():
        fix, excess = "Repair the data", LARGEST
    return Finding(
        "inputs-outside-bounds",
        "error",
        excess,
        BOX_SLACK,
        f"Images lie in [{low:g}, {high:g}] instead of [0, 1]: radii would mean "
        "something else, and attacks refuse such images, so nothing more was checked. "
        f"{fix}, and put the scaling that the network wants into the victim.",
    )


def input_scale(
    labels: np.ndarray, correct: np.ndarray, rescaled: dict[str, np.ndarray]
) -> Finding | None:
    """Reports a victim that classifies the same images far better at another scale.

    Better means by ten points, beyond chance in the examples that change sides, and
    beyond what always naming the most frequent class would get.

    Args:
        labels: int [B].
        correct: bool [B], classified correctly as they are.
        rescaled: Description of the scale, such as "255 * images" -> bool [B].
    """
    if not rescaled:
        return None
    name, best = max(rescaled.items(), key=lambda each: each[1].sum())
    gained, lost = int(np.sum(best & ~correct)), int(np.sum(correct & ~best))
    gain = (gained - lost) / len(correct)
    frequent = np.unique(labels, return_counts=True)[1].max() / len(labels)
    if (
        gain < BETTER_SCALE
        or not beyond_chance(gained, gained + lost, 0.5)
        or not too_many(best, frequent)
    ):
        return None
    return Finding(
        "input-scale",
        "error",
        gain,
        BETTER_SCALE,
        f"Accuracy is {mean(correct):.1%} on the images as they are and "
        f"{mean(best):.1%} on {name}: the network expects another scale (or its batch "
        "statistics never settled), and what it does at this one says nothing. Put the "
        "scaling into the victim, in front of the network; give images in [0, 1].",
    )


def nothing_right(right: np.ndarray) -> Finding | None:
    """Reports victims without a right example, bool [B], of which some must be."""
    if right.any() or len(right) < ENOUGH:
        return None
    return Finding(
        "nothing-right",
        "warning",
        0.0,
        0.0,
        f"Not one of {len(right)} examples is classified correctly, so nothing about "
        "attacks could be checked. Do labels and outputs count the classes in the same "
        "order, from 0?",
    )


def epsilon_unit_slip(epsilon: float, norm: str, size: int) -> Finding | None:
    """Reports a radius that looks like one in other units.

    Args:
        epsilon: The radius.
        norm: Key of `BALLS`.
        size: Numbers in one image, H * W * C.
    """
    largest = BALLS[norm].largest(size)
    grey, smallest = largest / 2, SMALLEST_RADIUS[norm] * largest
    if smallest <= epsilon <= grey:
        return None
    if epsilon > grey:
        reason = f"every image can become plain grey within {grey:g}"
        fix = "Radii are in pixel units of images in [0, 1]: did you divide by 255?"
    else:
        reason = f"below {smallest:g} no change is worth the name"
        fix = "Was it divided by 255 twice?"
    return Finding(
        "epsilon-unit-slip",
        "error" if epsilon > largest else "warning",
        epsilon,
        grey if epsilon > grey else smallest,
        f"The {norm} radius {epsilon:.3g} makes little sense: {reason}. {fix}",
    )


def randomness(outputs: np.ndarray, half: bool = False) -> Finding | None:
    """Reports outputs that differ when the same images are shown again.

    Args:
        outputs: float [R, B, K], logits of R forwards.
        half: Whether the victim computes in half precision.
    """
    slack = REPEAT_SLACK[half]
    moved = relative_difference(outputs.min(axis=0), outputs.max(axis=0))
    if moved <= slack:
        return None
    return Finding(
        "randomness",
        "warning",
        moved,
        slack,
        "The same images get different logits each time (by "
        f"{moved:.2g} of their spread). Attacks that look once per step follow noise "
        "and success depends on luck. Switch dropout and noise off, or average over "
        "them (`Averaged`) and decide by many forwards.",
    )


def batch_mate_dependence(
    together: np.ndarray, apart: np.ndarray, half: bool = False
) -> Finding | None:
    """Reports logits that depend on what else is in the batch.

    Args:
        together: float [B, K], logits of examples within a batch.
        apart: float [B, K], logits of the same examples one at a time.
        half: Whether the victim computes in half precision.
    """
    slack = MATES_SLACK[half]
    moved = relative_difference(together, apart)
    if moved <= slack:
        return None
    return Finding(
        "batch-mate-dependence",
        "error",
        moved,
        slack,
        "An example's logits change with its batch mates (by "
        f"{moved:.2g} of their spread): an attack on one image spills over to the "
        "others and results depend on the batch size. Use statistics that are fixed "
        "at inference; batch normalisation does so with training=False.",
    )


def train_mode_batch_norm(changed: list[str], dependent: bool) -> Finding | None:
    """Reports normalisation layers that act as in training.

    Args:
        changed: Names of the victim's variables that a forward changed.
        dependent: Whether it has batch normalisation and its outputs depend on batch
            mates.
    """
    if not changed and not dependent:
        return None
    seen = f"A forward changes {', '.join(changed[:3])}" if changed else ""
    return Finding(
        "train-mode-batch-norm",
        "error",
        float(len(changed) or 1),
        0.0,
        f"{seen or 'Batch normalisation depends on batch mates'}: layers act as in "
        "training though inference was asked for, so every attack changes the victim "
        "or its neighbours. Do not pass training=True inside the model.",
    )


def relative_difference(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the largest |first - second| over the mean spread of logits [B, K].

    Where either is not finite, it is the largest float32: JSON has no infinity.
    """
    spread = float(np.mean(np.ptp(first, axis=1))) or 1.0
    moved = float(np.abs(first - second).max()) / spread
    return moved if np.isfinite(moved) else LARGEST
