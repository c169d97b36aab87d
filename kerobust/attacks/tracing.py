"""Compiled functions that call victims."""

import functools
from collections.abc import Callable

import tensorflow as tf

# The public API cannot tell Keras to convert Python control flow in victims without
# converting this library too.
from tensorflow.python.autograph.core import ag_ctx


def traced(function: Callable, signature=None, *, apart: bool = False) -> Callable:
    """Returns a `tf.function` of tensors that lets Keras convert its models' calls.

    Args:
        function: Tensors -> nest of tensors; nothing in it is converted.
        signature: As in `tf.function`.
        apart: Whether it stays a graph of its own where another graph calls it.
    """
    # TensorFlow counts the traces of a partial for itself. Those of a nested function
    # it would add up for all victims, and warn.
    run = functools.partial(_run, function)
    attributes = {"_noinline": True} if apart else None
    return tf.function(
        run, signature, autograph=False, experimental_attributes=attributes
    )


def _run(function, *arguments):
    with ag_ctx.ControlStatusCtx(ag_ctx.Status.ENABLED):
        return function(*arguments)
