"""Graphs of their own for victims, in float32 or, on CPUs, in bfloat16."""

from collections.abc import Callable

# Which options a call of a compiled function is optimised with is not public.
from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
from tensorflow.python.eager import context

from kerobust.attacks.tracing import traced

PRECISIONS = ("float32", "bfloat16")


def in_precision(precision: str, function: Callable, *arguments):
    """Returns `function(*arguments)`, computed in a precision; for use in a graph.

    The function becomes a graph of its own. In the body of a loop, TensorFlow's rewrite
    for CPUs may meet the gradient of a max pooling before the pooling itself, and then
    leaves it three times slower.

    "bfloat16" runs it under TensorFlow's automatic mixed precision for CPUs: matrix
    products and convolutions, and what lies between them, in bfloat16; reductions such
    as softmax and normalisation statistics in float32. Arguments and results keep their
    types. It is slow on CPUs without bfloat16 instructions; what runs on a GPU stays
    float32.

    Args:
        precision: One of `PRECISIONS`.
        function: Tensors -> nest of tensors.
        *arguments: Nests of tensors.
    """
    # Inlined, the function would share the options of its surroundings.
    apart = traced(function, apart=True)
    if precision == "float32":
        return apart(*arguments)
    here = context.context()
    usual = here.function_call_options
    config = config_pb2.ConfigProto()
    config.ParseFromString(usual.config_proto_serialized)
    rewrites = config.graph_options.rewrite_options
    rewrites.auto_mixed_precision_onednn_bfloat16 = (
        rewriter_config_pb2.RewriterConfig.ON
    )
    here.function_call_options = context.FunctionCallOptions(
        executor_type=usual.executor_type, config_proto=config
    )
    try:
        return apart(*arguments)
    finally:
        here.function_call_options = usual
