"""Tables of the benchmark of encoders across tasks."""

import json
import shutil

import pytest

from benchmarks.experiments import task_tables
from benchmarks.experiments.tasks import TASKS


def test_nothing_is_written_without_a_minus():
    assert (
        task_tables._text("accuracy", -0.0)
        == task_tables._text("accuracy", -1e-5)
        == "0.0"
    )
    assert task_tables._text("rmse", -0.006) == "-0.01"


def test_tables_across_tasks_name_signs_of_masked_gradients():
    sign = {"code": "zero-gradients", "severity": "error", "value": 0.25}
    encoder = {"findings": [sign]}
    assert task_tables._signs([{"encoders": {"a": encoder}}]) == (
        "Signs of masked gradients: a (error): zero-gradients 0.25."
    )
    assert task_tables._signs([{"encoders": {"a": {"findings": []}}}]).endswith(
        ": none."
    )


def test_tables_across_tasks_hold_values_and_gains_over_the_first():
    def row(worst):
        each = {"value": worst, "low": worst - 0.1, "high": worst + 0.1}
        near = {"value": worst + 0.125, "low": worst, "high": worst + 0.25}
        points = [(0, each), (2 / 255, near), (8 / 255, each), (16 / 255, each)]
        curve = [{"epsilon": radius} | found for radius, found in points]
        values = dict.fromkeys(task_tables.COLUMNS, each)
        everything = {"accuracy": 0.75}
        about = {"metric": "accuracy", "clean of all images": everything}
        return {**about, "values": values, "curves": {"task": curve}}

    worse = {"difference": -0.25, "low": -0.5, "high": 0.125}
    same = {"difference": 0.0, "low": -0.125, "high": 0.25}
    pair = {"worst": worse, "clean": same}
    first = row(0.25) | {"against": {"multi": pair}}
    multi = row(0.5) | {"against": {"fare": {"worst": same, "clean": worse}}}
    found = [{"encoders": {"dino": first, "multi": multi, "fare": row(0.5)}}]

    values = task_tables._values(found, 8 / 255).splitlines()
    gains = task_tables._against(found, "multi").splitlines()

    assert "| multi | 75.0 " in values[3]
    names, cells = ([x.strip() for x in values[i].split("|")] for i in (0, 3))
    assert names[-3:-1] == ["task at 2/255", "task at 16/255"]
    assert cells[3] == "50.0 [40.0, 60.0]"
    assert cells[-3:-1] == ["62.5 [50.0, 75.0]", "50.0 [40.0, 60.0]"]
    gains = [[x.strip() for x in line.split("|")[1:-1]] for line in gains[2:]]
    assert gains == [
        ["dino", "25.0 [-12.5, 50.0]", "0.0 [-25.0, 12.5]"],
        ["fare", "0.0 [-12.5, 25.0]", "-25.0 [-50.0, 12.5]"],
    ]
    assert "37.5 (25.0, 50.0)" in task_tables._values(
        [found[0], {"encoders": dict.fromkeys(("dino", "multi", "fare"), row(0.5))}],
        8 / 255,
    )


def _write_reports(table, seed):
    """Writes what a benchmark of all arms leaves, every number of it the same."""

    def row():
        each = {"value": 0.5, "low": 0.25, "high": 0.75}
        gap = {"difference": 0.0, "low": 0.0, "high": 0.0}
        return {
            "metric": "accuracy",
            "images": 8,
            "clean of all images": {"accuracy": 0.75},
            "values": dict.fromkeys(task_tables.COLUMNS, each),
            "curves": {},
            "findings": [],
            "against": {"multi": {"worst": gap, "clean": gap}},
        }

    part = {"encoders": {arm: row() for arm in table.of_seed(seed)}}
    report = {
        "threat": {"epsilon": 8 / 255},
        "data": {"scenes": {"classification": part}},
    }
    folder = table.workdir("benchmark", seed)
    (folder / "benchmark").mkdir(parents=True)
    (folder / "benchmark" / "report.json").write_text(json.dumps(report))
    (folder / "environment.json").write_text('{"time": "2026-11-29T12:00"}')


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Returns a table whose runs and pages lie below `tmp_path`."""
    monkeypatch.setattr("benchmarks.experiments.running.RUNS", tmp_path / "runs")
    monkeypatch.setattr("benchmarks.experiments.tasks.ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    return TASKS["tasks_scenes"]


def test_arms_of_one_seed_have_tables_of_their_own(table, tmp_path):
    for seed in (0, 1):
        _write_reports(table, seed)

    table.write(range(2), "a machine", [])

    page = (tmp_path / "docs" / "results.md").read_text()
    shared, alone = page.split("## Seed 0 alone: classification on scenes")
    for arm in table.arms:
        lines = [f"\n| {arm} " in text for text in (shared, alone)]
        assert lines == [arm not in table.once, arm in (*table.once, "multi")]
    assert "50.0 (50.0, 50.0)" in shared and "50.0 [25.0, 75.0]" in alone


def test_a_table_grows_where_the_runs_of_earlier_seeds_are_gone(table, tmp_path):
    _write_reports(table, 0)
    table.write(range(1), "the first machine", [])
    shutil.rmtree(tmp_path / "runs")
    _write_reports(table, 1)

    table.write(range(2), "the second", [])

    page = (tmp_path / "docs" / "results.md").read_text()
    assert "seed 0: the first machine; 2026" in page
    assert "seed 1: the second; 2026" in page and "50.0 (50.0, 50.0)" in page
    assert "experiments tasks_scenes --seeds=2`" in page
