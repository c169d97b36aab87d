"""Ensembles and DVERGE from the command line."""

import json

import pytest

from kerobust import flags, train
from kerobust.models import (
    Classifier,
    ClassifierHead,
    ConvNet,
    Ensemble,
    VisionTransformer,
    load_bundle,
    save_bundle,
)
from kerobust.workflows.contenders import contenders
from kerobust.workflows.preparing import prepare
from tests.cli.bad_input_test import assert_refused, run

SMALL = (
    "--method=dverge",
    "--ensemble.members=2",
    "--conv.widths=4",
    "--conv.hidden=8",
    "--conv.kernel_size=3",
    "--conv.padding=same",
    "--start.epochs=3",
    "--start.batch_size=64",
    "--start.warmup_epochs=0",
    "--start.base_rate=0.02",
    "--pretrain.epochs=1",
    "--pretrain.batch_size=64",
    "--pretrain.warmup_epochs=0",
    "--dverge.steps=2",
    "--evaluate.attacks=fgsm",
    "--evaluate.limit=60",
    "--evaluate.curve=false",
    "--evaluate.diagnose=false",
    "--diversity.steps=2",
    "--diversity.restarts=1",
    "--diversity.distil_steps=1",
    "--diversity.surrogate_steps=1",
    "--diversity.surrogate_restarts=1",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run folder in which all stages are done."""
    folder = tmp_path_factory.mktemp("dverge")
    stages = "--run.stages=start,pretrain,evaluate"
    assert train.main(["train", *SMALL, stages, f"--run.workdir={folder}"]) == 0
    return folder


def report(folder) -> dict:
    return json.loads((folder / "report.json").read_text())


@pytest.mark.slow
def test_both_ensembles_and_all_members_are_attacked(finished):
    names = [row["name"] for row in report(finished)["rows"]]

    assert names == [
        *("dverge", "dverge member 1", "dverge member 2"),
        *("start", "start member 1", "start member 2"),
    ]
    for folder in ("start", "ensemble"):
        assert isinstance(load_bundle(finished / folder)["ensemble"], Ensemble)


@pytest.mark.slow
def test_what_members_share_is_in_every_report(finished):
    found = report(finished)["diversity"]

    assert list(found) == ["dverge", "start"]
    for item in found.values():
        assert list(item["transfer"]["success"]) == ["member 1", "member 2"]
        assert item["black_box"] is None
    page = (finished / "report.html").read_text()
    assert "Transfer between members" in page and "share of images" in page
    assert list((finished / "evaluate" / "tensorboard").glob("*.diversity"))
    picture = (finished / "evaluate" / "dverge" / "transfer.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


@pytest.mark.slow
def test_an_ensemble_from_elsewhere_is_attacked_also_by_way_of_another(
    finished, tmp_path
):
    given = [*SMALL, "--run.stages=evaluate", f"--run.workdir={tmp_path}"]
    given += [f"--run.init_from={finished / 'ensemble'}"]
    given += [f"--diversity.surrogates={finished / 'start'}"]

    assert train.main(["train", *given]) == 0

    found = report(tmp_path)
    names = [row["name"] for row in found["rows"]]
    assert names == ["model", "model member 1", "model member 2"]
    black_box = found["diversity"]["model"]["black_box"]
    assert f"{finished / 'start'}, CE, diverse" in black_box
    assert "Attacks made on other ensembles" in (tmp_path / "report.md").read_text()


def test_a_start_that_is_no_ensemble_ends_with_code_2(tmp_path, capsys):
    save_bundle(VisionTransformer((8, 8), 2, 16, 1, 2), tmp_path / "vit", {})

    outcome = run(
        tmp_path,
        capsys,
        *SMALL,
        "--run.stages=pretrain",
        f"--run.init_from={tmp_path / 'vit'}",
    )

    assert_refused(outcome, "`--run.init_from` must hold an ensemble")


def saved(folder, *, size=8, classes=10, combine="logits"):
    """Saves an ensemble of two and returns the flag that names it."""
    members = [
        Classifier(
            ConvNet((size, size), widths=(4,), hidden=(8,), kernel_size=3),
            ClassifierHead(classes, pooling="cls", norm=False),
        )
        for _ in range(2)
    ]
    save_bundle({"ensemble": Ensemble(members, combine=combine)}, folder, {})
    return f"--run.init_from={folder}"


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"size": 16}, ("an ensemble for the images", "(8, 8, 3)", "[B, 16, 16, 3]")),
        ({"classes": 7}, ("an ensemble for 10 classes", "one for 7")),
    ],
)
def test_a_start_for_other_data_ends_with_code_2(tmp_path, capsys, about, words):
    start = saved(tmp_path / "start", **about)

    outcome = run(tmp_path, capsys, *SMALL, "--run.stages=pretrain", start)

    assert_refused(outcome, "--run.init_from", *words)


@pytest.mark.slow
def test_a_start_says_which_members_it_brings(tmp_path, capsys):
    start, stage = saved(tmp_path / "start"), "--run.stages=pretrain"
    given = [*SMALL, "--ensemble.members=5", stage, f"--run.workdir={tmp_path / 'run'}"]

    assert train.main(["train", *given, start, "--dry_run"]) == 0

    printed = capsys.readouterr().out
    assert (
        "instead of --ensemble and --conv: 2 members with encoders ConvNet" in printed
    )


@pytest.mark.parametrize(
    ("given", "combine"), [([], "logits"), (["--ensemble.combine=votes"], "votes")]
)
def test_members_answer_as_the_flag_says_or_as_their_bundle(tmp_path, given, combine):
    given = [*SMALL, *given, saved(tmp_path / "start"), f"--run.workdir={tmp_path}"]

    first = next(contenders(prepare(flags.parse(given).config)))

    assert first.model.combine == combine


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--run.stages=pretrain,finetune"], ("--run.stages", "trains classifiers")),
        (["--ensemble.members=1"], ("--ensemble.members", "at least 2")),
        (["--dverge.layer=9"], ("--dverge.layer", "[1, 3]")),
        (["--dverge.epsilon=18"], ("--dverge.epsilon", "did you mean 18/255?")),
        (["--conv.padding=valid", "--conv.kernel_size=9"], ("--conv.kernel_size",)),
        (
            ["--ensemble.attack=ensemble", "--ensemble.combine=votes"],
            ("--ensemble.attack", "no gradient", "--ensemble.combine=probabilities"),
        ),
        (
            ["--ensemble.bn_in_attack=train", "--run.devices=2"],
            ("--ensemble.bn_in_attack", "--run.devices=1"),
        ),
    ],
)
def test_impossible_settings_end_with_code_2(tmp_path, capsys, given, words):
    outcome = run(tmp_path, capsys, *SMALL, "--run.stages=pretrain", *given)

    assert_refused(outcome, *words)
