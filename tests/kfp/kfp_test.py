"""The pipelines compiled for Kubeflow, and one run by its local runner."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("kfp")

import yaml

from kerobust.components import kfp as engine
from kerobust.components.artifacts import EncoderModel, Model, TaskModel
from kerobust.components.pipelines import PIPELINES
from kerobust.components.step import _found
from kerobust.flags import USER_ERROR
from tests.components.run_test import TINY

ROOT = pathlib.Path(__file__).parents[2]


def flags(folder, name, *more) -> list[str]:
    own = (f"--pipeline.root={folder / 'root'}", f"--push.dir={folder / 'shelf'}")
    output = f"--kfp.output={folder / 'made.yaml'}"
    return ["kfp", f"--pipeline={name}", *TINY, *own, output, *more]


@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_every_pipeline_compiles_with_its_components_and_flags(tmp_path, name):
    method = f"--method={PIPELINES[name].methods[0]}"
    image = "--kfp.image=registry/kerobust:1"
    code = engine.main(flags(tmp_path, name, image, method))

    (document,) = yaml.safe_load_all((tmp_path / "made.yaml").read_text())
    tasks = document["root"]["dag"]["tasks"]
    nodes = PIPELINES[name].nodes
    assert code == 0
    assert document["pipelineInfo"]["name"] == f"kerobust-{name}"
    assert len(tasks) == len(nodes)
    for node in nodes:
        needed = {source.split(".")[0] for source in node.inputs.values()}
        names = {each.replace("-", "_").split("_from")[0] for each in tasks}
        assert node.name in names and needed <= names
    kinds = set()
    for task in tasks.values():
        given = task["inputs"]["parameters"]
        kinds.add(given["kind"]["runtimeValue"]["constant"])
        values = json.loads(given["flags"]["runtimeValue"]["constant"])
        assert "run.workdir" not in values
    assert kinds == {node.component.__name__ for node in nodes}
    executors = document["deploymentSpec"]["executors"].values()
    assert {each["container"]["image"] for each in executors} == {"registry/kerobust:1"}


def test_the_type_of_a_folder_is_found_from_what_it_holds(tmp_path):
    for kind in (EncoderModel, TaskModel):
        path = tmp_path / kind.TYPE_NAME / kind.CONTENT[0]
        path.parent.mkdir(parents=True)
        path.write_text("{}")

        assert type(_found(Model, tmp_path / kind.TYPE_NAME)) is kind


def test_a_dry_run_compiles_nothing_to_disk(tmp_path):
    assert engine.main(flags(tmp_path, "mimir", "--dry_run")) == 0
    assert not (tmp_path / "made.yaml").exists()


def test_errors_are_those_of_every_command(tmp_path, capsys):
    code = engine.main(flags(tmp_path, "mimir", "--finetune.epochs=-1"))

    assert code == USER_ERROR
    assert "`--finetune.epochs` must be" in capsys.readouterr().err


@pytest.mark.slow
def test_both_engines_measure_the_same(tmp_path):
    given = {"cwd": ROOT, "env": {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}}
    for engine_name, more in (("kfp", ("--kfp.run",)), ("run", ())):
        folder = tmp_path / engine_name
        folder.mkdir()
        arguments = flags(folder, "mimir", *more)[1:]
        if engine_name == "run":
            arguments = [x for x in arguments if not x.startswith("--kfp.")]
        command = [sys.executable, "-m", f"components.{engine_name}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, **given)
        assert done.returncode == 0, done.stdout + done.stderr

    reports = [
        json.loads(next((tmp_path / name / "root").rglob("report.json")).read_text())
        for name in ("kfp", "run")
    ]
    first, second = (report["rows"][0] for report in reports)
    for kind in ("natural", "robust", "worst"):
        assert first[kind] == second[kind]
    served = [tmp_path / name / "shelf" / "model" / "1" for name in ("kfp", "run")]
    assert all((path / "saved_model.pb").is_file() for path in served)
