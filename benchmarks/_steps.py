"""A training step beside the passes that it must make."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from benchmarks import _measure
from kerobust.methods.base import Method

STEP = (
    1.0  # Of bare ascent: gradients of untrained networks must show in float32 images.
)


def train_step(method: Method, batch) -> Callable:
    """Returns one step of `fit` on a repeated batch."""
    iterator = iter(tf.data.Dataset.from_tensors(batch).repeat())
    function = method.make_train_function()
    return lambda: function(iterator)


def update_pass(method: Method, batch) -> Callable:
    """Returns the update of all weights on a batch whose attacks have been made."""

    @tf.function(autograph=False)
    def update(batch):
        variables = method.trained_variables()
        with tf.GradientTape() as tape:
            terms = method.loss_terms(batch, training=True)
            loss = tf.add_n(list(terms.values()))
        method.optimizer.minimize(loss, variables, tape=tape)
        method.after_update(batch)
        return loss

    return lambda: update(batch)


def climb(objective, images, targets, steps: int) -> tf.Tensor:
    """Returns images after bare gradient steps: one forward and backward each."""
    for _ in range(steps):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            values = objective(images, targets)
        images = images + STEP * tape.gradient(values, images)
    return images


def timed(contenders: dict[str, Callable], rounds: int, name: str) -> dict:
    """Returns contender -> its seconds in every round."""
    for part, run in contenders.items():  # The first call compiles: not timed.
        print(f"{name}: warming up {part}", flush=True)
        run()
        run()
    return _measure.interleave(contenders, rounds, name)


def excess(seconds: dict[str, list[float]], passes: Sequence[str]) -> list[float]:
    """Returns per round the step over the sum of its passes."""
    parts = zip(*(seconds[name] for name in passes), strict=True)
    return _measure.ratios(seconds["step"], [sum(values) for values in parts])


def shown(seconds: dict[str, list[float]]) -> dict[str, str]:
    """Returns the cells of a table: milliseconds of every contender."""
    return {
        f"{name} ms": _measure.show([1000 * each for each in values], 1)
        for name, values in seconds.items()
    }
