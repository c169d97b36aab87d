"""A pipeline in TFX itself: its runner, its cache, its metadata."""

import json
import os
import pathlib
import sqlite3
import subprocess
import sys

import pytest

pytest.importorskip("tfx")

from kerobust.components.pipelines import PIPELINES
from kerobust.components.run import PipelineSettings
from kerobust.components.tfx import tfx_pipeline
from tests.components.run_test import TINY

ROOT = pathlib.Path(__file__).parents[2]
CACHED = 5  # ml_metadata.proto.Execution.CACHED


@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_every_pipeline_becomes_one_of_tfx(tmp_path, name):
    push = PipelineSettings().push.replace(dir="shelf")
    config = PipelineSettings(method=PIPELINES[name].methods[0], push=push)
    made = tfx_pipeline(PIPELINES[name], config, tmp_path)

    nodes = PIPELINES[name].nodes
    assert [each.id for each in made.components] == [node.name for node in nodes]
    for component, node in zip(made.components, nodes, strict=True):
        assert set(component.inputs) == set(node.inputs)
        assert set(component.outputs) == set(node.component.SPEC.OUTPUTS)
        assert component.exec_properties["kind"] == node.component.__name__
        given = json.loads(component.exec_properties["flags"])
        assert "run.workdir" not in given and "run.log_steps" in given


def start(engine: str, folder: pathlib.Path) -> None:
    own = (f"--pipeline.root={folder / 'root'}", f"--push.dir={folder / 'shelf'}")
    command = [sys.executable, "-m", f"components.{engine}", *TINY, *own]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    given = {"cwd": ROOT, "env": environment, "text": True, "capture_output": True}
    done = subprocess.run(command, **given)
    assert done.returncode == 0, done.stdout + done.stderr


def states(folder: pathlib.Path) -> list[int]:
    database = sqlite3.connect(folder / "root" / "tfx.sqlite")
    query = "select last_known_state from Execution order by id"
    return [state for (state,) in database.execute(query)]


def test_tfx_measures_what_this_library_measures_and_caches(tmp_path):
    for engine in ("tfx", "run"):
        start(engine, tmp_path / engine)
    start("tfx", tmp_path / "tfx")

    reports = [
        json.loads(next((tmp_path / name / "root").rglob("report.json")).read_text())
        for name in ("tfx", "run")
    ]
    first, second = (report["rows"][0] for report in reports)
    for kind in ("natural", "robust", "worst"):
        assert first[kind] == second[kind]
    count = len(PIPELINES["mimir"].nodes)
    found = states(tmp_path / "tfx")
    assert len(found) == 2 * count
    assert CACHED not in found[:count] and set(found[count:]) == {CACHED}
    shelf = tmp_path / "tfx" / "shelf" / "model"
    assert [path.name for path in shelf.iterdir()] == ["1"]
