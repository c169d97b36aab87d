"""The standard pipelines: which components, and what flows between them."""

import dataclasses
from collections.abc import Mapping

from kerobust.config import UserError, check_name

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


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Nodes in an order in which they can run.

    Attributes:
        name: Name of the pipeline.
        nodes: The nodes; names differ.

    Raises:
        UserError: If an input is missing, of another type, or made later.
    """

    name: str
    nodes: tuple[Node, ...]

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


def _encoder(name: str, start: type[Component] | None = None) -> Pipeline:
    """Returns: data, encoder, classifier, attacks, verdict, shelf."""
    probe = Node(Probe, {**_DATA, "encoder": "pretrain.model"})
    return Pipeline(name, (*_trained(start, Pretrain), probe, *_judged("probe.model")))


def _benchmark() -> Pipeline:
    """Returns the pipeline of an encoder, with a set of attacked images beside it."""
    base = _encoder("benchmark")
    attacked = Node(AdversarialGen, {**_DATA, "model": "probe.model"})
    return Pipeline("benchmark", (*base.nodes[:3], attacked, *base.nodes[3:]))


_ENSEMBLE = _trained(StartEnsemble, PretrainEnsemble)
PIPELINES = {
    "mimir": _encoder("mimir"),
    "rodino": _encoder("rodino", Start),
    "deacl": _encoder("deacl", Start),
    "dverge": Pipeline("dverge", (*_ENSEMBLE, *_judged("pretrain.model"))),
    "benchmark": _benchmark(),
}


def named(name: str) -> Pipeline:
    """Returns a standard pipeline.

    Raises:
        UserError: If there is none of that name.
    """
    check_name("--pipeline", name, PIPELINES)
    return PIPELINES[name]
