"""What runs, what is reused and why, and what a failure leaves behind."""

import json
import os

import numpy as np
import pytest

from kerobust.components import local_runner
from kerobust.components.example_gen import ExampleGen
from kerobust.components.local_runner import LocalRunner
from kerobust.components.pipelines import Node, Pipeline
from kerobust.components.store import Store
from kerobust.experiment import ExperimentConfig
from tests.components import fakes
from tests.components.fakes import CALLS, PIPELINE, config

pytest.importorskip("ml_metadata")


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


@pytest.fixture
def run(tmp_path):
    """Runs the pipeline; returns what became of every node."""

    def run(caching=True, **changes):
        runner = LocalRunner(tmp_path, caching)
        return runner.run(PIPELINE, config(**changes))

    return run


def test_the_second_run_is_all_cached_and_says_so(run, capsys):
    first = run()
    second = run()

    assert CALLS == ["write", "judge"]
    assert [result.cached for result in second] == [True, True]
    for before, after in zip(first, second, strict=True):
        assert after.execution == before.execution
        assert f"those of execution {before.execution}" in after.reason
        assert after.outputs == before.outputs
    assert "[write] cached: inputs, flags and code" in capsys.readouterr().out


def test_a_changed_flag_reruns_what_depends_on_it_and_nothing_else(run):
    run(steps=5, seed=1)

    write, judge = run(steps=5, seed=2)
    assert (write.cached, judge.cached) == (True, False)
    assert judge.reason == "--perturb.seed=2 (was 1)"

    write, judge = run(steps=6, seed=2)
    assert write.reason == "--perturb.steps=6 (was 5)"
    assert "input report is another one" in judge.reason
    assert CALLS == ["write", "judge", "judge", "write", "judge"]


def test_flags_that_nothing_depends_on_rerun_nothing(tmp_path):
    runner, base = LocalRunner(tmp_path), config()
    runner.run(PIPELINE, base)
    other = type(base)(run=base.run.replace(workdir="elsewhere", log_steps=1))

    assert all(result.cached for result in runner.run(PIPELINE, other))


def test_other_code_reruns_everything(run, monkeypatch):
    run()
    monkeypatch.setattr("kerobust.components.local_runner.code_digest", lambda: "new")

    assert [result.reason for result in run()] == ["the code changed"] * 2


def test_without_caching_everything_is_made_anew_in_other_folders(run):
    first, second = run(), run(caching=False)

    assert CALLS == ["write", "judge"] * 2
    for before, after in zip(first, second, strict=True):
        assert after.reason == "caching is switched off"
        (old,), (new,) = before.outputs.values(), after.outputs.values()
        assert old[0].uri != new[0].uri


@pytest.mark.parametrize("damage", ["changed", "removed"])
def test_what_was_damaged_is_made_again(run, damage):
    path = run()[0].outputs["report"][0].uri / "report.json"
    path.write_text("{}") if damage == "changed" else path.unlink()

    write, judge = run()

    assert write.reason == "its outputs were changed or removed"
    assert judge.cached  # The report is what it was before.


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_marks_nothing_live_and_the_next_run_goes_on(
    run, tmp_path, monkeypatch, error
):
    real, seen = fakes.JudgeExecutor.Do, []

    def broken(self, inputs, outputs, exec_properties):
        (blessing,) = outputs["blessing"]
        seen.append(blessing.uri)
        (blessing.uri / "half.txt").write_text("half")
        raise error("the power went")

    monkeypatch.setattr(fakes.JudgeExecutor, "Do", broken)
    with pytest.raises(error, match="the power went"):
        run()
    stored = [
        each.TYPE_NAME for each in Store(tmp_path / "metadata.sqlite").artifacts()
    ]
    monkeypatch.setattr(fakes.JudgeExecutor, "Do", real)
    write, judge = run()

    assert stored == ["RobustnessReport"]
    assert write.cached and not judge.cached
    assert judge.reason == "it has not been run to its end before"
    (blessing,) = judge.outputs["blessing"]
    assert blessing.uri == seen[0] and (blessing.uri / "half.txt").exists()


def test_an_executor_that_writes_nothing_has_not_finished(run, monkeypatch):
    monkeypatch.setattr(fakes.WriteExecutor, "Do", lambda *arguments: None)

    with pytest.raises(Exception, match="`RobustnessReport` must hold report.json"):
        run()


def test_the_baseline_is_the_last_blessed_older_report(run):
    def verdict(**changes):
        (blessing,) = run(**changes)[1].outputs["blessing"]
        return json.loads((blessing.uri / "blessing.json").read_text())

    def report(**changes):
        return str(run(**changes)[0].outputs["report"][0].uri)

    assert verdict(steps=5, seed=3) == {"blessed": True, "baseline": []}
    assert not verdict(steps=2, seed=3)["blessed"]
    third = verdict(steps=7, seed=3)

    # Not the second one, which was not blessed.
    assert third == {"blessed": True, "baseline": [report(steps=5, seed=3)]}
    # Older ones do not meet younger ones, so going back and forth runs nothing.
    for steps in (5, 2, 7):
        assert all(result.cached for result in run(steps=steps, seed=3))


def test_the_newest_comparable_report_is_the_baseline(run, monkeypatch):
    # Steps of another parity stand for other attacks.
    def results(folder, flag):
        return int(json.loads((folder / "report.json").read_text())["steps"])

    monkeypatch.setattr(local_runner, "read_results", results)
    monkeypatch.setattr(
        local_runner, "incomparable", lambda a, b: "attacks" if (a - b) % 2 else None
    )
    written = {}
    for steps in (4, 6, 7, 8):
        write, judge = run(steps=steps, seed=3)
        written[steps] = str(write.outputs["report"][0].uri)
        (blessing,) = judge.outputs["blessing"]
        verdict = json.loads((blessing.uri / "blessing.json").read_text())

        # 7 has nothing to be compared with: the newest one says so.
        expected = {4: [], 6: [4], 7: [6], 8: [6]}[steps]
        assert verdict["baseline"] == [written[each] for each in expected]


def test_a_lost_verdict_is_no_obstacle(run):
    (blessing,) = run(steps=5, seed=3)[1].outputs["blessing"]
    (blessing.uri / "blessing.json").unlink()

    _, judge = run(steps=6, seed=3)

    (found,) = judge.outputs["blessing"]
    assert json.loads((found.uri / "blessing.json").read_text())["baseline"] == []


def test_a_file_that_a_flag_names_counts_by_its_content(tmp_path):
    path, runner = tmp_path / "data.npz", LocalRunner(tmp_path / "root")
    source = Pipeline("source", (Node(ExampleGen),))
    default = ExperimentConfig()
    config = ExperimentConfig(data=default.data.replace(name=f"npz:{path}"))
    images = np.random.default_rng(0).integers(0, 256, [40, 4, 4, 3]).astype(np.uint8)

    def run(images):
        np.savez(path, images=images, labels=np.arange(40) % 2)
        os.utime(path, (0, images[0, 0, 0, 0]))
        return runner.run(source, config)[0]

    first, second, third = run(images), run(images), run(255 - images)

    assert (first.cached, second.cached, third.cached) == (False, True, False)
    assert third.reason == "input data.name is another one"


def test_examples_whose_records_are_gone_are_made_again(tmp_path):
    runner = LocalRunner(tmp_path)
    source = Pipeline("source", (Node(ExampleGen),))
    (examples,) = runner.run(source, ExperimentConfig())[0].outputs["examples"]
    next(examples.uri.glob("Split-test/*")).unlink()

    assert not runner.run(source, ExperimentConfig())[0].cached
    assert runner.run(source, ExperimentConfig())[0].cached
