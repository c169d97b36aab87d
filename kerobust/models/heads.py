"""Heads that turn tokens into predictions."""

import tensorflow as tf

from kerobust.config import check_name
from kerobust.models.blocks import layer_norm
from kerobust.types import Tokens

POOLINGS = ("mean", "cls")


@tf.keras.saving.register_keras_serializable("kerobust")
class ClassifierHead(tf.keras.layers.Layer):
    """Pools the tokens, normalises them and maps them to logits, all in float32.

    Args:
        num_classes: Number of classes.
        pooling: "mean" of the patch tokens (the class token is left out), or "cls".
        kernel_stddev: Spread of the initial kernel, a normal cut at two deviations.
        norm: Whether a layer norm follows the pooling.

    Call arguments:
        tokens: `Tokens`: cls [B, D], patches [B, N, D].

    Returns:
        float32 [B, num_classes].

    References:
        He et al., 2022, arXiv:2111.06377, appendix A (mean pooling, `fc_norm`).
    """

    def __init__(
        self,
        num_classes: int,
        *,
        pooling: str = "mean",
        kernel_stddev: float = 0.02,
        norm: bool = True,
        **kwargs,
    ):
        super().__init__(dtype="float32", **kwargs)
        check_name("pooling", pooling, POOLINGS)
        self.num_classes, self.pooling = num_classes, pooling
        self.kernel_stddev = kernel_stddev
        self.norm = layer_norm("norm", dtype="float32") if norm else None
        self.dense = tf.keras.layers.Dense(
            num_classes,
            kernel_initializer=tf.keras.initializers.TruncatedNormal(
                stddev=kernel_stddev
            ),
            dtype="float32",
            name="dense",
        )

    def call(self, tokens: Tokens):
        pooled = tokens.cls
        if self.pooling == "mean":
            pooled = tf.reduce_mean(tokens.patches, axis=1)
        if self.norm is not None:
            pooled = self.norm(pooled)
        return self.dense(pooled)

    def get_config(self):
        return {
            "num_classes": self.num_classes,
            "pooling": self.pooling,
            "kernel_stddev": self.kernel_stddev,
            "norm": self.norm is not None,
        }


@tf.keras.saving.register_keras_serializable("kerobust")
class Classifier(tf.keras.Model):
    """An encoder and a head: images to logits.

    All variables exist after construction.

    Args:
        encoder: Model whose `call`, `width` and `layer_groups` are those of
            `VisionTransformer`.
        head: `ClassifierHead`.

    Call arguments:
        images: float32 [B, H, W, C] in [0, 1].
        training, keys: See `VisionTransformer`.

    Returns:
        float32 [B, num_classes].
    """

    def __init__(self, encoder: tf.keras.Model, head: ClassifierHead, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.encoder = encoder
        self.head = head
        self._make_variables()

    def _make_variables(self):
        """Runs the head on one token; the encoder has its variables already."""
        with tf.init_scope():
            width = self.encoder.width
            self.head(Tokens(tf.zeros([1, width]), tf.zeros([1, 1, width])))
        self.built = True

    def call(self, images, training=None, keys=None):
        return self.head(self.encoder(images, training=training, keys=keys))

    def layer_groups(self) -> list[list[tf.Variable]]:
        """Returns the encoder's groups with the head in the last one."""
        *groups, last = self.encoder.layer_groups()
        return [*groups, last + self.head.trainable_variables]

    def get_config(self):
        return {
            "encoder": tf.keras.saving.serialize_keras_object(self.encoder),
            "head": tf.keras.saving.serialize_keras_object(self.head),
        }

    @classmethod
    def from_config(cls, config):
        parts = {
            name: tf.keras.saving.deserialize_keras_object(config[name])
            for name in ("encoder", "head")
        }
        return cls(**parts)
