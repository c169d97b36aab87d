"""Heads that turn tokens into predictions."""

import itertools

import tensorflow as tf

from kerobust.config import UserError, check_name
from kerobust.models.blocks import layer_norm
from kerobust.types import Tokens

POOLINGS = ("mean", "cls", "cls_mean", "last4_cls")
_LAST = {"last4_cls": 4}  # Pooling -> number of last blocks whose tokens it reads.


@tf.keras.saving.register_keras_serializable("kerobust")
class ClassifierHead(tf.keras.layers.Layer):
    """Pools the tokens, normalises them and maps them to logits, all in float32.

    Args:
        num_classes: Number of classes.
        pooling: "mean" of the patch tokens (the class token is left out); "cls";
            "cls_mean", both, entry by entry in turns; "last4_cls", the class tokens
            of the last four blocks side by side, earliest first.
        kernel_stddev: Spread of the initial kernel, a normal cut at two deviations.
        norm: Whether a layer norm follows the pooling.

    Call arguments:
        tokens: `Tokens`: cls [B, D], patches [B, N, D]; a list of the `blocks` last
            ones, each after the final norm, if `blocks` is above 1.

    Returns:
        float32 [B, num_classes].

    References:
        He et al., 2022, arXiv:2111.06377, appendix A (mean pooling, `fc_norm`). Caron
        et al., 2021, arXiv:2104.14294, appendix F.3: linear evaluation of ViT-S by
        "last4_cls", of ViT-B by "cls_mean" (the order of its published heads).
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

    @property
    def blocks(self) -> int:
        """Number of last blocks of the encoder whose tokens it reads."""
        return _LAST.get(self.pooling, 1)

    def pool(self, tokens: Tokens | list[Tokens]) -> tf.Tensor:
        """Returns what the rest of the head reads, float [B, D times what is joined].

        Args:
            tokens: As in `call`.
        """
        if not isinstance(tokens, Tokens):
            return tf.concat([each.cls for each in tokens], axis=1)
        if self.pooling == "cls":
            return tokens.cls
        mean = tf.reduce_mean(tokens.patches, axis=1)
        if self.pooling == "mean":
            return mean
        both = tf.stack([tokens.cls, mean], axis=2)
        return tf.reshape(both, [-1, 2 * both.shape[1]])

    def call(self, tokens: Tokens | list[Tokens]):
        pooled = self.pool(tokens)
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


class EncoderWithHead(tf.keras.Model):
    """Base of models that are an `encoder` and a `head`, which are their settings."""

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


@tf.keras.saving.register_keras_serializable("kerobust")
class Classifier(EncoderWithHead):
    """An encoder and a head: images to logits.

    All variables exist after construction.

    Args:
        encoder: Model whose `call`, `width` and `layer_groups` are those of
            `VisionTransformer`; `intermediate_tokens` too if the head reads several
            blocks.
        head: `ClassifierHead`.

    Call arguments:
        images: float32 [B, H, W, C] in [0, 1].
        training, keys: See `VisionTransformer`.

    Returns:
        float32 [B, num_classes].

    Raises:
        UserError: If the encoder lacks the blocks that the head reads.
    """

    def __init__(self, encoder: tf.keras.Model, head: ClassifierHead, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.encoder = encoder
        self.head = head
        _check_blocks(encoder, head)
        self._make_variables()

    def _make_variables(self):
        """Runs the head on one token; the encoder has its variables already."""
        with tf.init_scope():
            width, count = self.encoder.width, self.head.blocks
            tokens = Tokens(tf.zeros([1, width]), tf.zeros([1, 1, width]))
            self.head(tokens if count == 1 else [tokens] * count)
        self.built = True

    def call(self, images, training=None, keys=None):
        return self.head(self._tokens(images, training, keys))

    def features(self, images) -> tf.Tensor:
        """Returns what the head reads of images without training, float [B, D'].

        Args:
            images: float32 [B, H, W, C] in [0, 1].
        """
        return self.head.pool(self._tokens(images, False, None))

    def _tokens(self, images, training, keys):
        """Returns the tokens for the head: of the last block, or a list of several."""
        count = self.head.blocks
        if count == 1:
            return self.encoder(images, training=training, keys=keys)
        given = {"training": training, "keys": keys}
        return self.encoder.intermediate_tokens(images, count, **given)

    @property
    def layer_count(self) -> int:
        """Number of layers that `layer` knows: the encoder's and the logits."""
        return self.encoder.layer_count + 1

    def layer(self, images, number: int, training=None, keys=None) -> tf.Tensor:
        """Returns what one layer computes before its activation, float32 [B, ...].

        No later layer runs.

        Args:
            images, training, keys: As of a call.
            number: In [1, `layer_count`]; the last one gives the logits.

        Raises:
            UserError: If there is no such layer.
        """
        if not 1 <= number <= self.layer_count:
            raise UserError(
                f"`number` must lie in [1, {self.layer_count}], the layers of the "
                f"classifier. Received: number={number}."
            )
        if number == self.layer_count:
            return self(images, training=training, keys=keys)
        outputs = self.encoder.layer_outputs(images, training=training, keys=keys)
        return next(itertools.islice(outputs, number - 1, None))

    def layer_groups(self) -> list[list[tf.Variable]]:
        """Returns the encoder's groups with the head in the last one."""
        *groups, last = self.encoder.layer_groups()
        return [*groups, last + self.head.trainable_variables]


def _check_blocks(encoder, head: ClassifierHead) -> None:
    """Raises unless the encoder can give the tokens of all blocks that a head reads."""
    known = hasattr(encoder, "intermediate_tokens")
    depth = getattr(encoder, "depth", 0) if known else 1
    if head.blocks > depth:
        raise UserError(
            f"`pooling` {head.pooling} must have an encoder that gives the tokens of "
            f"its last {head.blocks} blocks. Received: pooling={head.pooling}, a "
            f"{type(encoder).__name__} that gives {depth}. Choose mean, cls or "
            "cls_mean."
        )
