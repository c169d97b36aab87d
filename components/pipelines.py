"""The standard pipelines: which components, and what flows between them."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from kerobust.config import UserError, check_name
from kerobust.experiment import ExperimentConfig

from .adversarial_gen import AdversarialGen
from .base import Component
from .evaluate import Evaluate
from .example_gen import ExampleGen
from .pretrain import Pretrain, PretrainEnsemble
from .probe import Probe
from .push import Push
from .start import Start, StartEnsemble
from .validate import Validate


@dataclasses.dataclass(frozen=True)
class Node:
    """A component and where its inputs come from.

    Attributes:
        component: The component.
        inputs: Input -> "component.output" of an earlier node.
    """

    component: type[Component]
    inputs: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the component."""
        return self.component.NAME

    def connected(self, made: Mapping[str, Any]) -> dict[str, Any]:
        """Returns input -> `outputs[...]` of the step of another engine that makes it.

        Args:
            made: Name of a node -> its step.
        """
        parts = {name: source.split(".") for name, source in self.inputs.items()}
        return {name: made[step].outputs[out] for name, (step, out) in parts.items()}


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Nodes in an order in which they can run.

    Attributes:
        name: Name of the pipeline.
        nodes: The nodes; names differ.
        methods: Values of `--method` that it is for; empty = any.

    Raises:
        UserError: If an input is missing, of another type, or made later.
    """

    name: str
    nodes: tuple[Node, ...]
    methods: tuple[str, ...] = ()

    def __post_init__(self):
        made: dict[str, type] = {}
        for node in self.nodes:
            spec = node.component.SPEC
            for name, kind in spec.INPUTS.items():
                source = node.inputs.get(name)
                if source is None and name in spec.OPTIONAL:
                    continue
                if source not in made or not issubclass(made[source], kind):
                    what = getattr(made.get(str(source)), "TYPE_NAME", "nothing")
                    raise UserError(
                        f"`{node.name}` must get {kind.TYPE_NAME} as input `{name}`. "
                        f"Received: {name}={source}, which is {what}. Connect an "
                        "output of that type of an earlier component."
                    )
            made |= {f"{node.name}.{name}": k for name, k in spec.OUTPUTS.items()}


_DATA = {"examples": "example_gen.examples"}


def _judged(model: str) -> tuple[Node, ...]:
    """Returns the nodes from a trained model to the shelf."""
    known = {**_DATA, "model": model}
    report = {**known, "report": "evaluate.report"}
    return (
        Node(Evaluate, known),
        Node(Validate, report),
        Node(Push, {**report, "blessing": "validate.blessing"}),
    )


def _trained(start: type[Component] | None, kind: type[Component]) -> tuple[Node, ...]:
    """Returns the nodes that train a model, and before it what it starts from."""
    if start is None:
        return (Node(ExampleGen), Node(kind, _DATA))
    known = {**_DATA, "start": "start.model"}
    return (Node(ExampleGen), Node(start, _DATA), Node(kind, known))


def _encoder(name: str, methods, start: type[Component] | None = None) -> Pipeline:
    """Returns: data, encoder, classifier, attacks, verdict, shelf."""
    probe = Node(Probe, {**_DATA, "encoder": "pretrain.model"})
    nodes = (*_trained(start, Pretrain), probe, *_judged("probe.model"))
    return Pipeline(name, nodes, methods)


def _benchmark() -> Pipeline:
    """Returns the pipeline of an encoder, with a set of attacked images beside it."""
    base = _encoder("benchmark", ("mimir", "mae", "dino"))
    attacked = Node(AdversarialGen, {**_DATA, "model": "probe.model"})
    nodes = (*base.nodes[:3], attacked, *base.nodes[3:])
    return Pipeline("benchmark", nodes, base.methods)


_ENSEMBLE = _trained(StartEnsemble, PretrainEnsemble)
_MEMBERS = (*_ENSEMBLE, *_judged("pretrain.model"))
PIPELINES = {
    "mimir": _encoder("mimir", ("mimir", "mae")),
    "rodino": _encoder("rodino", ("rodino",), Start),
    "deacl": _encoder("deacl", ("deacl", "fare", "multi"), Start),
    "dverge": Pipeline("dverge", _MEMBERS, ("dverge", "ensemble")),
    "benchmark": _benchmark(),
}


def named(name: str) -> Pipeline:
    """Returns a standard pipeline.

    Raises:
        UserError: If there is none of that name.
    """
    check_name("--pipeline", name, PIPELINES)
    return PIPELINES[name]


def prepared(pipeline: Pipeline, config: ExperimentConfig) -> ExperimentConfig:
    """Returns the settings as executors take them: `--push.dir` absolute.

    Raises:
        UserError: If a pipeline cannot run with them.
    """
    if pipeline.methods:
        check_name("--method", config.method, pipeline.methods)
    started = any(node.name == "start" for node in pipeline.nodes)
    if started and config.run.init_from:
        raise UserError(
            f"`--run.init_from` must be empty for the pipeline {pipeline.name}, which "
            f"trains what it starts from. Received: init_from={config.run.init_from}. "
            "Leave it out."
        )
    names = [node.name for node in pipeline.nodes]
    if "push" not in names:
        return config
    given, fix = config.push.dir is not None, "Add --push.dir=DIR."
    config.push.require(given, "dir", "must name a folder for the component push", fix)
    folder = pathlib.Path(str(config.push.dir)).expanduser().absolute()
    push = config.push.replace(dir=str(folder))
    return dataclasses.replace(config, push=push)
