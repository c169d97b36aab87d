"""The benchmark across tasks from the command line."""

import json

import numpy as np
import pytest

from kerobust import evaluate
from kerobust.models import KerasCvEncoder, VisionTransformer, save_bundle
from tests.cli.bad_input_test import assert_refused

SHORT = (
    "--run.stages=benchmark",
    "--data.name=scenes",
    "--data.image_size=16",
    "--data.label_fraction=0.05",
    "--attack.epsilon=8/255",
    "--benchmark.steps=2",
    "--benchmark.suite_steps=0",
    "--benchmark.curve=false",
    "--benchmark.limit=8",
    "--benchmark.batch_size=8",
    "--benchmark.head_epochs=1",
    "--benchmark.head_batch_size=50",
    "--benchmark.depth_bins=4",
)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Returns the flag that names two encoders of one structure."""
    folder = tmp_path_factory.mktemp("encoders")
    for name in "ab":
        network = VisionTransformer((16, 16), 8, 8, 1, 2)
        save_bundle({"encoder": network}, folder / name, {})
    return f"--evaluation.encoders=first={folder / 'a'},{folder / 'b'}"


@pytest.fixture(scope="module")
def report(encoders, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("benchmark")
    flags = [*SHORT, encoders, f"--run.workdir={workdir}"]
    assert evaluate.main(["evaluate", *flags]) == 0
    return workdir, flags


@pytest.mark.slow
def test_all_encoders_stand_side_by_side_on_all_tasks(report):
    folder = report[0] / "benchmark"
    found = json.loads((folder / "report.json").read_text())

    tasks = found["data"]["scenes"]
    assert list(tasks) == ["classification", "segmentation", "depth"]
    for part in tasks.values():
        assert list(part["encoders"]) == ["first", "b"]
        for gap in part["encoders"]["first"]["against"]["b"].values():
            assert gap["low"] <= gap["difference"] <= gap["high"]
    depths = tasks["depth"]["constant"]
    assert 3 < depths["depth"] < 7 and 1 < depths["rmse"] < 4
    text = (folder / "report.md").read_text()
    assert "## segmentation on scenes: mean IoU, %, 8 images" in text
    assert "| EmbedAttack for depth" in text
    assert "## segmentation on scenes: further metrics" in text
    assert "| encoder   | mean RMSE of images, m" in text
    page = (folder / "report.html").read_text()
    assert page.count("<img") == 5  # Three curves, two kinds of maps.
    assert (folder / "depth_on_scenes.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_rerun_fits_nothing_again_and_says_the_same(report, capsys):
    workdir, flags = report
    heads = workdir / "benchmark" / "scenes" / "b" / "depth" / "weights.safetensors"
    before, text = heads.stat().st_mtime_ns, (workdir / "benchmark/report.md")
    told = text.read_text()

    assert evaluate.main(["evaluate", *flags]) == 0
    assert heads.stat().st_mtime_ns == before and text.read_text() == told


def refused(flags, capsys, text) -> None:
    code = evaluate.main(["evaluate", *flags])
    assert_refused((code, capsys.readouterr().err), text)


def test_an_encoder_that_is_not_there_is_named(tmp_path, capsys):
    flags = [*SHORT, "--evaluation.encoders=nowhere", f"--run.workdir={tmp_path}"]
    refused(flags, capsys, "`--benchmark.encoders` must name folders of bundles")


def test_classes_of_the_papers_code_need_its_void(tmp_path, capsys):
    flags = [*SHORT, "--data.labels=repo", f"--run.workdir={tmp_path}"]
    refused(flags, capsys, "`--benchmark.void` must be 0 with --data.labels=repo")
    refused([*flags, "--benchmark.void=1"], capsys, "Received: void=1")


def test_two_encoders_need_two_names(encoders, tmp_path, capsys):
    twice = encoders.replace("first=", "b=")
    flags = [*SHORT, twice, f"--run.workdir={tmp_path}"]
    refused(flags, capsys, "b is there twice")


def test_data_without_any_targets_of_the_tasks_is_refused(encoders, tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 255, size=(30, 16, 16, 3), dtype="u1")
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(30) % 2)
    flags = [*SHORT, encoders, f"--data.name=npz:{tmp_path / 'data.npz'}"]
    flags += [f"--run.workdir={tmp_path}", "--benchmark.tasks=depth"]
    refused(flags, capsys, "`--benchmark.tasks` must hold a task for which")


@pytest.mark.slow
def test_what_is_tuned_on_one_set_is_probed_on_every_set_that_is_there(
    encoders, tmp_path, capsys
):
    images = np.random.default_rng(0).integers(0, 255, size=(90, 16, 16, 3), dtype="u1")
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(90) % 3)
    data = f"--benchmark.data=scenes,npz:{tmp_path / 'own.npz'},npz:nowhere.npz"
    tasks = "--benchmark.tasks=classification,depth"

    code = evaluate.main(
        ["evaluate", *SHORT, encoders, data, tasks, f"--run.workdir={tmp_path / 'run'}"]
    )

    printed = capsys.readouterr().out
    assert code == 0 and "data: npz:nowhere.npz is left out." in printed
    report = json.loads((tmp_path / "run/benchmark/report.json").read_text())
    first, own = report["data"]
    assert first == "scenes" and list(report["data"][own]) == ["classification"]
    title = "## classification across data sets: accuracy, %"
    text = (tmp_path / "run/benchmark/report.md").read_text()
    assert title in text and "depth across" not in text
    row = text.split(title)[1].split("| b ")[1].split("\n")[0]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    for cell, name in zip(cells, report["data"], strict=True):
        values = report["data"][name]["classification"]["encoders"]["b"]["values"]
        pair = (100 * values[x]["value"] for x in ("clean", "worst"))
        assert cell == " / ".join(f"{value:.1f}" for value in pair)


@pytest.mark.slow
def test_a_backbone_of_keras_cv_is_compared_like_any_encoder(tmp_path):
    small = {"stackwise_filters": [64, 8, 8, 8], "stride": 4}
    save_bundle(KerasCvEncoder("resnet18", **small), tmp_path / "cnn", {})
    save_bundle(VisionTransformer((16, 16), 8, 8, 1, 2), tmp_path / "vit", {})
    names = f"--evaluation.encoders={tmp_path / 'cnn'},{tmp_path / 'vit'}"
    workdir = tmp_path / "benchmark"

    code = evaluate.main(["evaluate", *SHORT, names, f"--run.workdir={workdir}"])

    assert code == 0
    found = json.loads((workdir / "benchmark" / "report.json").read_text())
    for part in found["data"]["scenes"].values():
        assert list(part["encoders"]) == ["cnn", "vit"]
