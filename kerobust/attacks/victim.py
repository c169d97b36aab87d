"""A model under evaluation: checked outputs, and a count of what it was asked."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from kerobust.attacks.arguments import any_batch
from kerobust.attacks.embedding import embedded
from kerobust.attacks.objectives import LogitObjective, Objective, infer
from kerobust.attacks.stochastic import Averaged
from kerobust.attacks.tracing import traced
from kerobust.config import UserError
from kerobust.distribute import over_replicas, replica_index, sharing_replicas

Kind = Callable[[Any], Objective]  # Of a victim, such as a class of objectives.


class Victim:
    """Calls a model in inference mode and counts every image that passes through it.

    Attacks compile once per objective, so keep the object as long as attacks go on.

    Args:
        model: Maps images float32 [B, H, W, C] in [0, 1] to logits [B, K].
        draws: Number of forwards per point if the model is random on purpose; logits
            are then the mean over the draws.
    """

    def __init__(self, model: Callable[[tf.Tensor], tf.Tensor], draws: int = 1):
        self.model: Any = model  # It may have an `encoder`.
        self.draws = draws
        self._counts = [tf.Variable(0, dtype=tf.int64, trainable=False) for _ in "fb"]
        self._objectives: dict[Kind, Objective] = {}
        self._functions: dict[tuple[str, tf.TensorSpec, int], Callable] = {}

    def __call__(self, images: tf.Tensor):
        """Returns the outputs on images float32 [B, H, W, C]; for graphs too.

        A model that lets no gradient pass (rounding, say) gets the gradient 0, so that
        black-box attacks go on where the others cannot; `diagnose` names it.
        """
        images = self._counted(images)
        outputs = infer(self.model, images)
        if not tf.is_tensor(outputs) or outputs.shape.rank != 2:
            return outputs  # Whoever wants logits refuses them in its own words.
        return _reached(outputs, images)

    def member_logits(self, images: tf.Tensor) -> tf.Tensor:
        """Returns what each member of an ensemble says [N, B, K]; for graphs too.

        An image that passes through all members counts once.

        Args:
            images: float32 [B, H, W, C].
        """
        images = self._counted(images)
        return _reached(infer(self.model.member_logits, images), images)

    def embed(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the class tokens of the model's encoder [B, D]; for graphs too.

        Args:
            images: float32 [B, H, W, C].
        """
        return embedded(self.model.encoder, self._counted(images))

    def _counted(self, images: tf.Tensor) -> tf.Tensor:
        """Returns images as they are; counts them now and when gradients come back."""
        forwards, backwards = map(_own, self._counts)

        @tf.custom_gradient
        def counted(images):
            def backward(gradient):
                backwards.assign_add(tf.shape(images, tf.int64)[0])
                return gradient

            return tf.identity(images), backward

        forwards.assign_add(tf.shape(images, tf.int64)[0])
        return counted(images)

    def objective(self, kind: Kind) -> Objective:
        """Returns the objective `kind` on this model, always the same one.

        Args:
            kind: Class of objectives, or another function of a victim; told by identity
                or hash.
        """
        if kind not in self._objectives:
            objective = kind(self)
            averaged = Averaged(objective, self.draws) if self.draws > 1 else objective
            self._objectives[kind] = averaged
        return self._objectives[kind]

    def logits(self, images) -> tf.Tensor:
        """Returns finite float32 [B, K]; raises a `UserError` if there is no such."""
        logits = self._compiled("logits", self._mean_logits, images)
        shape = getattr(logits, "shape", None)
        if shape is None or shape.rank != 2 or shape[1] < 2:
            text = type(logits).__name__ if shape is None else f"shape {shape}"
            raise UserError(
                "`model` must map images to logits [B, K] of at least two classes. "
                f"Received: an output of {text}."
            )
        if not tf.reduce_all(tf.math.is_finite(logits)):
            raise UserError(
                "`model` must return finite logits. Received: NaN or infinity. The "
                "model has diverged, or overflows in half precision."
            )
        return logits

    def embeddings(self, images) -> tf.Tensor:
        """Returns `embed` of images, compiled."""
        return self._compiled("embeddings", self.embed, images)

    def predictions(self, images) -> np.ndarray:
        """Returns int32 [B]."""
        return tf.argmax(self.logits(images), 1, output_type=tf.int32).numpy()

    def passes(self) -> tuple[int, int]:
        """Returns how many images went forwards, and gradients backwards, so far."""
        forwards, backwards = (sum(map(int, _copies(count))) for count in self._counts)
        return forwards, backwards

    def _compiled(self, name: str, function: Callable, images):
        """Returns `function(images)` from one graph for all batch sizes."""
        images = tf.convert_to_tensor(images)
        kind, replicas = any_batch(images), sharing_replicas(images.shape[0])
        key = (name, kind, replicas)
        if key not in self._functions:
            shared = function if replicas == 1 else over_replicas(function)
            self._functions[key] = traced(shared, [kind])
        return self._functions[key](images)

    def _mean_logits(self, images):
        if self.draws == 1:
            return self(images)
        outputs = Averaged(LogitObjective(self), self.draws).outputs(images)
        return tf.reduce_mean(outputs, axis=0)


def _copies(count: tf.Variable) -> tuple[tf.Variable, ...]:
    """Returns the counts of all replicas, if it was made for several."""
    return getattr(count, "values", (count,))


def _own(count: tf.Variable) -> tf.Variable:
    """Returns the count of this replica: a common one would make the others wait."""
    copies = _copies(count)
    return copies[replica_index() % len(copies)]


def _reached(outputs: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """Returns outputs [.., B, K] with a path of gradient 0 to images [B, H, W, C]."""
    return outputs + 0.0 * tf.reduce_sum(images, axis=[1, 2, 3])[:, tf.newaxis]
