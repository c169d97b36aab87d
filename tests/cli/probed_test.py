"""Evaluation of an encoder by its linear probe, without fine-tuning."""

import json
import re
import shutil

import pytest

from kerobust import evaluate, train
from kerobust.models import MaeDecoder, ResNet, VisionTransformer, save_bundle
from tests.cli.bad_input_test import TINY, assert_refused

SHORT = (
    *TINY,
    "--method=mae",
    "--evaluate.attacks=fgsm",
    "--evaluate.restarts=1",
    "--evaluate.limit=40",
    "--evaluate.curve=false",
    "--evaluate.diagnose=false",
    "--data.label_fraction=0.2",
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Returns a run folder with an encoder and its teacher."""
    folder = tmp_path_factory.mktemp("probed")
    for name, info in (("encoder", {"seconds": 3.0}), ("start", {})):
        encoder = VisionTransformer((8, 8), 2, 16, 1, 2)
        save_bundle({"encoder": encoder}, folder / name, info)
    return folder


def rows(workdir) -> list[tuple[str, str, str]]:
    """Returns name, protocol and note of every row of a report."""
    report = json.loads((workdir / "report.json").read_text())
    return [(row["name"], row["protocol"], row["note"]) for row in report["rows"]]


@pytest.mark.slow
def test_an_encoder_and_its_teacher_are_compared_by_probes(workdir):
    flags = [*SHORT, f"--run.workdir={workdir}", "--evaluate.features=cls_mean"]
    flags += ["--run.stages=baselines,evaluate", "--baselines.arms=random_init,pixels"]

    assert train.main(["train", *flags]) == 0

    assert rows(workdir) == [
        ("mae SLF", "SLF, cls_mean", "pretrained 3 s"),
        ("teacher SLF", "SLF, cls_mean", "pretrained elsewhere"),
        ("random_init probe", "SLF, cls_mean", "linear"),
        ("pixels probe", "linear in the pixels", "linear"),
    ]
    text = (workdir / "report.md").read_text()
    assert "SLF = linear head on the frozen encoder, clean images" in text
    assert "ALF =" not in text


def test_the_start_is_the_teacher(workdir, tmp_path):
    shutil.copytree(workdir / "encoder", tmp_path / "encoder")
    flags = [f"--run.init_from={workdir / 'start'}", f"--run.workdir={tmp_path}"]

    assert evaluate.main(["evaluate", *SHORT, *flags]) == 0

    assert [row[0] for row in rows(tmp_path)] == ["mae SLF", "teacher SLF"]


@pytest.mark.slow
def test_encoders_are_examined_and_both_attacks_drawn(workdir, tmp_path):
    shutil.copytree(workdir / "encoder", tmp_path / "encoder")
    shutil.copytree(workdir / "encoder", tmp_path / "start")
    flags = [*SHORT, f"--run.workdir={tmp_path}", "--evaluate.limit=20"]
    flags += ["--evaluate.attacks=embed,pgd", "--evaluate.steps=2"]
    flags += ["--evaluate.curve=true", "--evaluate.curve_attacks=pgd,embed"]
    flags += ["--evaluate.every_curve=true", "--evaluate.epsilons=4/255"]
    flags += ["--evaluate.represent=true", "--represent.epsilons=4/255"]

    assert evaluate.main(["evaluate", *flags]) == 0

    report = json.loads((tmp_path / "report.json").read_text())
    names = ["mae SLF", "teacher SLF"]
    assert [row["name"] for row in report["rows"]] == names
    for key in ("curves", "embed_curves", "representation"):
        assert list(report[key]) == names
    # Method and teacher are one network here.
    for key in ("curves", "embed_curves"):
        assert report[key]["mae SLF"] == report[key]["teacher SLF"]
    radii = [item["epsilon"] for item in report["representation"]["mae SLF"]["drift"]]
    assert radii == pytest.approx([4 / 255, 8 / 255])
    table = (tmp_path / "report.md").read_text()
    assert re.search(r"\| model +\| epsilon +\| PGD % +\| embed %", table)
    (events,) = (tmp_path / "evaluate" / "tensorboard").iterdir()
    assert b"mae SLF/attention" in events.read_bytes()


def test_an_encoder_from_elsewhere_is_probed(tmp_path):
    save_bundle(ResNet(8), tmp_path / "resnet", {})
    flags = [f"--run.init_from={tmp_path / 'resnet'}", f"--run.workdir={tmp_path}"]

    assert evaluate.main(["evaluate", *SHORT, *flags]) == 0

    assert rows(tmp_path) == [("model SLF", "SLF, mean", "pretrained elsewhere")]


def test_nothing_to_evaluate_is_refused(tmp_path, capsys):
    code = evaluate.main(["evaluate", *SHORT, f"--run.workdir={tmp_path}"])

    outcome = code, capsys.readouterr().err
    assert_refused(outcome, "`--run.init_from`", "neither an encoder nor", "Add one")


def test_a_bundle_without_an_encoder_is_refused(tmp_path, capsys):
    decoder = MaeDecoder((4, 4), 2, input_width=16, width=16, depth=1, heads=2)
    save_bundle({"decoder": decoder}, tmp_path / "bundle", {})
    start = f"--run.init_from={tmp_path / 'bundle'}"

    code = evaluate.main(["evaluate", *SHORT, f"--run.workdir={tmp_path}", start])

    outcome = code, capsys.readouterr().err
    assert_refused(outcome, "`--run.init_from`", "hold an encoder", "with decoder")
