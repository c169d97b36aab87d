"""One row per component: what all of them must do."""

import inspect

import pytest

from kerobust.components.artifacts import ARTIFACTS, Artifact, Examples
from kerobust.components.base import Component
from kerobust.components.local_runner import LocalRunner
from kerobust.components.pipelines import PIPELINES, Node, Pipeline, named
from kerobust.components.store import Store
from kerobust.config import UserError
from kerobust.experiment import ExperimentConfig

COMPONENTS: dict[str, type[Component]] = {
    node.component.__name__: node.component
    for pipeline in PIPELINES.values()
    for node in pipeline.nodes
}


@pytest.fixture(params=sorted(COMPONENTS))
def component(request):
    return COMPONENTS[request.param]


def some_inputs(component, folder) -> dict[str, list[Artifact]]:
    """One artifact of the right type for every input, with what makes its digest."""
    made = {}
    for name, kind in component.SPEC.INPUTS.items():
        kind = next(x for x in ARTIFACTS.values() if issubclass(x, kind))
        path = folder / name / kind.CONTENT[0]
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        artifact = kind(folder / name)
        artifact.properties["digest"] = artifact.content_digest()
        made[name] = [artifact]
    return made


def test_docs_name_every_input_and_output(component):
    text = inspect.getdoc(component)

    for name in (*component.SPEC.INPUTS, *component.SPEC.OUTPUTS):
        assert name in text
    for section, ports in (("Inputs:", "INPUTS"), ("Outputs:", "OUTPUTS")):
        assert (section in text) is bool(getattr(component.SPEC, ports))


def test_every_parameter_is_a_flag_or_a_section(component):
    flags = ExperimentConfig().to_flags()

    for name in (*component.SPEC.PARAMETERS, *component.SPEC.OPERATION):
        assert name in flags or any(
            name.endswith(".") and flag.startswith(name) for flag in flags
        ), name
    assert component.parameters(ExperimentConfig())


def test_where_things_are_does_not_decide_what_comes_out(component):
    default = ExperimentConfig()
    moved = ExperimentConfig(
        run=default.run.replace(workdir="there", log_steps=3, stages=("evaluate",)),
        data=default.data.replace(memory_gigabytes=1.0),
    )

    assert component.parameters(moved) == component.parameters(default)
    operation = component.operation(moved)
    assert operation["run.log_steps"] == "3"
    assert not {"run.workdir", "run.stages", "run.init_from"} & set(operation)


def test_artifacts_of_another_type_are_refused(component, tmp_path):
    inputs = some_inputs(component, tmp_path)
    component.check_inputs(inputs)
    for name in inputs:
        wrong = {**inputs, name: [Artifact(tmp_path)]}
        with pytest.raises(UserError, match=f"as input `{name}`. Received: {name}=Art"):
            component.check_inputs(wrong)
    with pytest.raises(UserError, match="Received: more"):
        component.check_inputs({**inputs, "more": [Artifact(tmp_path)]})


def test_missing_inputs_are_refused_unless_optional(component, tmp_path):
    inputs = some_inputs(component, tmp_path)
    for name in inputs:
        rest = {key: value for key, value in inputs.items() if key != name}
        if name in component.SPEC.OPTIONAL:
            component.check_inputs(rest)
            continue
        with pytest.raises(UserError, match=f"`{component.NAME}` must get .* `{name}`"):
            component.check_inputs(rest)


def test_a_failing_executor_leaves_nothing_live(component, tmp_path, monkeypatch):
    pytest.importorskip("ml_metadata")

    def broken(self, inputs, outputs, exec_properties):
        for artifacts in outputs.values():
            for artifact in artifacts:
                (artifact.uri / "half").write_text("written")
        raise UserError("no.")

    monkeypatch.setattr(component.EXECUTOR, "Do", broken)
    runner, inputs = LocalRunner(tmp_path / "root"), some_inputs(component, tmp_path)
    given = {k: v for k, v in inputs.items() if k not in component.SPEC.OPTIONAL}
    with pytest.raises(UserError, match="no."):
        runner.run_node("any", Node(component), given, ExperimentConfig())

    assert component.SPEC.OUTPUTS
    live = Store(tmp_path / "root" / "metadata.sqlite").artifacts()
    kinds = set(component.SPEC.OUTPUTS.values())
    assert not [
        each for each in live if "root" in str(each.uri) and type(each) in kinds
    ]


@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_standard_pipelines_end_with_verdict_and_shelf(name):
    names = [node.name for node in named(name).nodes]

    assert names[0] == "example_gen"
    assert names[-3:] == ["evaluate", "validate", "push"]
    assert len(set(names)) == len(names)


def test_an_unknown_pipeline_is_named():
    with pytest.raises(UserError, match="`--pipeline` must be one of"):
        named("mimr")


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "examples=None, which is nothing"),
        ({"examples": "later.examples"}, "which is nothing"),
        ({"examples": "start.model"}, "which is EncoderModel"),
    ],
)
def test_a_pipeline_with_a_wrong_connection_is_refused(inputs, words):
    generate, start = COMPONENTS["ExampleGen"], COMPONENTS["Start"]
    pretrain = COMPONENTS["Pretrain"]
    assert generate.SPEC.OUTPUTS["examples"] is Examples

    with pytest.raises(UserError, match=words):
        Pipeline(
            "wrong",
            (
                Node(generate),
                Node(start, {"examples": "example_gen.examples"}),
                Node(pretrain, inputs),
            ),
        )
