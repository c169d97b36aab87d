"""AdamW and SGD as published, with a rate and a first step per variable."""

from collections.abc import Mapping, Sequence

import tensorflow as tf
from tensorflow import keras


@keras.saving.register_keras_serializable("kerobust")
class AdamW(keras.optimizers.Adam):
    """Adam with decoupled weight decay and one factor on the rate per variable.

    For update t = 1, 2, ... of variable w with r = schedule(t - 1) * its rate scale:

        w <- w - r * weight_decay * w                     (decayed variables only)
        m <- beta_1 m + (1 - beta_1) g;   v <- beta_2 v + (1 - beta_2) g^2
        w <- w - r * (m / (1 - beta_1^t)) / (sqrt(v / (1 - beta_2^t)) + epsilon)

    Variables of rank 0 or 1 (biases, norms) never decay.

    Args:
        learning_rate: Float or schedule.
        weight_decay: Factor of the decay, at least 0, or a schedule of it.
        beta_1, beta_2: Decay of the two moments, in [0, 1).
        epsilon: Added to the root of the second moment, above 0.
        no_decay: Names (last part of the path) of variables of higher rank that do not
            decay either. Pretraining decays the class token, fine-tuning does not:
            pass `("bias", "pos_embed", "positions", "cls_token")` there.
        **kwargs: See `tf.keras.optimizers.Adam` (clipping, EMA, name); `amsgrad` is
            refused.

    Raises:
        ValueError: If `weight_decay` is negative or `amsgrad` is asked for.

    References:
        Loshchilov and Hutter, 2019, arXiv:1711.05101, algorithm 2.

    Differences:
        The decay is multiplied by the rate, and is taken from the weights before the
        step instead of together with it, as in PyTorch. Keras' own AdamW adds epsilon
        before the correction of the second moment and decays every variable.
    """

    def __init__(
        self,
        learning_rate=1e-3,
        weight_decay=0.05,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        *,
        no_decay: Sequence[str] = ("bias",),
        name="AdamW",
        **kwargs,
    ):
        if kwargs.get("amsgrad"):
            raise ValueError("`amsgrad` must be False. Received: amsgrad=True.")
        _check_decay(weight_decay)
        # The parent's own decay stays off: it knows no scales.
        super().__init__(learning_rate, beta_1, beta_2, epsilon, name=name, **kwargs)
        self.decay = weight_decay
        self.no_decay = tuple(no_decay)
        self._rate_scales: dict[str, float] = {}
        self._first_steps: dict[str, int] = {}
        self._decayed: dict[str, bool] = {}

    def set_rate_scales(
        self, variables: Sequence[tf.Variable], scales: Sequence[float]
    ) -> None:
        """Gives each variable its factor on the rate (and so on the decay).

        Variables that are not named here keep the factor 1; with the factor 0 a
        variable stays as it is. The factors belong to variables of this process and
        are therefore not part of `get_config`.

        Args:
            variables: Model variables.
            scales: As many factors, each at least 0.

        Raises:
            ValueError: If the lengths differ, a factor is negative, a variable comes
                twice, or the optimizer is built already.
        """
        if len(self.variables) > 1:
            raise ValueError("`set_rate_scales` must be called before `build`.")
        if len(variables) != len(scales):
            raise ValueError(
                "`scales` must have one entry per variable. "
                f"Received: {len(variables)} variables, {len(scales)} scales."
            )
        if any(scale < 0 for scale in scales):
            raise ValueError(f"`scales` must be at least 0. Received: {scales=}.")
        keys = [self._var_key(variable) for variable in variables]
        if len(set(keys)) < len(keys):
            raise ValueError("`variables` must not name a variable twice.")
        self._rate_scales = dict(zip(keys, scales, strict=True))

    def start_at(self, variables: Sequence[tf.Variable], step: int) -> None:
        """Leaves variables and their moments alone before update `step`.

        Their t counts from there: they have neither decay nor moments nor corrections
        of the updates before. Call before `build`.

        Args:
            variables: Model variables.
            step: Number of updates to wait, at least 0.
        """
        for variable in variables:
            self._first_steps[self._var_key(variable)] = step

    def build(self, var_list):
        """Makes the moments of `var_list` and settles which variables decay.

        Raises:
            ValueError: If the variables are mirrored and the current scope is not that
                of their strategy.
        """
        _check_scope(var_list)
        # Inside an update under a strategy, names carry a replica: ask for them here.
        self._decayed = {self._var_key(item): self._decays(item) for item in var_list}
        super().build(var_list)

    def update_step(self, gradient, variable):
        """Updates one variable and its moments."""
        key = self._var_key(variable)
        index = self._index_dict[key]
        first, second = self._momentums[index], self._velocities[index]
        gradient = tf.convert_to_tensor(gradient)
        rate = tf.cast(self.learning_rate, variable.dtype)
        rate = rate * self._rate_scales.get(key, 1.0)
        start, kept = self._first_steps.get(key, 0), 1.0
        if start:  # Before it, every change below is multiplied by 0.
            kept = tf.cast(self.iterations >= start, variable.dtype)
            rate = rate * kept

        if self._decayed[key]:
            variable.assign_sub(rate * self._decay(variable.dtype) * variable)
        first.assign_add(kept * (gradient - first) * (1 - self.beta_1))
        second.assign_add(kept * (tf.square(gradient) - second) * (1 - self.beta_2))
        size = tf.sqrt(second / self._correction(self.beta_2, start, variable.dtype))
        mean = first / self._correction(self.beta_1, start, variable.dtype)
        variable.assign_sub(rate * mean / (size + self.epsilon))

    def get_config(self):
        """Returns the arguments of the constructor, without the rate scales."""
        config = super().get_config()
        del config["amsgrad"]
        decay = self.decay
        if callable(decay):
            decay = keras.saving.serialize_keras_object(decay)
        return {**config, "weight_decay": decay, "no_decay": list(self.no_decay)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Returns the optimizer that `get_config` described."""
        config = {**config}
        if isinstance(config["weight_decay"], Mapping):
            decay = keras.saving.deserialize_keras_object(config["weight_decay"])
            config["weight_decay"] = decay
        return super().from_config(config, custom_objects)

    def _decay(self, dtype):
        decay = self.decay(self.iterations) if callable(self.decay) else self.decay
        return tf.cast(decay, dtype)

    def _correction(self, beta, start, dtype):
        """Returns 1 - beta^t; float32 would keep five digits of it at beta 0.999."""
        update = tf.cast(tf.maximum(self.iterations - start, 0) + 1, tf.float64)
        return tf.cast(1 - tf.pow(tf.constant(beta, tf.float64), update), dtype)

    def _decays(self, variable) -> bool:
        name = variable.name.split("/")[-1].split(":")[0]
        decay = callable(self.decay) or self.decay > 0
        return decay and variable.shape.rank > 1 and name not in self.no_decay


@keras.saving.register_keras_serializable("kerobust")
class MomentumSGD(keras.optimizers.Optimizer):
    """Gradient descent with momentum and coupled weight decay, as PyTorch does it.

    For every update of variable w at rate r:

        g <- g + weight_decay * w;   b <- momentum * b + g;   w <- w - r * b

    Every variable decays, biases and norms included.

    Args:
        learning_rate: Float or schedule.
        momentum: In [0, 1).
        weight_decay: Factor of the decay, at least 0.
        **kwargs: See `tf.keras.optimizers.Optimizer` (clipping, name).

    Raises:
        ValueError: If `weight_decay` or `momentum` is out of range.

    Differences:
        Keras' own SGD multiplies the gradient by the rate before it enters the
        momentum, which is another sequence when the rate changes, and its decay does
        not pass through the momentum.
    """

    def __init__(
        self,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=0.0,
        name="MomentumSGD",
        **kwargs,
    ):
        _check_decay(weight_decay)
        if not 0 <= momentum < 1:
            raise ValueError(
                f"`momentum` must lie in [0, 1). Received: momentum={momentum}."
            )
        super().__init__(name=name, **kwargs)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.momentum = momentum
        self.decay = weight_decay

    def build(self, var_list):
        """Makes the momentum of every variable."""
        _check_scope(var_list)
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self.buffers = [
            self.add_variable_from_reference(variable, "buffer")
            for variable in var_list
        ]
        self._built = True

    def update_step(self, gradient, variable):
        """Updates one variable and its momentum."""
        buffer = self.buffers[self._index_dict[self._var_key(variable)]]
        rate = tf.cast(self.learning_rate, variable.dtype)
        gradient = tf.convert_to_tensor(gradient) + self.decay * variable
        buffer.assign(self.momentum * buffer + gradient)
        variable.assign_sub(rate * buffer)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "learning_rate": self._serialize_hyperparameter(self._learning_rate),
            "momentum": self.momentum,
            "weight_decay": self.decay,
        }


def _check_decay(decay) -> None:
    if not callable(decay) and decay < 0:
        raise ValueError(
            f"`weight_decay` must be at least 0. Received: weight_decay={decay}."
        )


def _check_scope(variables) -> None:
    mirrored = [isinstance(v, tf.distribute.DistributedValues) for v in variables]
    if any(mirrored) and not tf.distribute.has_strategy():
        # Moments made here would be shared by the replicas, each updating them.
        raise ValueError("`build` must be called inside the strategy's scope.")


def layer_rate_scales(
    variables_by_layer: Sequence[Sequence[tf.Variable]], decay: float
) -> list[float]:
    """Returns layer-wise rate factors, one per variable in the flattened order.

    Args:
        variables_by_layer: Variables of each layer, from input to output.
        decay: Factor per layer below the last, whose own factor is 1; in [0, 1].

    Returns:
        decay^(layers - 1 - layer) for each variable.

    Raises:
        ValueError: If `decay` is out of range.

    References:
        Clark et al., 2020, arXiv:2003.10555, appendix A.
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"`decay` must lie in [0, 1]. Received: decay={decay}.")
    top = len(variables_by_layer) - 1
    return [
        decay ** (top - layer)
        for layer, variables in enumerate(variables_by_layer)
        for _ in variables
    ]
