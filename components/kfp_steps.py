"""The components as lightweight components of KFP 2: one function each.

Kubeflow ships the source of such a function into the container; what it needs is
imported inside.
"""

from collections.abc import Callable

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output


def example_gen(kind: str, flags: str, examples: Output[Dataset]):
    """See `ExampleGen`."""
    from kerobust.components.step import execute

    execute(kind, flags, {}, {"examples": examples.path})


def start(kind: str, flags: str, examples: Input[Dataset], model: Output[Model]):
    """See `Start`."""
    from kerobust.components.step import execute

    execute(kind, flags, {"examples": examples.path}, {"model": model.path})


def pretrain(kind: str, flags: str, examples: Input[Dataset], model: Output[Model]):
    """See `Pretrain`."""
    from kerobust.components.step import execute

    execute(kind, flags, {"examples": examples.path}, {"model": model.path})


def pretrain_from(
    kind: str,
    flags: str,
    examples: Input[Dataset],
    start: Input[Model],
    model: Output[Model],
):
    """See `Pretrain`, with what it starts from."""
    from kerobust.components.step import execute

    inputs = {"examples": examples.path, "start": start.path}
    execute(kind, flags, inputs, {"model": model.path})


def probe(
    kind: str,
    flags: str,
    examples: Input[Dataset],
    encoder: Input[Model],
    model: Output[Model],
):
    """See `Probe`."""
    from kerobust.components.step import execute

    inputs = {"examples": examples.path, "encoder": encoder.path}
    execute(kind, flags, inputs, {"model": model.path})


def adversarial_gen(
    kind: str,
    flags: str,
    examples: Input[Dataset],
    model: Input[Model],
    adversarial: Output[Dataset],
):
    """See `AdversarialGen`."""
    from kerobust.components.step import execute

    inputs = {"examples": examples.path, "model": model.path}
    execute(kind, flags, inputs, {"adversarial": adversarial.path})


def evaluate(
    kind: str,
    flags: str,
    examples: Input[Dataset],
    model: Input[Model],
    report: Output[dsl.Artifact],
    metrics: Output[Metrics],
):
    """See `Evaluate`; accuracies are metrics too."""
    from kerobust.components.step import accuracies, execute

    inputs = {"examples": examples.path, "model": model.path}
    execute(kind, flags, inputs, {"report": report.path})
    for name, value in accuracies(report.path).items():
        metrics.log_metric(name, value)


def validate(
    kind: str,
    flags: str,
    examples: Input[Dataset],
    model: Input[Model],
    report: Input[dsl.Artifact],
    blessing: Output[dsl.Artifact],
):
    """See `Validate`."""
    from kerobust.components.step import execute

    inputs = {"examples": examples.path, "model": model.path, "report": report.path}
    execute(kind, flags, inputs, {"blessing": blessing.path})


def push(
    kind: str,
    flags: str,
    examples: Input[Dataset],
    model: Input[Model],
    report: Input[dsl.Artifact],
    blessing: Input[dsl.Artifact],
    pushed: Output[dsl.Artifact],
):
    """See `Push`."""
    from kerobust.components.step import execute

    inputs = {"examples": examples.path, "model": model.path, "report": report.path}
    inputs["blessing"] = blessing.path
    execute(kind, flags, inputs, {"pushed": pushed.path})


STEPS: dict[str, Callable] = {
    "example_gen": example_gen,
    "start": start,
    "pretrain": pretrain,
    "pretrain_from": pretrain_from,
    "probe": probe,
    "adversarial_gen": adversarial_gen,
    "evaluate": evaluate,
    "validate": validate,
    "push": push,
}
