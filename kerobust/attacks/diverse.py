"""Momentum PGD through changing frames, whose results transfer better."""

import tensorflow as tf

from kerobust.attacks.candidates import Candidate
from kerobust.attacks.gradient import MomentumPGD
from kerobust.attacks.objectives import Objective
from kerobust.randomness import fold_in, uniform


@tf.keras.saving.register_keras_serializable("kerobust")
class DiversePGD(MomentumPGD):
    """Momentum PGD whose gradients are taken through random shrinking and padding.

    At every step each image is, with some probability, shrunk and put somewhere into a
    frame of zeros of its own size before the victim sees it. That keeps an attack from
    fitting one victim only: use it with `transfer_matrix`. Against the victim itself
    `PGD` is stronger. With keep="best" the last points of the restarts compete.

    Args:
        epsilon: Radius of the ball, pixel units of images in [0, 1].
        probability: Of a change, per step and image, in [0, 1]; 0 gives `MomentumPGD`.
        smallest: Smallest side of a shrunk image, as a share of its own, in (0, 1].
        **kwargs: See `MomentumPGD`.

    Raises:
        ValueError: If a setting is out of range.

    References:
        Xie et al., 2019, arXiv:1803.06978, section 3.3 (M-DI2-FGSM).

    Differences:
        Sizes and places are real numbers, read by bilinear interpolation; the frame has
        the size of the image instead of being larger, so that every victim takes it.
    """

    def __init__(
        self,
        epsilon: float | None = None,
        *,
        probability: float = 0.5,
        smallest: float = 0.8,
        **kwargs,
    ):
        super().__init__(epsilon, **kwargs)
        self.probability, self.smallest = float(probability), float(smallest)
        if not 0 <= self.probability <= 1:
            raise ValueError(
                f"`probability` must lie in [0, 1]. Received: {probability=}."
            )
        if not 0 < self.smallest <= 1:
            raise ValueError(f"`smallest` must lie in (0, 1]. Received: {smallest=}.")

    def get_config(self):
        return super().get_config() | {
            "probability": self.probability,
            "smallest": self.smallest,
        }

    def _look(self, index, adversarial, targets, objective, keys):
        boxes = self._boxes(fold_in(fold_in(keys, "frame"), index))
        framed = _Framed(objective, boxes)
        gradient, _ = self._differentiated(index, adversarial, targets, framed)
        return gradient, Candidate.worst(adversarial)

    def _boxes(self, keys) -> tf.Tensor:
        """Returns what part of the plane each image shows, float32 [B, 4].

        (top, left, bottom, right), where the image itself fills (0, 0, 1, 1).
        """
        draws = uniform(keys, [4])
        share = self.smallest + (1.0 - self.smallest) * draws[:, 0]
        changed = draws[:, 1] < self.probability
        share = tf.where(changed, share, 1.0)
        gap = (1.0 / share - 1.0)[:, tf.newaxis]  # Around the image, in its own sides.
        corner = -gap * draws[:, 2:]
        return tf.concat([corner, corner + 1.0 + gap], axis=1)


class _Framed(Objective):
    """What an objective says of images seen through boxes float32 [B, 4]."""

    def __init__(self, objective: Objective, boxes: tf.Tensor):
        self.objective, self.boxes = objective, boxes

    def outputs(self, images):
        rows = tf.range(tf.shape(images)[0])
        shown = tf.image.crop_and_resize(images, self.boxes, rows, images.shape[1:3])
        return self.objective.outputs(shown)

    def values(self, outputs, targets):
        return self.objective.values(outputs, targets)
