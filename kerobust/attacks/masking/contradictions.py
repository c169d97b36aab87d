"""Attack results that contradict each other, as those of honest victims never do.

Every check takes what attacks achieved, example by example, and returns a `Finding`, or
None if all is well. The thresholds are shares of examples that honest networks may
have; a finding needs more than that beyond chance (`beyond_chance`).
"""

import itertools

import numpy as np

from kerobust.attacks.masking.findings import Finding, beyond_chance, mean, too_many

# The loss of honest networks rises for every example that was right.
STUCK_SHARE = 0.1
# With other steps, an example may climb another hill: up to 5 % lose a tenth of what
# they gained. A quarter for a tenth of the examples is another matter.
LOST_RISE = 0.25

# A larger ball holds the smaller one: no example should stand only in the larger.
REGAINED_SHARE = 0.05

# Where every image can become grey, ten steps break honest networks completely.
LEFT_SHARE = 0.05

# Points as in AutoAttack. A short search of each kind misses more than full ones.
BLACK_BOX_SHARE = 0.002
SHORT_SEARCH_SHARE = 0.02

# At another temperature cross-entropy climbs towards other classes: in trained networks
# 6 % more fall, in untrained ones, whose logits are tiny, a quarter of twenty examples.
OTHER_SCALE_SHARE = 0.15
_ROUNDING = 1e-6

_FEWEST = 2  # One example between two attacks is luck.


def loss_not_rising(
    start: np.ndarray, few: np.ndarray, many: np.ndarray
) -> Finding | None:
    """Reports losses that gradient ascent does not raise, or lowers with more steps.

    Args:
        start: float [B], loss of the images themselves.
        few, many: float [B], loss where few and many steps of ascent end.
    """
    slack = _ROUNDING * (1 + np.abs(start))
    stuck = ~((few > start + slack) & (many > start + slack))
    fallen = many < few - LOST_RISE * np.abs(few - start) - slack
    seen = {
        f"does not rise for {mean(stuck):.1%}": stuck,
        f"ends lower after more steps for {mean(fallen):.1%}": fallen,
    }
    text, flags = max(seen.items(), key=lambda each: each[1].sum())
    if not too_many(flags, STUCK_SHARE, _FEWEST):
        return None
    return Finding(
        "loss-not-rising",
        "warning",
        mean(flags),
        STUCK_SHARE,
        f"The loss {text} of the examples along gradient ascent: gradients are wrong, "
        "zero or too rough to follow. Look at other losses, smaller steps and "
        "black-box attacks before believing that no adversarial example exists.",
    )


def accuracy_not_falling(radii: list[tuple[float, np.ndarray]]) -> Finding | None:
    """Reports examples that fall in a ball and stand in a larger one.

    Args:
        radii: (epsilon, bool [B] robust) by growing epsilon.
    """
    pairs = list(itertools.pairwise(radii))
    if not pairs:
        return None
    regained = [after & ~before for (_, before), (_, after) in pairs]
    worst = int(np.argmax([flags.sum() for flags in regained]))
    flags, ((small, _), (large, _)) = regained[worst], pairs[worst]
    if not too_many(flags, REGAINED_SHARE, _FEWEST):
        return None
    return Finding(
        "accuracy-not-falling",
        "warning",
        mean(flags),
        REGAINED_SHARE,
        f"{mean(flags):.1%} of the examples are fooled within {small:.3g} but not "
        f"within {large:.3g}, though the larger ball holds the smaller one: the attack "
        "misses what exists. Use more steps, restarts and other losses.",
    )


def large_epsilon_not_near_zero(
    robust: np.ndarray, grey_fools: np.ndarray, epsilon: float
) -> Finding | None:
    """Reports attacks that fail where a known image would do.

    Classifiers that are constant stand anywhere; only examples that plain grey fools
    are counted, so each of them is one that the attack has missed.

    Args:
        robust: bool [B] under an attack within `epsilon`.
        grey_fools: bool [B], plain grey gets another class than the label.
        epsilon: A radius within which every image can become grey.
    """
    missed = robust & grey_fools
    if not too_many(missed, LEFT_SHARE, _FEWEST):
        return None
    return Finding(
        "large-epsilon-not-near-zero",
        "error",
        mean(missed),
        LEFT_SHARE,
        f"Within {epsilon:.3g} every image can become plain grey, which fools the "
        f"victim, and yet the attack leaves {mean(missed):.1%} of the examples. "
        "Gradients are masked or the attack is broken: robust accuracies are too high.",
    )


def black_box_helps(
    white_box_robust, black_box_robust, *, threshold: float = BLACK_BOX_SHARE
) -> Finding | None:
    """Reports examples that no white-box attack breaks and a black-box attack does.

    There must be two at least, and their share of all examples must exceed the
    threshold beyond chance: were it the threshold, so many would be seen in less than
    5 % of all evaluations (exact binomial test). At 0.2 points that takes 2 of 64, 3 of
    200, 6 of 1,000 or 29 of 10,000 examples.

    Args:
        white_box_robust: bool [N], right without and under every white-box attack.
        black_box_robust: bool [N], not fooled by the black-box attack; where the first
            is False nothing is read.
        threshold: Share of examples, 0 to 1.

    Raises:
        ValueError: If the shapes differ.

    References:
        Carlini et al., 2019, arXiv:1902.06705, section 5; Croce & Hein, 2020,
        arXiv:2003.01690, whose code asks for 0.2 points.
    """
    white = np.asarray(white_box_robust, bool)
    black = np.asarray(black_box_robust, bool)
    if white.shape != black.shape or white.ndim != 1:
        raise ValueError(
            "`white_box_robust` and `black_box_robust` must be vectors of one length. "
            f"Received: shapes {white.shape} and {black.shape}."
        )
    helped = white & ~black
    if not too_many(helped, threshold, _FEWEST):
        return None
    return Finding(
        "black-box-stronger",
        "error",
        mean(helped),
        threshold,
        f"A black-box attack breaks {int(helped.sum())} of {helped.size} examples that "
        "every gradient attack leaves: gradients are masked and the white-box numbers "
        "are too high. Attack with more queries and adapt to the defence.",
    )


def noise_stronger(step_robust: np.ndarray, noise_robust: np.ndarray) -> Finding | None:
    """Reports random noise that fools more examples than one gradient step.

    Examples that only one of the two fools decide (exact sign test).

    Args:
        step_robust: bool [B], not fooled by one step of size epsilon.
        noise_robust: bool [B], not fooled by random draws from the ball.
    """
    only_noise = int(np.sum(step_robust & ~noise_robust))
    only_step = int(np.sum(noise_robust & ~step_robust))
    decided = only_noise + only_step
    if not beyond_chance(only_noise, decided, 0.5):
        return None
    return Finding(
        "noise-stronger",
        "error",
        only_noise / decided,
        0.5,
        f"Random noise alone fools {only_noise} examples that a gradient step of the "
        f"same size does not, against {only_step} the other way round: gradients point "
        "nowhere. White-box numbers are too high.",
    )


def scale_dependence(
    robust: np.ndarray, others: dict[str, np.ndarray]
) -> Finding | None:
    """Reports a scale of the logits that hides adversarial examples.

    Only what is found in addition counts: at larger logits cross-entropy must saturate
    and find less.

    Args:
        robust: bool [B], under an attack on the cross-entropy of the plain logits.
        others: Description, such as "logits times 0.1" -> bool [B] under the same
            attack there.
    """
    gained = {name: robust & ~other for name, other in others.items()}
    name, flags = max(gained.items(), key=lambda each: each[1].sum())
    if not too_many(flags, OTHER_SCALE_SHARE, _FEWEST):
        return None
    return Finding(
        "scale-dependence",
        "warning",
        mean(flags),
        OTHER_SCALE_SHARE,
        f"The same attack breaks {mean(flags):.1%} more of the examples with {name}, "
        "though the scale changes no prediction: it hides gradients of cross-entropy. "
        "Evaluate with a loss that ignores it (DLR), or with rescaled logits, too.",
    )
