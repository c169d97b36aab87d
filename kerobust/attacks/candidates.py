"""What a search holds in its hands, and which of two is the better one."""

from typing import NamedTuple

import tensorflow as tf

from kerobust.attacks.balls import per_example
from kerobust.attacks.objectives import Objective


class Candidate(NamedTuple):
    """Attacked images; `values` and `fooled` are None as long as nobody looked.

    Attributes:
        images: float32 [B, H, W, C].
        steps: int32 [B], search steps from the start to these images.
        values: float32 [B], the objective at these images.
        fooled: bool [B]; all False for objectives without a notion of success.
    """

    images: tf.Tensor
    steps: tf.Tensor
    values: tf.Tensor = None
    fooled: tf.Tensor = None

    @classmethod
    def after(cls, images: tf.Tensor, steps) -> "Candidate":
        """Returns images reached after `steps`, int scalar, not looked at yet."""
        return cls(images, tf.fill(tf.shape(images)[:1], tf.cast(steps, tf.int32)))

    @classmethod
    def worst(cls, images: tf.Tensor) -> "Candidate":
        """Returns a candidate that everything assessable beats."""
        unlooked = cls.after(images, 0)
        values = tf.fill(tf.shape(images)[:1], float("-inf"))
        return unlooked._replace(values=values, fooled=tf.zeros_like(values, tf.bool))

    def judged(self, objective: Objective, outputs, targets) -> "Candidate":
        """Returns the candidate with what the objective says about its outputs."""
        values = objective.values(outputs, targets)
        if values.shape.rank not in (1, None):
            raise ValueError(
                "`values` of an objective must return one number per example, shape "
                f"[B]. Received: values of shape {values.shape} from "
                f"{type(objective).__name__}."
            )
        fooled = objective.fooled(outputs, targets)
        if fooled is None:
            fooled = tf.zeros_like(values, tf.bool)
        return self._replace(values=values, fooled=fooled)

    def assessed(self, objective: Objective, targets) -> "Candidate":
        """Returns the candidate judged; one forward if nobody has looked yet."""
        if self.values is not None:
            return self
        return self.judged(objective, objective.outputs(self.images), targets)

    def or_better(self, other: "Candidate") -> "Candidate":
        """Returns per example what fools, then what has the larger value."""
        larger = (self.fooled == other.fooled) & (other.values > self.values)
        return self.unless((other.fooled & ~self.fooled) | larger, other)

    def replaced(self, rows: tf.Tensor, other: "Candidate") -> "Candidate":
        """Returns the candidate with examples `rows`, int32 [M], from `other` of M."""
        return tf.nest.map_structure(
            lambda own, new: tf.tensor_scatter_nd_update(own, rows[:, None], new),
            self,
            other,
        )

    def unless(self, mask: tf.Tensor, other: "Candidate") -> "Candidate":
        """Returns the candidate with the examples in `mask`, bool [B], from `other`."""
        return Candidate(
            *(
                None if own is None else tf.where(per_example(mask, own), theirs, own)
                for own, theirs in zip(self, other, strict=True)
            )
        )
