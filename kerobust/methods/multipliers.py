"""Lagrange multipliers of per-example constraints, and how they are raised."""

import tensorflow as tf

from kerobust.distribute import replica_count

KINDS = ("adaptive", "scalar", "fixed", "none")
_BETAS, _TINY = (0.9, 0.999), 1e-8


class Multipliers(tf.keras.layers.Layer):
    """One multiplier per constraint, at least 0, and gradient ascent on their weights.

    adaptive: softplus(MLP(features)), two layers with a ReLU between them. scalar: the
    softplus of one number per constraint, which starts at 0. fixed: `weight`. All in
    float32. `ascend` climbs the mean of multiplier * slack by Adam: where a constraint
    is violated (slack above 0) its multiplier rises, else it falls towards 0.

    Args:
        kind: "adaptive", "scalar" or "fixed".
        count: Number of constraints K.
        inputs: Width D of the features.
        width: Width of the hidden layer of adaptive.
        rate: Rate of the ascent.
        weight: The multiplier of fixed.

    Call arguments:
        features: float [B, D].

    Returns:
        float32 [B, K].

    References:
        Kingma & Ba, 2015, arXiv:1412.6980, algorithm 1.

    Differences:
        An optimizer of Keras cannot leave out updates inside a replica; this one can.
    """

    def __init__(
        self, kind: str, count: int, inputs: int, *, width: int, rate: float, weight
    ):
        super().__init__(dtype="float32", name="multipliers")
        self.kind, self.count, self.rate, self.weight = kind, count, rate, weight
        self.mlp = []
        if kind == "adaptive":
            dense = tf.keras.layers.Dense
            self.mlp = [
                dense(width, "relu", dtype="float32", name="hidden"),
                dense(count, dtype="float32", name="out"),
            ]
            for layer, size in zip(self.mlp, (inputs, width), strict=True):
                layer.build([None, size])
        elif kind == "scalar":
            self.add_weight("raw", [count], initializer="zeros")
        self.climbing = list(self.trainable_weights)
        self.first, self.second = (
            [self._slot(name, variable.shape) for variable in self.climbing]
            for name in ("first", "second")
        )
        self.updates_made = self._slot("updates_made", [])
        self.built = True

    def _slot(self, name: str, shape) -> tf.Variable:
        return self.add_weight(name, shape, initializer="zeros", trainable=False)

    def call(self, features):
        rows = tf.shape(features)[0]
        if self.kind == "fixed":
            return tf.fill([rows, self.count], float(self.weight))
        if self.kind == "scalar":
            raw = tf.broadcast_to(self.climbing[0], [rows, self.count])
        else:
            raw = tf.cast(features, tf.float32)
            for layer in self.mlp:
                raw = layer(raw)
        return tf.nn.softplus(raw)

    def ascend(self, features, slacks: tf.Tensor, due: tf.Tensor) -> None:
        """Makes one step up, on every replica, along the mean over all their rows.

        Args:
            features: float [B, D].
            slacks: float32 [B, K], constants; above 0 where a constraint is violated.
            due: bool scalar; false leaves everything as it is, bit for bit.
        """
        if not self.climbing:
            return
        with tf.GradientTape() as tape:
            products = self(features) * tf.stop_gradient(slacks)
            value = tf.reduce_sum(tf.reduce_mean(products, axis=0)) / replica_count()
        context = tf.distribute.get_replica_context()
        gradients = context.all_reduce(
            tf.distribute.ReduceOp.SUM, tape.gradient(value, self.climbing)
        )
        due = tf.cast(due, tf.float32)
        context.merge_call(self._everywhere, args=(gradients, due))

    def _everywhere(self, strategy, gradients, due) -> None:
        update = strategy.extended.update
        update(self.updates_made, lambda count, due: count.assign_add(due), args=(due,))
        slots = (self.climbing, gradients, self.first, self.second)
        for variable, *given in zip(*slots, strict=True):
            update(variable, self._step, args=(*given, self.updates_made, due))

    def _step(self, variable, gradient, first, second, count, due) -> None:
        """Makes the update number `count` of a variable by its gradient."""
        count = tf.maximum(count, 1.0)
        first.assign_add(due * (1 - _BETAS[0]) * (gradient - first))
        second.assign_add(due * (1 - _BETAS[1]) * (gradient**2 - second))
        mean, square = (
            slot / (1.0 - beta**count)
            for slot, beta in zip((first, second), _BETAS, strict=True)
        )
        variable.assign_add(due * self.rate * mean / (tf.sqrt(square) + _TINY))
