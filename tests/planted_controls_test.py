"""Planted mistakes must change the table in the direction they must.

A result that survives shuffled labels, a harmless attack or an attack with the wrong
sign would mean that the pipeline measures something else than it says.
"""

import json

import numpy as np
import pytest

from kerobust import train, workflows
from kerobust.attacks import CrossEntropy
from kerobust.data import datasets
from kerobust.data.splits import Split

pytestmark = pytest.mark.slow

FLAGS = (
    "--run.stages=pretrain,finetune,evaluate",
    "--method=mae",
    "--model.width=32",
    "--model.depth=2",
    "--model.heads=2",
    "--mae.decoder_width=32",
    "--mae.decoder_depth=1",
    "--mae.decoder_heads=2",
    "--pretrain.epochs=1",
    "--pretrain.warmup_epochs=0",
    "--finetune.epochs=24",
    "--finetune.warmup_epochs=2",
    "--finetune.batch_size=100",
    "--finetune.base_rate=1.2e-2",
    "--finetune.layer_decay=1",
    "--finetune.drop_path=0",
    "--finetune.attack=natural",
    "--attack.epsilon=0.1",
    "--evaluate.attacks=pgd",
    "--evaluate.steps=5",
    "--evaluate.restarts=1",
    "--evaluate.diagnose=false",
    "--evaluate.limit=200",
    "--evaluate.epsilons=0.1",
    "--run.checkpoint_steps=1000",
)


def accuracies(workdir, *flags) -> tuple[float, float]:
    """Returns natural and robust accuracy of a short run."""
    assert train.main(["train", f"--run.workdir={workdir}", *FLAGS, *flags]) == 0
    row = json.loads((workdir / "report.json").read_text())["rows"][0]
    return row["natural"]["accuracy"], row["robust"]["pgd"]["accuracy"]


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("honest")
    return workdir, accuracies(workdir)


def evaluate_again(tmp_path, honest, *flags):
    """Attacks the honest model once more, in a run folder of its own."""
    bundle = honest[0] / "finetune" / "model"
    stages = ("--run.stages=evaluate", f"--run.init_from={bundle}")
    return accuracies(tmp_path, *stages, *flags)


def test_the_honest_run_learns_and_the_attack_hurts(honest):
    natural, robust = honest[1]

    assert natural > 0.7  # Chance is 0.1.
    assert robust < natural - 0.2


def test_epsilon_zero_leaves_the_natural_accuracy(tmp_path, honest):
    natural, robust = evaluate_again(
        tmp_path, honest, "--attack.epsilon=0", "--evaluate.epsilons=0.1"
    )

    assert robust == natural == honest[1][0]


def test_an_attack_with_the_wrong_sign_does_no_harm(tmp_path, honest, monkeypatch):
    values = CrossEntropy.values
    monkeypatch.setattr(CrossEntropy, "values", lambda *given: -values(*given))

    natural, robust = evaluate_again(tmp_path, honest)

    assert natural == honest[1][0]
    assert robust > honest[1][1] + 0.1


def test_shuffled_labels_bring_accuracy_to_chance(tmp_path, monkeypatch):
    load = datasets.load

    def shuffled(config):
        source = load(config)
        train_split = source.splits["train"]
        labels = np.random.default_rng(0).permutation(train_split.labels)
        source.splits["train"] = Split(
            train_split._pictures, train_split._rows, labels, train_split.ids
        )
        return source

    monkeypatch.setattr(workflows.preparing.datasets, "load", shuffled)

    natural, robust = accuracies(tmp_path)

    # 200 images, chance 0.1: three standard deviations are 0.064.
    assert natural < 0.17 and robust < 0.17
