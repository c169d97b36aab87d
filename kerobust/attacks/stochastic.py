"""Victims that are random, and victims without useful gradients."""

from collections.abc import Callable

import tensorflow as tf

from kerobust.attacks.checks import check_count
from kerobust.attacks.objectives import Objective, infer


class Averaged(Objective):
    """Expectation of an objective over the randomness of its victim (EoT).

    Every forward is repeated `draws` times. Values and gradients are means over the
    draws; an example is fooled if more than half of the draws are.

    Args:
        objective: `Objective` whose outputs are one float32 tensor [B, ...] and differ
            from call to call.
        draws: Number of forwards per point, at least 1.

    References:
        Athalye et al., 2018, arXiv:1707.07397, section 2; arXiv:1802.00420, 4.2.

    Differences:
        AutoAttack averages gradients only and takes loss and success from the last
        draw; here both are decided by all draws.
    """

    def __init__(self, objective: Objective, draws: int = 20):
        check_count("draws", draws)
        self.objective = objective
        self.draws = int(draws)

    def outputs(self, images):
        """Returns what each draw says, [draws, B, ...]."""
        return tf.map_fn(
            lambda _: self.objective.outputs(images),
            tf.range(self.draws),
            fn_output_signature=tf.float32,
            parallel_iterations=1,
        )

    def values(self, outputs, targets):
        return tf.reduce_mean(self._each(self.objective.values, outputs, targets), 0)

    def fooled(self, outputs, targets):
        fooled = self._each(self.objective.fooled, outputs, targets)
        return (
            None
            if fooled is None
            else tf.reduce_mean(tf.cast(fooled, "float"), 0) > 0.5
        )

    def predictions(self, outputs):
        return self.objective.predictions(tf.reduce_mean(outputs, axis=0))

    def check_targets(self, targets):
        self.objective.check_targets(targets)

    def _each(self, judge: Callable, outputs, targets):
        """Returns [draws, B], or None if `judge` knows no answer."""

        def repeat(each):
            return tf.tile(each, [self.draws, *[1] * (each.shape.rank - 1)])

        flat = tf.reshape(outputs, [-1, *outputs.shape[2:]])
        found = judge(flat, tf.nest.map_structure(repeat, targets))
        return None if found is None else tf.reshape(found, [self.draws, -1])


class Bpda:
    """Backward pass differentiable approximation: a victim behind a blunt defence.

    Forwards go through `defence` as it is; backwards through `substitute`, which must
    be close to it and differentiable. Give it to an attack as the victim.

    Args:
        defence: Images float32 [B, H, W, C] -> images; need not be differentiable.
        victim: Images -> outputs, such as logits [B, K].
        substitute: Differentiable images -> images; None = the identity.

    Example:
        quantised = Bpda(lambda images: tf.round(8 * images) / 8, model)
        adversarial = PGD(8 / 255)(images, labels, quantised)

    References:
        Athalye et al., 2018, arXiv:1802.00420, section 4.1.
    """

    def __init__(
        self,
        defence: Callable[[tf.Tensor], tf.Tensor],
        victim: Callable[[tf.Tensor], tf.Tensor],
        substitute: Callable[[tf.Tensor], tf.Tensor] | None = None,
    ):
        self.defence = defence
        self.victim = victim
        self.substitute = substitute or tf.identity

    def __call__(self, images: tf.Tensor):
        """Returns the victim's outputs on the defended images."""
        smooth = self.substitute(images)
        # Equal to the defence's result, with the gradient of the substitute.
        defended = smooth + tf.stop_gradient(self.defence(images) - smooth)
        return infer(self.victim, defended)
