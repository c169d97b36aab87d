"""One component as other engines run it: folders in, folders out, flags as JSON."""

import json
import pathlib
from collections.abc import Mapping

from kerobust.config import UserError

from .artifacts import ARTIFACTS, Artifact
from .base import Component
from .pipelines import PIPELINES


def execute(
    kind: str, flags: str, inputs: Mapping[str, str], outputs: Mapping[str, str]
) -> None:
    """Runs the executor of a component; what a step of another engine calls.

    Args:
        kind: Name of the class of the component.
        flags: Flag name without dashes -> text, as JSON.
        inputs: Input -> folder.
        outputs: Output -> folder to fill.
    """
    component = _components()[kind]
    given = {
        name: [_found(component.SPEC.INPUTS[name], pathlib.Path(path))]
        for name, path in inputs.items()
    }
    component.check_inputs(given)
    made = {
        name: [component.SPEC.OUTPUTS[name](pathlib.Path(path))]
        for name, path in outputs.items()
    }
    for artifacts in made.values():
        artifacts[0].uri.mkdir(parents=True, exist_ok=True)
    component.EXECUTOR().Do(given, made, json.loads(flags))
    for artifacts in made.values():
        artifacts[0].content_digest()  # Refuses what is not finished.


def accuracies(report: str) -> dict[str, float]:
    """Returns the accuracies of the first row of a report in %, by name."""
    row = json.loads((pathlib.Path(report) / "report.json").read_text())["rows"][0]
    shares = {"clean": row["natural"], **row["robust"], "worst": row["worst"]}
    return {name: 100 * share["accuracy"] for name, share in shares.items()}


def _components() -> dict[str, type[Component]]:
    nodes = [node for pipeline in PIPELINES.values() for node in pipeline.nodes]
    return {node.component.__name__: node.component for node in nodes}


def _found(kind: type[Artifact], folder: pathlib.Path) -> Artifact:
    """Returns the artifact in a folder: the first type of that kind that fits."""
    fitting = [each(folder) for each in ARTIFACTS.values() if issubclass(each, kind)]
    for artifact in fitting[:-1]:
        try:
            artifact.content_digest()
        except UserError:
            continue
        return artifact
    return fitting[-1]
