"""Transformer blocks shared by encoders and decoders."""

from collections.abc import Callable

import tensorflow as tf

from kerobust.config import UserError
from kerobust.randomness import fold_in, uniform


def layer_norm(name: str, **kwargs) -> tf.keras.layers.LayerNormalization:
    """Returns a layer norm with the epsilon of vision transformers.

    It computes in float32 under every precision policy.
    """
    return tf.keras.layers.LayerNormalization(epsilon=1e-6, name=name, **kwargs)


class DropPath(tf.keras.layers.Layer):
    """Drops a residual branch for some examples while training.

    Kept branches are divided by the probability of keeping them, so the expectation
    does not change. The decision is a function of the example's key and `stream`.

    Args:
        rate: Probability of dropping, in [0, 1).
        stream: Keeps the decisions of several branches under one key apart.

    References:
        Huang et al., 2016, arXiv:1603.09382.
    """

    def __init__(self, rate: float, stream: int = 0, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"`rate` must lie in [0, 1). Received: rate={rate}.")
        self.rate = rate
        self.stream = stream

    def call(self, branch, training=None, keys=None):
        """Returns the branch, float [B, N, D], with dropped examples set to zero.

        Args:
            branch: float [B, N, D].
            training: Python bool; nothing is dropped unless it is true.
            keys: int32 [B, 2], needed only if something may be dropped.

        Raises:
            ValueError: If `keys` is needed and missing.
        """
        if not training or self.rate == 0:
            return branch
        if keys is None:
            raise ValueError(
                "`keys` (int32 [B, 2], see kerobust.randomness.example_keys) must be "
                f"given when training with drop path. Received: keys=None, "
                f"rate={self.rate}."
            )
        kept = uniform(fold_in(keys, self.stream), [1, 1]) >= self.rate
        return branch * (tf.cast(kept, branch.dtype) / (1.0 - self.rate))


class Attention(tf.keras.layers.Layer):
    """Multi-head self-attention with one matrix product for queries, keys and values.

    Scores and their softmax are float32 under every precision policy: half-precision
    scores overflow with many small patches.

    Args:
        width: Token width, a multiple of `heads`.
        heads: Number of attention heads.
        qkv_bias: Whether queries, keys and values have a bias.

    References:
        Vaswani et al., 2017, arXiv:1706.03762, section 3.2.
    """

    def __init__(self, width: int, heads: int, *, qkv_bias: bool = True, **kwargs):
        super().__init__(**kwargs)
        if heads < 1 or width % heads:
            raise UserError(
                "`heads` (--model.heads, --mae.decoder_heads) must divide the width. "
                f"Received: heads={heads}, width={width}."
            )
        self.heads = heads
        self.head_width = width // heads
        self.qkv = tf.keras.layers.Dense(3 * width, use_bias=qkv_bias, name="qkv")
        self.projection = tf.keras.layers.Dense(width, name="projection")

    def call(self, tokens):
        """Returns float [B, N, D] from float [B, N, D]."""
        queries, keys, values = self._split(tokens)
        weights = tf.cast(_softmax_scores(queries, keys), values.dtype)
        mixed = tf.transpose(tf.matmul(weights, values), [0, 2, 1, 3])
        length, width = tf.shape(tokens)[1], tokens.shape[-1]
        return self.projection(tf.reshape(mixed, [-1, length, width]))

    def weights_of(self, tokens) -> tf.Tensor:
        """Returns what each token takes from each, float32 [B, heads, N, N]."""
        queries, keys, _ = self._split(tokens)
        return _softmax_scores(queries, keys)

    def _split(self, tokens):
        """Returns scaled queries (float32), keys and values, [B, heads, N, d] each."""
        shape = [-1, tf.shape(tokens)[1], 3, self.heads, self.head_width]
        qkv = tf.transpose(tf.reshape(self.qkv(tokens), shape), [2, 0, 3, 1, 4])
        queries, keys, values = tf.unstack(qkv)
        return tf.cast(queries, tf.float32) * self.head_width**-0.5, keys, values


def _softmax_scores(queries, keys):
    scores = tf.matmul(queries, tf.cast(keys, tf.float32), transpose_b=True)
    return tf.nn.softmax(scores)


class Mlp(tf.keras.layers.Layer):
    """Two dense layers with the exact (erf) GELU between them.

    Args:
        width: Width of input and output.
        hidden: Width between the two layers.
    """

    def __init__(self, width: int, hidden: int, **kwargs):
        super().__init__(**kwargs)
        self.expand = tf.keras.layers.Dense(hidden, name="expand")
        self.reduce = tf.keras.layers.Dense(width, name="reduce")

    def call(self, tokens):
        """Returns float [B, N, D] from float [B, N, D]."""
        return self.reduce(tf.nn.gelu(self.expand(tokens), approximate=False))


class SwiGlu(tf.keras.layers.Layer):
    """An MLP whose hidden values are gated: silu(a) b, a and b from one dense layer.

    Args:
        width: Width of input and output.
        hidden: Width that a `Mlp` would have in between. Two thirds of it, rounded up
            to a multiple of 8, are the width here: about as many parameters.

    References:
        Shazeer, 2020, arXiv:2002.05202; Oquab et al., 2024, arXiv:2304.07193 (ViT-g).
    """

    def __init__(self, width: int, hidden: int, **kwargs):
        super().__init__(**kwargs)
        gated = (int(hidden * 2 / 3) + 7) // 8 * 8
        self.expand = tf.keras.layers.Dense(2 * gated, name="expand")
        self.reduce = tf.keras.layers.Dense(width, name="reduce")

    def call(self, tokens):
        """Returns float [B, N, D] from float [B, N, D]."""
        gate, values = tf.split(self.expand(tokens), 2, axis=-1)
        return self.reduce(tf.nn.silu(gate) * values)


MLPS: dict[str, Callable[..., tf.keras.layers.Layer]]
MLPS = {"gelu": Mlp, "swiglu": SwiGlu}


class LayerScale(tf.keras.layers.Layer):
    """Multiplies every channel by a weight of its own.

    Args:
        initial: Value of the weights at the start.

    References:
        Touvron et al., 2021, arXiv:2103.17239, section 2.
    """

    def __init__(self, initial: float, **kwargs):
        super().__init__(**kwargs)
        self.initial = initial

    def build(self, shape):
        constant = tf.keras.initializers.Constant(self.initial)
        self.gamma = self.add_weight("gamma", [shape[-1]], initializer=constant)

    def call(self, branch):
        """Returns float [B, N, D] from float [B, N, D]."""
        return branch * self.gamma


class Block(tf.keras.layers.Layer):
    """Pre-norm transformer block: attention, then MLP, each added to its input.

    Args:
        width: Token width.
        heads: Number of attention heads.
        mlp_ratio: Hidden width of the MLP over `width`.
        drop_path: Probability of dropping each of the two branches, in [0, 1).
        index: Number of the block; keeps the drop decisions of blocks apart.
        layer_scale: Initial value of the weight of every channel of the two branches,
            None = they are added as they are.
        mlp: "gelu" (`Mlp`) or "swiglu" (`SwiGlu`).
        qkv_bias: See `Attention`.

    References:
        Dosovitskiy et al., 2021, arXiv:2010.11929, section 3.1.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        index: int = 0,
        layer_scale: float | None = None,
        mlp: str = "gelu",
        qkv_bias: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.attention_norm = layer_norm("attention_norm")
        self.attention = Attention(width, heads, qkv_bias=qkv_bias, name="attention")
        self.attention_scale = _layer_scale(layer_scale, "attention_scale")
        self.attention_drop = DropPath(drop_path, 2 * index, name="attention_drop")
        self.mlp_norm = layer_norm("mlp_norm")
        self.mlp = MLPS[mlp](width, int(width * mlp_ratio), name="mlp")
        self.mlp_scale = _layer_scale(layer_scale, "mlp_scale")
        self.mlp_drop = DropPath(drop_path, 2 * index + 1, name="mlp_drop")

    def call(self, tokens, training=None, keys=None):
        """Returns float [B, N, D] from float [B, N, D]; `keys` as in `DropPath`."""
        branch = self.attention(self.attention_norm(tokens))
        branch = self.attention_scale(branch)
        tokens += self.attention_drop(branch, training=training, keys=keys)
        branch = self.mlp_scale(self.mlp(self.mlp_norm(tokens)))
        return tokens + self.mlp_drop(branch, training=training, keys=keys)

    def attention_weights(self, tokens) -> tf.Tensor:
        """Returns the attention inside the block, float32 [B, heads, N, N].

        Args:
            tokens: float [B, N, D], the input of the block.
        """
        return self.attention.weights_of(self.attention_norm(tokens))


def _layer_scale(initial: float | None, name: str) -> tf.keras.layers.Layer:
    """Returns a `LayerScale`, or the layer that changes nothing."""
    if initial is None:
        return tf.keras.layers.Activation("linear", name=name)
    return LayerScale(initial, name=name)
