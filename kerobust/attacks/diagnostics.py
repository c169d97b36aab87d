"""Looks for reasons not to believe a robust accuracy: masked gradients and mistakes."""

from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from kerobust.attacks.arguments import as_tensors
from kerobust.attacks.balls import canonical_norm
from kerobust.attacks.checks import check_count, check_radius, check_rows
from kerobust.attacks.masking import contradictions, symptoms, vanishing
from kerobust.attacks.masking.contradictions import SHORT_SEARCH_SHARE, black_box_helps
from kerobust.attacks.masking.findings import Finding, MaskingError, worst_first
from kerobust.attacks.masking.probes import FEW, MANY, Probe
from kerobust.attacks.objectives import class_indices

__all__ = ["Finding", "MaskingError", "black_box_helps", "diagnose"]

_REPEATS = 4
_SCALES = (0.1, 10.0)
_NOISES = 10  # All of them together must lose to one step, and do by far.
_GREY = 0.5


def diagnose(
    model: Callable,
    images,
    labels,
    epsilon: float,
    norm: str = "linf",
    *,
    seed: int = 0,
    limit: int = 64,
    strict: bool = False,
    random: bool = False,
) -> list[Finding]:
    """Returns the signs that robust accuracies of a victim would be wrong, worst first.

    An empty list is no proof of robustness, only of none of these accidents: outputs
    that are no logits, inputs and radii in other units, randomness, layers in training
    mode, gradients that are zero, missing, saturated or lost to half precision, and
    attack results that contradict each other. What makes later checks meaningless
    (NaN logits, images outside [0, 1], no gradient path) ends the diagnosis.

    Costs some 115 forwards with backwards and 235 without per example, ten times as
    many if the victim turns out to be random, and compiles two attacks. The victim
    is called in inference mode; its variables are left as they were.

    Args:
        model: Callable that maps images float32 [B, H, W, C] to logits [B, K], K >= 2.
        images: [N, H, W, C] in [0, 1]; other values are reported, not refused.
        labels: int [N].
        epsilon: Radius of the evaluation, pixel units of images in [0, 1].
        norm: "linf", "l2" or "l1".
        seed: Seed of all noise; the same seed gives the same findings.
        limit: Number of examples used, the first ones; a dozen sees only gross faults.
        strict: Whether errors and warnings raise.
        random: Whether the victim is random on purpose and this need not be said.

    Raises:
        MaskingError: If `strict` and there are errors or warnings; it lists them.
        ValueError, TypeError: For arguments that no victim could be asked about.

    References:
        Athalye et al., 2018, arXiv:1802.00420, section 3.1; Carlini et al., 2019,
        arXiv:1902.06705, section 5; Pintor et al., 2022, arXiv:2106.09947.
    """
    norm = canonical_norm(norm)
    check_count("limit", limit)
    check_radius("epsilon", epsilon)
    images, labels = _examples(images, labels, int(limit))
    probe = Probe(model, images, labels, norm, seed)
    if not getattr(model, "built", True):
        probe.logits(images[:1])  # Keras makes the variables at the first call.
    variables = _Variables(model)
    try:
        found = worst_first(_findings(probe, float(epsilon), random, variables))
    finally:
        variables.restore()
    serious = [finding for finding in found if finding.severity != "info"]
    if strict and serious:
        raise MaskingError(serious)
    return found


def _examples(images, labels, limit):
    """Returns the first `limit` images float32 [B, H, W, C] and labels int32 [B]."""
    images = tf.cast(tf.convert_to_tensor(images), tf.float32)
    labels = as_tensors(labels)
    if images.shape.rank != 4 or not images.shape.num_elements():
        raise ValueError(
            "`images` must have shape [N, H, W, C] and hold an example. "
            f"Received: images of shape {images.shape}."
        )
    check_rows("labels", labels, images)
    return images[:limit], class_indices(labels)[:limit]


def _findings(probe, epsilon, random, variables) -> Iterator[Finding | None]:
    """Yields the results of all checks that make sense for this victim."""
    size = probe.images.shape[1:].num_elements()
    yield symptoms.epsilon_unit_slip(epsilon, probe.norm, size)
    outside = symptoms.inputs_outside_bounds(probe.images.numpy())
    yield outside
    outputs = np.stack([probe.logits(probe.images) for _ in range(_REPEATS)])
    _check_classes(outputs[0], probe.labels.numpy())
    overflow = symptoms.non_finite_logits(outputs.reshape(-1, outputs.shape[-1]))
    yield overflow
    if overflow:
        return
    half = probe.in_half_precision(outputs[0])
    noisy = symptoms.randomness(outputs, half)
    yield None if random else noisy
    yield symptoms.probabilities(outputs[0])
    yield symptoms.log_probabilities(outputs[0])
    dependent = None
    if noisy:  # Then luck would decide about mates and scales.
        probe.average()
    else:
        yield _scale_finding(probe, outputs[0], outside)
        together, apart = probe.company()
        dependent = symptoms.batch_mate_dependence(together, apart, half)
    yield dependent
    normalised = probe.has_batch_norm() and dependent is not None
    yield symptoms.train_mode_batch_norm(variables.changed(), normalised)
    right = probe.robust(probe.images)
    yield symptoms.nothing_right(right)
    if not outside and epsilon > 0 and right.any():
        epsilon = min(epsilon, probe.largest)
        yield from _attack_findings(probe, epsilon, right, half, noisy is not None)


def _check_classes(logits, labels):
    classes = logits.shape[1]
    if classes < 2 or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            "`labels` must be class indices below the number of logits, at least 2. "
            f"Received: labels from {labels.min()} to {labels.max()} for logits of "
            f"shape {logits.shape}."
        )


def _scale_finding(probe, logits, outside):
    """Returns whether the victim would like the images better at another scale."""
    images, labels = probe.images, probe.labels.numpy()
    others = {"255 * images": 255 * images, "2 * images - 1": 2 * images - 1}
    if outside:
        others = {"images / 255": images / 255, "(images + 1) / 2": (images + 1) / 2}
    correct = {
        name: probe.logits(each).argmax(axis=1) == labels
        for name, each in others.items()
    }
    return symptoms.input_scale(labels, logits.argmax(axis=1) == labels, correct)


def _attack_findings(probe, epsilon, right, half, noisy) -> Iterator[Finding | None]:
    """Yields the results of the checks that need gradients, then of those of attacks.

    Examples that are not `right`, bool [B], without attack say nothing about attacks.
    """
    clean = probe.gradients(probe.images)
    pathless = vanishing.missing_gradients(
        {"cross-entropy": clean.cross_entropy, "DLR": clean.dlr}
    )
    yield pathless
    if pathless:
        return
    yield vanishing.saturated(clean.losses[right])
    if half:
        yield vanishing.half_precision_underflow(clean.cross_entropy, clean.magnified)
    few = probe.ascend(FEW, epsilon)
    attacked = probe.gradients(few.images)
    yield symptoms.non_finite_logits(attacked.logits)
    # DLR is flat where the label comes third: only what was right just then counts.
    first = right & (clean.logits.argmax(axis=1) == probe.labels)
    yield vanishing.zero_gradients(
        {"cross-entropy": clean.cross_entropy[right], "DLR": clean.dlr[first]}
    ) or vanishing.zero_gradients(
        {"cross-entropy": attacked.cross_entropy[right]}, "attacked"
    )
    yield from _contradictions(probe, epsilon, right, clean, few, noisy)


def _contradictions(probe, epsilon, right, clean, few, noisy):
    """Yields the results of the checks that compare attacks with each other."""
    many = probe.ascend(MANY, epsilon)
    if not noisy:  # Whose loss at a point is known up to noise only.
        yield contradictions.loss_not_rising(
            clean.losses[right], few.losses[right], many.losses[right]
        )
    grey = probe.largest / 2
    radii = {epsilon / 2, min(2 * epsilon, probe.largest), grey} - {epsilon}
    robust = {each: probe.ascend(FEW, each).robust[right] for each in radii}
    robust[epsilon] = few.robust[right]
    yield contradictions.accuracy_not_falling(sorted(robust.items()))
    plain = tf.fill(tf.shape(probe.images), _GREY)
    yield contradictions.large_epsilon_not_near_zero(
        robust[grey], ~probe.robust(plain)[right], grey
    )
    step = probe.robust(probe.step(clean.cross_entropy, epsilon))
    # Of a random victim, each forward is another draw: one is enough.
    draws = range(1 if noisy else _NOISES)
    noise = [probe.robust(probe.noise(epsilon, draw))[right] for draw in draws]
    yield contradictions.noise_stronger(step[right], np.all(noise, axis=0))
    ratio = probe.ascend(FEW, epsilon, scale=None).robust
    white = few.robust & many.robust & step & ratio
    yield black_box_helps(
        white[right], probe.search(epsilon)[right], threshold=SHORT_SEARCH_SHARE
    )
    scaled = {
        f"logits times {factor:g}": probe.ascend(FEW, epsilon, factor).robust[right]
        for factor in _SCALES
    }
    scaled["DLR"] = ratio[right]
    yield contradictions.scale_dependence(few.robust[right], scaled)


class _Variables:
    """A victim's untrained variables: what forwards change in them, and back."""

    def __init__(self, model):
        variables = model.variables if isinstance(model, tf.Module) else ()
        untrained = [each for each in variables if not each.trainable]
        self._before = [(each, each.numpy()) for each in untrained]

    def changed(self) -> list[str]:
        """Returns the names of the real numbers (no counters) among them that moved."""
        return [
            variable.name
            for variable, before in self._before
            if variable.dtype.is_floating
            and not np.array_equal(variable.numpy(), before, equal_nan=True)
        ]

    def restore(self) -> None:
        """Makes all of them as they were."""
        for variable, before in self._before:
            variable.assign(before)
