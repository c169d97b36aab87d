"""A teacher, a robust copy of it and both under attack, by one command."""

import json

import pytest

from kerobust import train
from kerobust.models.bundle import load_bundle
from tests.cli.bad_input_test import TINY, assert_refused, run

SMALL = (
    *TINY,
    "--dino.prototypes=12",
    "--dino.hidden=16",
    "--dino.bottleneck=8",
    "--views.local_count=1",
    "--views.local_size=4",
    "--start.epochs=1",
    "--start.batch_size=64",
    "--start.warmup_epochs=0",
    "--pretrain.epochs=1",
    "--pretrain.batch_size=64",
    "--pretrain.warmup_epochs=0",
    "--evaluate.attacks=embed,pgd",
    "--evaluate.steps=2",
    "--evaluate.restarts=1",
    "--evaluate.limit=40",
    "--evaluate.curve=false",
    "--evaluate.diagnose=false",
    "--evaluate.features=cls",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rodino", "deacl", "fare", "multi"])
def test_the_method_starts_from_the_teacher_and_both_are_attacked(tmp_path, name):
    stages = "--run.stages=start,pretrain,evaluate"
    flags = [*SMALL, f"--method={name}", stages, f"--run.workdir={tmp_path}"]

    assert train.main(["train", *flags]) == 0

    assert set(load_bundle(tmp_path / "start")) == {"encoder", "head", "student"}
    assert "encoder" in load_bundle(tmp_path / "encoder")
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["name"] for row in report["rows"]] == [f"{name} SLF", "teacher SLF"]


def test_a_missing_teacher_ends_with_code_2(tmp_path, capsys):
    outcome = run(tmp_path, capsys, *SMALL, "--method=deacl")

    assert_refused(outcome, "must name the bundle of a teacher", "add start to")


def test_a_batch_that_is_too_small_ends_with_code_2(tmp_path, capsys):
    small = "--pretrain.batch_size=8"

    outcome = run(tmp_path, capsys, *SMALL, "--method=dino", small)

    assert_refused(outcome, "--dino.smallest_batch` (32)", "Received: batch_size=8")


@pytest.mark.slow
def test_a_collapse_stops_with_monitor_value_and_remedy(tmp_path, capsys):
    # So high a temperature that the teacher answers the same to every image.
    flat = ("--dino.teacher_temperature=100", "--dino.first_temperature=100")

    outcome = run(tmp_path, capsys, *SMALL, "--method=dino", *flat, "--run.log_steps=1")

    # The entropy of twelve equal answers is their log.
    received = "Received: teacher_entropy=2.485"
    assert_refused(outcome, received, "lower --dino.teacher_temperature")
