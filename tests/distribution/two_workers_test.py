"""Two processes, as on two machines, do what one does."""

import json
import signal
import time

import numpy as np
import pytest

from kerobust.models import VisionTransformer, save_bundle
from tests.cli.benchmark_test import SHORT as BENCHMARK
from tests.cli.run_test import SHORT
from tests.distribution.attacking import BATCH, SIZE, found
from tests.distribution.launching import finished, run_workers, start_workers
from tests.distribution.updates import NAMES, weights_on_one_device

WORKER = ("-m", "tests.distribution.worker")


def results(folder, task: str) -> list[dict[str, np.ndarray]]:
    return [dict(np.load(folder / f"{task}-{index}.npz")) for index in range(2)]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("told")
    run_workers(2, *WORKER, folder, "tell")
    return results(folder, "tell")


def test_workers_tell_each_other_what_they_have(told):
    for each in told:
        expected = [b"worker 0".hex(), (b"\0" + b"worker 1").hex()]
        assert each["messages"].tolist() == expected
        assert each["agreed"].tolist() == ["of", "0"]
        assert each["any"].tolist() == [True, False]
        assert each["differing"].tolist() == [True, True]


def test_the_chief_works_for_all_and_its_errors_are_those_of_all(told):
    assert [str(each["chief"]) for each in told] == ["from 0"] * 2
    assert [str(each["error"]) for each in told] == ["not by worker 0"] * 2
    assert all(each["chiefs"].tolist() == [0, 0] for each in told)
    assert str(told[0]["own"]) == "here" != str(told[1]["own"])


def test_what_was_shared_out_comes_back_whole_and_in_order(told):
    for each in told:
        assert each["numbers"].tolist() == [0, 1, 2, 3, 4]
        assert each["sizes"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_two_workers_make_the_update_of_one_device(tmp_path):
    run_workers(2, *WORKER, tmp_path, "update", *NAMES)
    pair = results(tmp_path, "update")

    for name in NAMES:
        for index, one in enumerate(weights_on_one_device(name)):
            for two in pair:
                array = two[f"{name}/{index}"]
                np.testing.assert_allclose(one, array, 1e-6, 1e-6, err_msg=name)


@pytest.mark.slow
def test_two_workers_find_the_flags_of_one_in_autoattack(tmp_path):
    one = found()
    run_workers(2, *WORKER, tmp_path, "attack", tmp_path / "state")
    kept = [path.name for path in (tmp_path / "state").glob("*.npz")]

    assert 0 < one["robust"].sum() < SIZE - 2  # Else there is nothing to compare.
    assert len(kept) == -(-SIZE // BATCH)
    for two in results(tmp_path, "attack"):
        np.testing.assert_array_equal(one["robust"], two["robust"])
        np.testing.assert_array_equal(one["broken_by"], two["broken_by"])
        np.testing.assert_allclose(one["adversarial"], two["adversarial"], atol=1e-5)


@pytest.mark.slow
def test_workers_with_models_of_their_own_are_refused(tmp_path):
    run_workers(2, *WORKER, tmp_path, "shuffled")

    for each in results(tmp_path, "shuffled"):
        assert "`model` and `images` must be the same on all workers" in str(
            each["error"]
        )


def command(workdir, *more) -> tuple:
    stages = "--run.stages=pretrain,evaluate"
    attacks = ("--evaluate.attacks=fgsm", "--evaluate.curve=false")
    flags = [*SHORT, stages, *attacks, f"--run.workdir={workdir}"]
    flags += ["--evaluate.batch_size=16", "--run.checkpoint_steps=4"]
    return ("-m", "kerobust.train", *flags, *more)


def in_step(workers, workdir, rows: int) -> None:
    """Waits until the training has logged some rows."""
    log = workdir / "pretrain" / "metrics.jsonl"
    while not log.exists() or len(log.read_text().splitlines()) < rows:
        assert workers[0].poll() is None
        time.sleep(0.2)


@pytest.mark.slow
def test_a_signal_to_one_worker_stops_both_and_any_number_continues(tmp_path):
    line = command(tmp_path, "--run.log_steps=20", "--run.checkpoint_steps=2")
    workers = start_workers(2, *line)
    in_step(workers, tmp_path, 1)
    workers[1].send_signal(signal.SIGTERM)

    first = finished(workers, 75)
    alone = run_workers(1, *line)
    (tmp_path / "report.json").unlink()
    again = run_workers(2, *line, "--evaluate.limit=50")

    assert "finishing at most 20 steps, then saving" in first[1][1]
    assert "the same command continues it" in first[0][0]
    assert "pretrain continues from step" in alone[0][0]
    assert again[1][0] == "worker 1 of 2\n"  # The chief alone prints.
    assert json.loads((tmp_path / "report.json").read_text())["rows"]
    found = json.loads(next(tmp_path.rglob("results.json")).read_text())
    assert len(found["examples"]["clean"]) == 50
    rows = (tmp_path / "pretrain" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(row)["step"] for row in rows]
    assert steps == sorted(set(steps)) and steps[-1] == 34


@pytest.mark.slow
def test_two_workers_compare_encoders_as_one_does(tmp_path):
    encoder = VisionTransformer((16, 16), 8, 8, 1, 2)
    save_bundle({"encoder": encoder}, tmp_path / "vit", {})
    flags = [*BENCHMARK, "--benchmark.batch_size=4", f"--run.init_from={tmp_path}/vit"]
    flags.append("--benchmark.tasks=segmentation")
    values = []
    for count in (1, 2):
        workdir = tmp_path / f"of {count}"
        run_workers(
            count, "-m", "kerobust.evaluate", *flags, f"--run.workdir={workdir}"
        )
        report = json.loads((workdir / "benchmark" / "report.json").read_text())
        tasks = report["data"]["scenes"].values()
        (found,) = zip(*(part["encoders"].values() for part in tasks), strict=True)
        values.append([row["values"] for row in found])

    for one, two in zip(*values, strict=True):
        for column, found in one.items():
            for name in ("value", "low", "high"):
                assert two[column][name] == pytest.approx(found[name], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_the_other_says_so_when_a_worker_is_killed(tmp_path, killed):
    workers = start_workers(2, *command(tmp_path, "--pretrain.epochs=50"))
    in_step(workers, tmp_path, 3)
    workers[killed].kill()
    output, errors = workers[1 - killed].communicate(timeout=300)
    workers[killed].communicate()

    assert workers[1 - killed].returncode == 2, output + errors
    assert "names a worker that has ended or cannot be reached" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_two_workers_estimate_together(tmp_path):
    outputs = run_workers(2, *command(tmp_path, "--dry_run"))

    assert "s per step" in outputs[0][0]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "flag", ["run.seed={}", "run.log_steps=1{}", "evaluate.limit=1{}"]
)
def test_workers_with_other_flags_are_refused(tmp_path, flag):
    script = tmp_path / "own_flag.py"
    script.write_text(
        "import json, os, sys\n"
        "from kerobust import train\n"
        "index = json.loads(os.environ['TF_CONFIG'])['task']['index']\n"
        f"sys.exit(train.main([*sys.argv, '--{flag}'.format(index)]))\n"
    )

    outputs = run_workers(2, script, *command(tmp_path / "run")[2:], code=2)

    for _, errors in outputs:
        assert "All workers must be started with the same flags" in errors
        assert "something else on worker 1" in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_folder_that_is_not_shared_is_refused(tmp_path):
    script = tmp_path / "own_folder.py"
    script.write_text(
        "import json, os, sys\n"
        "index = json.loads(os.environ['TF_CONFIG'])['task']['index']\n"
        "folder = os.path.join(sys.argv[1], f'of-{index}')\n"
        "os.makedirs(folder)\n"
        "os.chdir(folder)\n"
        "from kerobust import train\n"
        "sys.exit(train.main(['train', *sys.argv[2:]]))\n"
    )

    outputs = run_workers(2, script, tmp_path, *command("run")[2:], code=2)

    for _, errors in outputs:
        assert "`--run.workdir` must be one folder that all workers share" in errors
        assert "worker 1 does not see what the chief writes" in errors
