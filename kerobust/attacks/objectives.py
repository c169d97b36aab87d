"""What an attack makes large: one number per example, from a victim and targets."""

import inspect
import weakref
from collections.abc import Callable

import tensorflow as tf

from kerobust.attacks.balls import flatten
from kerobust.attacks.target_checks import check_classes, check_like
from kerobust.attacks.weak import WeakIdentityCache


class Objective:
    """Base: a number per example that grows as the victim does worse.

    A plain object, kept by its owner: an attack compiles once per objective object and
    forgets it when the object dies. It must give the same numbers for the same inputs,
    so whatever varies between calls (masks, references) travels in `targets`. Victims
    are called in inference mode.

    Example:
        class Brightness(Objective):
            def outputs(self, images):
                return tf.reduce_mean(images, axis=[1, 2, 3])

            def values(self, outputs, targets):
                return -tf.abs(outputs - targets)
    """

    def outputs(self, images: tf.Tensor):
        """Returns what the victim says about images float32 [B, H, W, C]."""
        raise NotImplementedError

    def values(self, outputs, targets) -> tf.Tensor:
        """Returns float32 [B]; larger is worse for the victim."""
        raise NotImplementedError

    def fooled(self, outputs, targets) -> tf.Tensor | None:
        """Returns bool [B], or None if the objective has no notion of success."""
        return None

    def predictions(self, outputs):
        """Returns targets that `outputs` agree with; used when none were given.

        Raises:
            TypeError: If only the caller can know the targets.
        """
        raise TypeError(
            "`targets` must be given: only classification objectives can use the "
            f"victim's predictions. Received: targets=None for {type(self).__name__}."
        )

    def check_targets(self, targets) -> None:
        """Raises a `ValueError` if values of targets are known to be out of range.

        Attacks ask after they have compiled, with targets that may be symbolic; shapes
        and types are rather refused by `values`.
        """

    def __call__(self, images: tf.Tensor, targets) -> tf.Tensor:
        """Returns `values` of the outputs on `images`, float32 [B]."""
        return self.values(self.outputs(images), targets)


class LogitObjective(Objective):
    """Base of the objectives on logits [B, K] and labels int [B].

    Args:
        victim: Maps images float32 [B, H, W, C] to logits [B, K].

    Attributes:
        classes: K of the last outputs; None before.
    """

    classes: int | None = None

    def __init__(self, victim):
        self.victim = victim

    def outputs(self, images):
        logits = infer(self.victim, images)
        if not tf.is_tensor(logits) or logits.shape.rank not in (2, None):
            received = getattr(logits, "shape", type(logits).__name__)
            raise TypeError(
                "`victim` must map images to logits of shape [B, K]; for anything else "
                "subclass `kerobust.attacks.Objective` and pass an instance of it. "
                f"Received: outputs={received}."
            )
        self.classes = logits.shape[-1] if logits.shape.rank else None
        return logits

    def check_targets(self, targets):
        if self.classes is not None:
            check_classes(targets, self.classes)

    def fooled(self, outputs, targets):
        return predicted(outputs) != class_indices(targets)

    def predictions(self, outputs):
        return predicted(outputs)


class CrossEntropy(LogitObjective):
    """Cross-entropy of the victim's logits [B, K] and labels int [B].

    Args:
        victim: Maps images float32 [B, H, W, C] to logits [B, K].
    """

    def values(self, outputs, targets):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(
            class_indices(targets), outputs
        )


class LogitMargin(LogitObjective):
    """Best other logit minus the logit of the label; positive when fooled.

    Args:
        victim: Maps images float32 [B, H, W, C] to logits [B, K], K >= 2.

    References:
        Carlini & Wagner, 2017, arXiv:1608.04644, f6 without its floor.
    """

    def values(self, outputs, targets):
        own = tf.one_hot(
            class_indices(targets), tf.shape(outputs)[-1], True, False, dtype=bool
        )
        other = tf.reduce_max(tf.where(own, outputs.dtype.min, outputs), axis=-1)
        return other - tf.reduce_sum(tf.where(own, outputs, 0.0), axis=-1)


class SoftCrossEntropy(LogitObjective):
    """Cross-entropy of the victim's logits and probabilities float [B, K].

    Fooled means that the largest logit is not where the largest probability is.

    Args:
        victim: Maps images float32 [B, H, W, C] to logits [B, K].
    """

    def values(self, outputs, targets):
        targets = tf.cast(self._probabilities(targets), outputs.dtype)
        return tf.nn.softmax_cross_entropy_with_logits(targets, outputs)

    def fooled(self, outputs, targets):
        labels = tf.argmax(self._probabilities(targets), axis=-1)
        return tf.argmax(outputs, axis=-1) != labels

    def predictions(self, outputs):
        labels = tf.argmax(outputs, axis=-1)
        return tf.one_hot(labels, tf.shape(outputs)[-1], dtype=outputs.dtype)

    def _probabilities(self, targets):
        if targets.shape.rank == 2:
            return targets
        raise ValueError(
            "`targets` of SoftCrossEntropy must be probabilities of shape [B, K]; use "
            f"CrossEntropy for class indices. Received: targets.shape={targets.shape}."
        )


class _FeatureObjective(Objective):
    """Base of the objectives on features [B, ...] and reference features."""

    _wanted = (
        "reference features, floating point, of the shape of the victim's outputs; "
        "labels are not used"
    )

    def __init__(self, victim):
        self.victim = victim

    def outputs(self, images):
        features = infer(self.victim, images)
        if tf.is_tensor(features):
            return features
        raise TypeError(
            "`victim` must return one tensor of features [B, ...]; pass a function "
            f"that picks it. Received: outputs={type(features).__name__}."
        )

    def _reference(self, outputs, targets) -> tf.Tensor:
        """Returns targets in the type of the outputs; raises unless they fit."""
        check_like(targets, outputs, self._wanted)
        return tf.cast(targets, outputs.dtype)


class FeatureDistance(_FeatureObjective):
    """Mean squared difference between features [B, ...] and reference features.

    Its gradient vanishes where both are equal: leave clean images by a random start.

    Args:
        victim: Maps images float32 [B, H, W, C] to one feature tensor [B, ...].
    """

    def values(self, outputs, targets):
        difference = outputs - self._reference(outputs, targets)
        return tf.reduce_mean(flatten(tf.square(difference)), axis=1)


class FeatureMatch(FeatureDistance):
    """Minus the mean squared difference: images that look like others to one layer.

    Args:
        victim: Maps images float32 [B, H, W, C] to one feature tensor [B, ...].

    References:
        Ilyas et al., 2019, arXiv:1905.02175, section 3.2; Yang et al., 2020,
        arXiv:2009.14720, equation 1.
    """

    def values(self, outputs, targets):
        return -super().values(outputs, targets)


class CosineDistance(_FeatureObjective):
    """1 - cosine of the features [B, ...] and reference features, in [0, 2].

    Its gradient vanishes where both are equal: leave clean images by a random start.

    Args:
        victim: Maps images float32 [B, H, W, C] to one feature tensor [B, ...].
    """

    def values(self, outputs, targets):
        own = tf.math.l2_normalize(flatten(outputs), axis=1)
        reference = flatten(self._reference(outputs, targets))
        reference = tf.math.l2_normalize(reference, axis=1)
        return 1.0 - tf.reduce_sum(own * reference, axis=1)


def infer(victim, images: tf.Tensor):
    """Returns a victim's outputs in inference mode, half precision cast to float32."""
    known = _takes_training(victim)
    outputs = victim(images, training=False) if known else victim(images)
    return tf.nest.map_structure(_to_float32, outputs)


@tf.autograph.experimental.do_not_convert
def as_objective(victim, kind: Callable[..., Objective] = CrossEntropy) -> Objective:
    """Returns `victim` if it is an objective, else the objective `kind` on it.

    The same victim always gets the same object, which lives as long as the victim: an
    attack compiles once per objective. A lambda built anew for each call is a new
    victim each time.

    Raises:
        TypeError: If `victim` is not callable or cannot be referred to weakly.
    """
    if isinstance(victim, Objective):
        return victim
    if not callable(victim):
        raise TypeError(
            "`victim` must be an Objective or a callable that maps images to logits "
            f"[B, K]. Received: victim={victim}."
        )
    key, known = victim, _VICTIMS
    if inspect.ismethod(victim):  # A new object at each access: key its two parts.
        key, known = victim.__func__, _METHODS.get(victim.__self__, WeakIdentityCache)
    kinds = known.get(key, dict)
    if kind not in kinds:
        kinds[kind] = kind(_Weakly(victim))
    return kinds[kind]


_VICTIMS = WeakIdentityCache()  # victim -> kind -> its objective
_METHODS = WeakIdentityCache()  # owner -> function -> kind -> objective of the method


class _Weakly:
    """Calls a victim without keeping it alive."""

    def __init__(self, victim):
        refer = weakref.WeakMethod if inspect.ismethod(victim) else weakref.ref
        self._reference = refer(victim)

    def __call__(self, images):
        return infer(self._reference(), images)


def _takes_training(victim) -> bool:
    layer = isinstance(victim, tf.keras.layers.Layer)
    try:
        return (
            "training" in inspect.signature(victim.call if layer else victim).parameters
        )
    except (TypeError, ValueError):  # Some built-in callables have no signature.
        return False


def _to_float32(value):
    half = tf.is_tensor(value) and value.dtype in (tf.float16, tf.bfloat16)
    return tf.cast(value, tf.float32) if half else value


def predicted(logits: tf.Tensor) -> tf.Tensor:
    """Returns the class with the largest logit, int32 [B]; the first of equals."""
    return tf.argmax(logits, axis=-1, output_type=tf.int32)


def class_indices(targets) -> tf.Tensor:
    """Returns int32 [B] of class indices [B] or [B, 1].

    Raises:
        ValueError: If `targets` are not class indices.
    """
    if not hasattr(targets, "shape"):
        raise ValueError(
            "`targets` must be integer class indices of shape [B]: the labels, or for "
            "TargetedCrossEntropy the classes to reach. A dict of labels and goals is "
            "for TargetedDLR and TargetedMargin. Received: targets of type "
            f"{type(targets).__name__} that holds {', '.join(map(str, targets))}."
        )
    shape = targets.shape
    if shape.rank == 2 and shape[1] == 1:
        targets = targets[:, 0]
    if targets.dtype.is_integer and targets.shape.rank in (1, None):
        return tf.cast(targets, tf.int32)
    raise ValueError(
        "`targets` must be integer class indices of shape [B]; pass one-hot or soft "
        "labels to SoftCrossEntropy(victim) instead. Received: targets of shape "
        f"{shape} and dtype {targets.dtype.name}."
    )
