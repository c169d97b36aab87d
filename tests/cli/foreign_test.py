"""`kerobust.evaluate` on models of other programs, with AutoAttack."""

import json
import warnings

import numpy as np
import pytest
import tensorflow as tf

from kerobust import evaluate
from kerobust.data import DataConfig, load
from kerobust.models import Classifier, ClassifierHead, VisionTransformer, save_bundle
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

    for more in ((), ("--dry_run",)):
        code = run(tmp_path, tmp_path / "other.keras", *more)

        outcome = code, capsys.readouterr().err
        assert_refused(outcome, "`--run.init_from`", "(5, 5, 1)", "(8, 8, 3)")


def dense(*outputs, inputs=1):
    """Returns a network with some outputs, on 8 x 8 pixels."""
    images = [tf.keras.Input([8, 8, 3]) for _ in range(inputs)]
    flat = tf.keras.layers.Flatten()(images[-1])
    found = [tf.keras.layers.Dense(count)(flat) for count in outputs]
    return tf.keras.Model(images, found if len(found) > 1 else found[0])


@pytest.mark.parametrize("more", [(), ("--dry_run",), ("--evaluate.diagnose=false",)])
def test_a_model_with_other_classes_is_named(tmp_path, capsys, more):
    dense(7).save(tmp_path / "m7.keras")
    dense(7).export(tmp_path / "m7")

    for name in ("m7.keras", "m7"):
        code = run(tmp_path, tmp_path / name, *more)

        words = ("`--run.init_from`", "`--data.name`, digits", "each of the 10 classes")
        outcome = code, capsys.readouterr().err
        assert_refused(outcome, *words, f"{name}, whose output has shape (7,)")


@pytest.mark.parametrize("more", [(), ("--dry_run",)])
def test_a_bundle_with_other_classes_or_images_is_named(tmp_path, capsys, more):
    for name, side, classes in (("seven", 8, 7), ("large", 16, 10)):
        encoder = VisionTransformer((side, side), 4, 8, 1, 2, final_norm=False)
        model = Classifier(encoder, ClassifierHead(classes))
        model(tf.zeros([1, side, side, 3]))
        save_bundle(model, tmp_path / name, {})

    for name, words in {
        "seven": ("each of the 10 classes", "whose output has shape (7,)"),
        "large": ("images of shape (8, 8, 3)", "which fails on them"),
    }.items():
        code = run(tmp_path, tmp_path / name, *more)

        outcome = code, capsys.readouterr().err
        assert_refused(outcome, "`--run.init_from`", "digits", *words)
        assert not (tmp_path / "run").exists()


def test_a_dry_run_accepts_a_model_that_fits(tmp_path, capsys):
    dense(10).save(tmp_path / "model.keras")

    assert run(tmp_path, tmp_path / "model.keras", "--dry_run") == 0
    assert "time not included: evaluate" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_a_model_with_several_inputs_or_outputs_is_named(tmp_path, capsys):
    dense(10, 10).save(tmp_path / "two.keras")
    dense(10, inputs=2).save(tmp_path / "pair.keras")

    for name, words in {"two": "1 inputs and 2 out", "pair": "2 inputs and 1"}.items():
        code = run(tmp_path, tmp_path / f"{name}.keras")

        assert_refused((code, capsys.readouterr().err), "`--run.init_from`", words)


@pytest.mark.parametrize("ending", ["keras", "h5", "hdf5"])
def test_python_code_in_a_file_is_refused_and_does_not_run(tmp_path, capsys, ending):
    ran = tmp_path / "ran"
    code = f"lambda x: (__import__('pathlib').Path({str(ran)!r}).touch(), x)[1]"
    layers = [tf.keras.layers.Lambda(eval(code)), tf.keras.layers.Flatten()]
    layers = [tf.keras.Input([8, 8, 3]), *layers, tf.keras.layers.Dense(10)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras: HDF5 is a legacy format.
        tf.keras.Sequential(layers).save(tmp_path / f"evil.{ending}")
    ran.unlink()

    code = run(tmp_path, tmp_path / f"evil.{ending}", "--dry_run")

    assert_refused((code, capsys.readouterr().err), "evil", "it has a Lambda layer")
    assert not ran.exists()
