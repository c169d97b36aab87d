"""The head of self-distillation: a perceptron and weight-normalised prototypes."""

import math

import tensorflow as tf


@tf.keras.saving.register_keras_serializable("kerobust")
class WeightNormDense(tf.keras.layers.Layer):
    """A dense layer without bias whose columns are scale * direction / |direction|.

    Args:
        units: K.
        train_scale: Whether the K scales, initially 1, are trained.

    References:
        Salimans and Kingma, 2016, arXiv:1602.07868, equation 2.
    """

    def __init__(self, units: int, *, train_scale: bool = False, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.units, self.train_scale = units, train_scale

    def build(self, shape):
        """Makes scale [1, K] and direction [D, K], uniform in +-1 / sqrt(D)."""
        limit = 1.0 / math.sqrt(shape[-1])
        self.scale = self.add_weight(
            "scale", [1, self.units], initializer="ones", trainable=self.train_scale
        )
        self.direction = self.add_weight(
            "direction",
            [shape[-1], self.units],
            initializer=tf.keras.initializers.RandomUniform(-limit, limit),
        )
        self.built = True

    def call(self, features):
        """Returns float32 [B, K] from float [B, D]."""
        features = tf.cast(features, tf.float32)
        length = tf.norm(self.direction, axis=0, keepdims=True)
        return tf.matmul(features, self.direction * (self.scale / length))


@tf.keras.saving.register_keras_serializable("kerobust")
class DinoHead(tf.keras.Model):
    """Maps features to K prototype scores: MLP, unit length, weight-normalised dense.

    All variables exist after construction. Scores are float32 under every precision
    policy.

    Args:
        input_width: D, width of the features.
        prototypes: K.
        hidden: Width of the hidden layers.
        bottleneck: Width of the last layer of the MLP, whose output is normalised.
        layers: Dense layers of the MLP, at least 1.
        train_scale: Whether the scales of the prototypes are trained.

    Call arguments:
        features: float [B, D].

    Returns:
        float32 [B, K].

    References:
        Caron et al., 2021, arXiv:2104.14294, appendix C, "projection head".

    Differences:
        No batch norm between the layers (an option of the original, off by default).
    """

    def __init__(
        self,
        input_width: int,
        prototypes: int,
        *,
        hidden: int = 2048,
        bottleneck: int = 256,
        layers: int = 3,
        train_scale: bool = False,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.input_width, self.prototypes = input_width, prototypes
        self.hidden, self.bottleneck, self.layer_count = hidden, bottleneck, layers
        self.train_scale = train_scale
        widths = [hidden] * (layers - 1) + [bottleneck]
        self.mlp = [
            tf.keras.layers.Dense(
                width,
                kernel_initializer=tf.keras.initializers.RandomNormal(stddev=0.02),
                name=f"dense_{index}",
            )
            for index, width in enumerate(widths)
        ]
        self.last = WeightNormDense(prototypes, train_scale=train_scale, name="last")
        with tf.init_scope():
            self.call(tf.zeros([1, input_width]))
        self.built = True

    def call(self, features):
        return self.last(self.project(features))

    def project(self, features) -> tf.Tensor:
        """Returns what the prototypes are compared with, unit rows float32 [B, E]."""
        features = tf.cast(features, self.compute_dtype)
        for index, dense in enumerate(self.mlp):
            if index:
                features = tf.nn.gelu(features, approximate=False)
            features = dense(features)
        return tf.math.l2_normalize(tf.cast(features, tf.float32), axis=-1)

    def get_config(self):
        return {
            "input_width": self.input_width,
            "prototypes": self.prototypes,
            "hidden": self.hidden,
            "bottleneck": self.bottleneck,
            "layers": self.layer_count,
            "train_scale": self.train_scale,
        }
