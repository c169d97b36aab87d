"""Whole runs of the three commands on networks of a few hundred weights."""

import json

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kerobust import evaluate, probe, train
from kerobust.data import DataConfig, load
from kerobust.models.bundle import load_bundle
from kerobust.models.weights import named_weights
from tests.cli.bad_input_test import TINY

SHORT = (
    *TINY,
    "--finetune.epochs=1",
    "--finetune.attack_steps=1",
    "--finetune.drop_path=0",
    "--evaluate.steps=2",
    "--evaluate.restarts=1",
    "--evaluate.limit=40",
    "--evaluate.epsilons=0.1",
    "--evaluate.diagnose=false",
    "--mimir.mi_batch=16",
)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """Returns the folder of a run with all four stages."""
    workdir = tmp_path_factory.mktemp("whole")
    stages = "--run.stages=pretrain,finetune,baselines,evaluate"
    arms = "--baselines.arms=scratch,natural,random_init,pixels"
    flags = [*SHORT, stages, arms, f"--run.workdir={workdir}"]
    assert train.main(["train", *flags]) == 0
    return workdir, flags


def examples(workdir, name) -> dict:
    """Returns which images a network of a run had right, by kind."""
    path = workdir / "evaluate" / name / "results.json"
    return json.loads(path.read_text())["examples"]


def attacked_weights(workdir, name) -> str:
    """Returns the digest of the weights that an evaluation attacked."""
    path = workdir / "evaluate" / name / "batches" / "identity.json"
    return json.loads(path.read_text())["identity"]["weights of the model"]


def test_the_report_has_a_row_for_every_network_and_compares_the_first(whole_run):
    report = json.loads((whole_run[0] / "report.json").read_text())

    names = [row["name"] for row in report["rows"]]
    assert names == [
        "mimir + pgd", "scratch", "natural", "mimir probe", "random_init probe",
        "pixels probe",
    ]  # fmt: skip
    notes = [row["note"].split()[0] for row in report["rows"]]
    assert notes == ["pretrained", "trained", "trained", "linear", "linear", "linear"]
    pairs = {(item["second"], item["on"]) for item in report["comparisons"]}
    assert pairs == {(name, on) for name in names[1:] for on in ("worst", "clean")}
    for row in report["rows"]:
        assert set(row["robust"]) == {"fgsm", "pgd", "momentum_pgd"}
        least = min(share["correct"] for share in row["robust"].values())
        assert row["worst"]["correct"] <= least <= row["natural"]["correct"]
        assert all(found["max"] <= 8 / 255 + 1e-6 for found in row["norms"].values())


def test_the_run_folder_says_with_what_it_was_made(whole_run):
    workdir, _ = whole_run

    environment = json.loads((workdir / "environment.json").read_text())

    assert {"packages", "git", "devices", "data_digest", "command"} <= set(environment)
    assert "--attack.epsilon=8/255" in (workdir / "config.flags").read_text()
    page = (workdir / "report.html").read_text()
    assert 'src="http' not in page and 'href="http' not in page


def test_tensorboard_shows_losses_speed_probes_pictures_and_settings(whole_run):
    events = EventAccumulator(str(whole_run[0] / "pretrain" / "tensorboard"))
    events.Reload()

    tags = events.Tags()
    logged = set(tags["tensors"]) | set(tags["scalars"])
    assert logged >= {
        "train/loss", "train/reconstruction", "train/dependence",
        "train/perturbation", "learning_rate", "images_per_second", "attack_share",
        "knn/clean", "knn/robust", "pictures",
    }  # fmt: skip
    assert any("hparams" in tag for tag in events.PluginTagToContent("hparams"))


def test_the_same_command_again_reads_what_is_finished(whole_run, capsys):
    workdir, flags = whole_run
    before = examples(workdir, "scratch")

    assert train.main(["train", *flags]) == 0

    printed = capsys.readouterr().out
    assert "steps, peak rate" not in printed and "evaluate: scratch" in printed
    assert examples(workdir, "scratch") == before


@pytest.mark.slow
def test_probe_and_evaluate_start_from_bundles(tmp_path, whole_run):
    encoder = whole_run[0] / "encoder"
    model = whole_run[0] / "baselines" / "natural" / "model"

    probed = probe.main(
        ["probe", *SHORT, f"--run.init_from={encoder}", f"--run.workdir={tmp_path}/p"]
    )
    tested = evaluate.main(
        ["evaluate", *SHORT, f"--run.init_from={model}", f"--run.workdir={tmp_path}/e"]
    )

    assert probed == tested == 0
    # In the whole run, networks of one structure took turns in one compiled object.
    alone = attacked_weights(tmp_path / "e", "model")
    assert alone == attacked_weights(whole_run[0], "natural")
    assert alone != attacked_weights(whole_run[0], "scratch")
    assert examples(tmp_path / "e", "model") == examples(whole_run[0], "natural")
    frozen = named_weights(load_bundle(tmp_path / "p" / "finetune" / "model").encoder)
    source = named_weights(load_bundle(encoder)["encoder"])
    shared = frozen.keys() & source.keys()
    assert len(shared) > 10
    for name in shared:
        np.testing.assert_array_equal(frozen[name], source[name])


@pytest.mark.slow
def test_pretraining_may_see_the_validation_images(tmp_path):
    stages = ("--run.stages=pretrain", "--pretrain.epochs=1")
    seen = {}
    for flag in ("false", "true"):
        flags = [*SHORT, *stages, f"--data.pretrain_validation={flag}"]
        assert train.main(["train", *flags, f"--run.workdir={tmp_path}/{flag}"]) == 0
        lines = (tmp_path / flag / "pretrain" / "metrics.jsonl").read_text()
        seen[flag] = json.loads(lines.splitlines()[-1])["step"]

    source = load(DataConfig()).splits
    size = int(next(x for x in TINY if "pretrain.batch_size" in x).split("=")[1])
    train_size, more = source["train"].size, source["validation"].size
    assert seen == {"false": train_size // size, "true": (train_size + more) // size}


def test_a_probe_has_the_shape_of_its_encoder(whole_run, tmp_path, capsys):
    encoder = whole_run[0] / "encoder"
    flags = [flag for flag in SHORT if not flag.startswith(("--model.", "--mae."))]
    flags += [f"--run.workdir={tmp_path}", "--model.heads=1", "--model.mean=0.5"]

    code = probe.main(["probe", *flags, f"--run.init_from={encoder}", "--dry_run"])

    shape = "width 16, depth 1, heads 2, patch_size 2, positions sincos"
    assert code == 0
    assert f"encoder: {encoder}, which sets --model: {shape}" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mae", "mimir"])
def test_two_devices_work_from_the_command_line(tmp_path, method):
    flags = [*SHORT, f"--method={method}", "--run.devices=2"]
    flags += ["--run.stages=pretrain,evaluate"] * (method == "mimir")

    code = train.main(["train", *flags, f"--run.workdir={tmp_path}"])

    assert code == 0
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert len(environment["devices"]) >= 2
