"""Gradients that are missing, zero, saturated or lost to half precision.

Every check takes plain arrays and returns a `Finding`, or None if all is well.
"""

import numpy as np

from kerobust.attacks.masking.findings import Finding, mean, too_many

# One per cent: Carlini et al. and all suites treat a rare dead gradient as an accident.
ZERO_SHARE = 0.01
MOSTLY = 0.5

# In float32 the probability of the label then differs from 1 by few units in the last
# place (6e-8), and with it the part of the gradient that pulls the label down.
SATURATED_LOSS = 1e-6

# Honest float16 networks lose 1e-4 of their gradient's numbers, badly scaled ones 5 %
# and with them a quarter of all signs.
UNDERFLOW_SHARE = 0.01
MAGNIFIED = 2.0**10  # As loss scaling does: within float16's range, a power of 2.


def missing_gradients(gradients: dict[str, np.ndarray | None]) -> Finding | None:
    """Reports losses without any path to the images.

    Args:
        gradients: Name of the loss -> its input gradient, None without a path.
    """
    missing = [name for name, gradient in gradients.items() if gradient is None]
    if not missing:
        return None
    return Finding(
        "non-differentiable",
        "error",
        len(missing) / len(gradients),
        0.0,
        "No gradient path leads from the logits to the images (a rounding, an argmax, "
        "a lookup?), so gradient attacks cannot run. Attack through a differentiable "
        "substitute (`Bpda`; for an ensemble that votes, `Mora`) and with a black-box "
        "attack (`Square`).",
    )


def zero_gradients(
    gradients: dict[str, np.ndarray], where: str = "clean"
) -> Finding | None:
    """Reports examples whose input gradient is zero everywhere or not finite.

    Args:
        gradients: Name of the loss -> float [B, ...].
        where: Which images these are.
    """
    dead = {name: dead_gradients(each) for name, each in gradients.items()}
    worst = max(dead, key=lambda name: dead[name].sum())
    share = mean(dead[worst])
    if not too_many(dead[worst], ZERO_SHARE):
        return None
    shares = ", ".join(f"{mean(each):.1%} with {name}" for name, each in dead.items())
    return Finding(
        "zero-gradients",
        "error" if share > MOSTLY else "warning",
        share,
        ZERO_SHARE,
        f"Gradients of {where} images are zero or not finite: {shares}. Attacks that "
        "follow them stand still and the victim looks robust. Use a loss that has "
        "gradients (DLR if only cross-entropy has none), `Bpda` in front of a blunt "
        "step (for an ensemble, `Mora`), and a black-box attack.",
    )


def dead_gradients(gradient: np.ndarray) -> np.ndarray:
    """Returns which gradients [B, ...] no step can follow, bool [B]."""
    axes = tuple(range(1, gradient.ndim))
    size = np.abs(gradient).max(axis=axes)
    # Numbers below the smallest normal one are flushed to zero by most kernels.
    return ~(np.isfinite(size) & (size >= np.finfo(np.float32).tiny))


def saturated(losses: np.ndarray) -> Finding | None:
    """Reports a cross-entropy [B] that is all but zero for most examples."""
    flags = losses < SATURATED_LOSS
    if not too_many(flags, MOSTLY):
        return None
    return Finding(
        "saturated",
        "warning",
        mean(flags),
        MOSTLY,
        f"Cross-entropy is below {SATURATED_LOSS:g} for {mean(flags):.1%} of the "
        "examples: rounding eats the part of its gradient that pulls the label down. "
        "Attack a loss that ignores the scale of the logits (DLR), or divide them.",
    )


def half_precision_underflow(
    gradient: np.ndarray, magnified: np.ndarray
) -> Finding | None:
    """Reports gradients of a half precision victim that are lost to its small range.

    Args:
        gradient: float [B, ...] of a loss.
        magnified: float [B, ...] of `MAGNIFIED` times that loss.
    """
    lost = (gradient == 0) & (magnified != 0)
    there = np.isfinite(magnified) & (magnified != 0)
    share = float(lost.sum() / max(1, there.sum()))
    if share <= UNDERFLOW_SHARE:
        return None
    return Finding(
        "half-precision-underflow",
        "warning",
        share,
        UNDERFLOW_SHARE,
        f"{share:.1%} of the gradient's numbers vanish in half precision and come back "
        f"when the loss is multiplied by {MAGNIFIED:g}: attacks lose directions. "
        "Evaluate the victim in float32.",
    )
