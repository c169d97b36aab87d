"""`kerobust.evaluate` on models of other programs, with AutoAttack."""

import json

import numpy as np
import pytest
import tensorflow as tf

from kerobust import evaluate
from kerobust.data import DataConfig, load
from tests.cli.bad_input_test import assert_refused

FLAGS = ("--evaluate.limit=12", "--evaluate.curve=false", "--attack.epsilon=0.05")


@pytest.fixture(scope="module")
def network():
    images, labels = load(DataConfig()).splits["train"].arrays()
    layers = tf.keras.layers
    network = tf.keras.Sequential(
        [tf.keras.Input([8, 8, 3]), layers.Flatten(), layers.Dense(10)]
    )
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(tf.keras.optimizers.Adam(0.01), loss)
    network.fit(images, labels, batch_size=64, epochs=5, verbose=0)
    return network


def run(tmp_path, model, *flags):
    return evaluate.main(
        [
            *("evaluate", *FLAGS, *flags, f"--run.init_from={model}"),
            f"--run.workdir={tmp_path / 'run'}",
        ]
    )


@pytest.mark.slow
def test_a_keras_file_gets_the_whole_suite(network, tmp_path):
    network.save(tmp_path / "model.keras")

    code = run(tmp_path, tmp_path / "model.keras", "--evaluate.attacks=autoattack,pgd")

    folder = tmp_path / "run" / "evaluate" / "model"
    results = json.loads((folder / "results.json").read_text())
    info = json.loads((folder / "model_info_autoattack.json").read_text())
    report = (tmp_path / "run" / "report.md").read_text()
    assert code == 0
    suite = results["suites"]["autoattack"]
    share = results["robust"]["autoattack"]["accuracy"]
    assert suite["suite"]["standard"] and suite["robust_accuracy"] == share
    assert share <= results["robust"]["pgd"]["accuracy"]
    assert info["autoattack_acc"] == f"{100 * share:.2f}"
    assert info["eps"] == "0.05" and info["dataset"].startswith("digits")
    assert "apgd-ce" in report and "fab-t" in report


@pytest.mark.slow
def test_a_saved_model_gets_members_by_name(network, tmp_path):
    network.export(tmp_path / "exported")

    code = run(tmp_path, tmp_path / "exported", "--evaluate.attacks=apgd-ce,fgsm")

    folder = tmp_path / "run" / "evaluate" / "model"
    results = json.loads((folder / "results.json").read_text())
    assert code == 0
    assert set(results["robust"]) == {"apgd-ce", "fgsm"}
    robust = np.array(results["examples"]["robust"]["apgd-ce"])
    assert (robust <= np.array(results["examples"]["clean"])).all()
    assert not (folder / "model_info_autoattack.json").exists()


def test_models_of_others_are_not_trained(network, tmp_path, capsys):
    network.save(tmp_path / "model.keras")

    code = run(tmp_path, tmp_path / "model.keras", "--run.stages=finetune,evaluate")

    outcome = code, capsys.readouterr().err
    assert_refused(
        outcome, "`--run.init_from`", "evaluate and validate only", "finetune,evaluate"
    )


def test_a_missing_file_is_named(tmp_path, capsys):
    code = run(tmp_path, tmp_path / "missing.keras")

    assert_refused((code, capsys.readouterr().err), "missing.keras", "does not exist")


def test_a_model_for_other_images_is_named(tmp_path, capsys):
    other = tf.keras.Sequential(
        [
            tf.keras.Input([5, 5, 1]),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(10),
        ]
    )
    other.save(tmp_path / "other.keras")

    code = run(tmp_path, tmp_path / "other.keras")

    outcome = code, capsys.readouterr().err
    assert_refused(outcome, "`--run.init_from`", "(5, 5, 1)", "(8, 8, 3)")
