"""A pipeline of two quick components: one writes a number, one doubles it."""

import json

from kerobust.components.artifacts import Blessing, RobustnessReport
from kerobust.components.base import Component, ComponentSpec, Executor
from kerobust.components.pipelines import Node, Pipeline
from kerobust.experiment import ExperimentConfig

CALLS: list[str] = []


class WriteExecutor(Executor):
    def Do(self, inputs, outputs, exec_properties):
        CALLS.append("write")
        (report,) = outputs["report"]
        content = {"steps": exec_properties["perturb.steps"]}
        (report.uri / "report.json").write_text(json.dumps(content))


class Write(Component):
    NAME = "write"
    SPEC = ComponentSpec({}, {"report": RobustnessReport}, ("perturb.steps",))
    EXECUTOR = WriteExecutor


class JudgeExecutor(Executor):
    def Do(self, inputs, outputs, exec_properties):
        CALLS.append("judge")
        steps = json.loads((inputs["report"][0].uri / "report.json").read_text())
        blessed = int(steps["steps"]) >= int(exec_properties["perturb.seed"])
        base = [str(each.uri) for each in inputs.get("baseline", [])]
        verdict = {"blessed": blessed, "baseline": base}
        path = outputs["blessing"][0].uri / "blessing.json"
        path.write_text(json.dumps(verdict))


class Judge(Component):
    NAME = "validate"  # The runner looks for blessings under this name.
    SPEC = ComponentSpec(
        {"report": RobustnessReport, "baseline": RobustnessReport},
        {"blessing": Blessing},
        ("perturb.seed",),
        OPTIONAL=("baseline",),
    )
    EXECUTOR = JudgeExecutor


PIPELINE = Pipeline("fake", (Node(Write), Node(Judge, {"report": "write.report"})))


def config(**changes) -> ExperimentConfig:
    """Settings with other steps or another seed of perturb."""
    default = ExperimentConfig()
    return ExperimentConfig(perturb=default.perturb.replace(**changes))
