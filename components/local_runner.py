"""Runs a pipeline in this process, and only what is not there already."""

import functools
import hashlib
import pathlib
import time
from typing import NamedTuple

import kerobust
from kerobust.config import UserError
from kerobust.evaluation.blessing import incomparable
from kerobust.experiment import ExperimentConfig
from kerobust.workflows.validating import read_results

from .artifacts import Artifact, RobustnessReport
from .base import Artifacts
from .pipelines import Node, Pipeline, prepared
from .store import DATABASE, Key, Store


class NodeResult(NamedTuple):
    """What became of one node.

    Attributes:
        name: Its name.
        cached: Whether an earlier execution was reused.
        reason: Why, or why not.
        seconds: What it took.
        execution: Number in the store.
        outputs: What it made.
    """

    name: str
    cached: bool
    reason: str
    seconds: float
    execution: int
    outputs: Artifacts


class LocalRunner:
    """Runs the nodes of a pipeline in order.

    An execution is reused when component, inputs, flags and code are the same. What a
    killed process began goes on in the same folder; its outputs count only once the
    execution is complete.

    Args:
        root: Folder of the artifacts; the store is `DATABASE` in it.
        caching: Whether finished executions are reused.
    """

    def __init__(self, root: pathlib.Path, caching: bool = True):
        self.root = root.absolute()
        self.store = Store(self.root / DATABASE)
        self.caching = caching

    def run(self, pipeline: Pipeline, config: ExperimentConfig) -> list[NodeResult]:
        """Returns what became of every node; prints a line for each.

        Raises:
            UserError: What executors raise. Later nodes are not run; the same call
                goes on where this one ended.
        """
        config = prepared(pipeline, config)
        results: list[NodeResult] = []
        made: Artifacts = {}
        for node in pipeline.nodes:
            inputs = {name: made[source] for name, source in node.inputs.items()}
            result = self.run_node(pipeline.name, node, inputs, config)
            results.append(result)
            for name, artifacts in result.outputs.items():
                made[f"{node.name}.{name}"] = artifacts
            word = "cached" if result.cached else f"{result.seconds:.1f} s"
            print(f"[{node.name}] {word}: {result.reason}", flush=True)
        return results

    def run_node(
        self, pipeline: str, node: Node, inputs: Artifacts, config: ExperimentConfig
    ) -> NodeResult:
        """Returns what became of one node, whose inputs are there.

        Args:
            pipeline: Name of the pipeline.
            node: The node; its connections are not looked at.
            inputs: Input -> stored artifacts.
            config: The settings.
        """
        component = node.component
        if not config.validate.baseline:
            inputs = {**inputs, **self._baseline(pipeline, component, inputs)}
        component.check_inputs(inputs)
        digests = {
            name: [each.properties["digest"] for each in artifacts]
            for name, artifacts in inputs.items()
        }
        digests |= component.files(config)
        key = Key(node.name, digests, component.parameters(config), code_digest())
        found = self.store.find(key) if self.caching else None
        if found is not None:
            reason = f"inputs, flags and code are those of execution {found.execution}"
            return NodeResult(
                node.name, True, reason, 0.0, found.execution, found.outputs
            )
        reason = self.store.why_not(key) if self.caching else "caching is switched off"
        print(f"[{node.name}] starts: {reason}", flush=True)
        return self._execute(pipeline, node, inputs, key, config, reason)

    def _execute(self, pipeline, node, inputs, key, config, reason) -> NodeResult:
        component, started = node.component, time.perf_counter()
        outputs = self._outputs(component, key)
        execution = self.store.begin(key, pipeline, inputs)
        try:
            component.EXECUTOR().Do(inputs, outputs, component.properties(config))
            self.store.complete(execution, outputs)
        except BaseException as error:
            self.store.fail(execution, f"{type(error).__name__}: {error}")
            raise
        seconds = time.perf_counter() - started
        return NodeResult(node.name, False, reason, seconds, execution, outputs)

    def _outputs(self, component, key: Key) -> Artifacts:
        """Returns artifacts in folders that the key decides, so that work goes on.

        Without caching every execution gets new ones.
        """
        name = key.digest()[:16]
        if not self.caching:
            name = f"{name}-{time.time_ns()}"
        outputs = {}
        for output, kind in component.SPEC.OUTPUTS.items():
            uri = self.root / component.NAME / name / output
            uri.mkdir(parents=True, exist_ok=True)
            outputs[output] = [kind(uri)]
        return outputs

    def _baseline(self, pipeline: str, component, inputs: Artifacts) -> Artifacts:
        """Returns the report to compare with, if the component wants one.

        That is the newest comparable one on a blessed model, or else, since the verdict
        then says why not, the newest.
        """
        if component.SPEC.INPUTS.get("baseline") is not RobustnessReport:
            return {}
        (report,) = inputs["report"]
        older = self.store.blessed_before(pipeline, report)
        comparable = [each for each in older if _comparable(report, each)]
        found = (comparable or older)[:1]
        return {"baseline": found} if found else {}


def _comparable(report: Artifact, older: Artifact) -> bool:
    try:
        pair = [read_results(each.uri, "--run.workdir") for each in (report, older)]
    except UserError:
        return False
    return incomparable(*pair) is None


@functools.cache
def code_digest() -> str:
    """Returns the SHA-256 of the source of kerobust and of the components."""
    digest = hashlib.sha256()
    for package in (
        pathlib.Path(kerobust.__file__).parent,
        pathlib.Path(__file__).parent,
    ):
        for path in sorted(package.rglob("*.py")):
            digest.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return digest.hexdigest()
