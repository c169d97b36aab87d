"""The stages perturb, validate and push, from the command line."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from kerobust import evaluate
from kerobust.config import UserError
from kerobust.data import DataConfig, load
from kerobust.evaluation.probes import linear_probe
from kerobust.flags import USER_ERROR
from kerobust.models import VisionTransformer, load_bundle, save_bundle
from tests.methods.tiny import tiny_pretraining

FLAGS = (
    *("--attack.epsilon=0.05", "--evaluate.attacks=fgsm", "--evaluate.limit=60"),
    *("--evaluate.curve=false", "--evaluate.diagnose=false", "--perturb.steps=2"),
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A linear probe of an untrained encoder: far better than chance."""
    tf.keras.utils.set_random_seed(0)
    encoder = VisionTransformer((8, 8), 4, 16, 1, 2)
    probe = linear_probe(encoder, load(DataConfig()).splits["train"], 10)
    folder = tmp_path_factory.mktemp("bundle") / "probe"
    save_bundle(probe, folder, {"flags": {"method": "mae", "data.name": "digits"}})
    return folder


def run(folder, stages, bundle, *more):
    """Returns the exit code of `kerobust.evaluate`."""
    given = (f"--run.workdir={folder}", f"--run.init_from={bundle}")
    stage = f"--run.stages={stages}"
    return evaluate.main(["evaluate", *FLAGS, stage, *given, *more])


@pytest.fixture(scope="module")
def evaluated(bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert run(folder, "perturb,evaluate", bundle) == 0
    return folder


@pytest.fixture
def copied(evaluated, tmp_path):
    return shutil.copytree(evaluated, tmp_path / "run")


def test_attacked_images_are_a_data_set_of_their_own(evaluated, bundle):
    clean = load(DataConfig()).splits
    found = load(DataConfig(name=f"examples:{evaluated}/adversarial")).splits
    model, about = load_bundle(bundle), evaluated / "adversarial" / "perturb.json"

    change = found["test"].arrays()[0] - clean["test"].arrays()[0]
    assert 0.04 < np.abs(change).max() <= 0.05 + 1e-6
    for name in ("train", "validation"):
        same = found[name].arrays()[0], clean[name].arrays()[0]
        np.testing.assert_array_equal(*same)
    shares = json.loads(about.read_text())["splits"]
    for split, share in ((clean, "clean"), (found, "adversarial")):
        images, labels = split["test"].arrays()
        right = np.mean(np.argmax(model(images), 1) == labels)
        assert shares["test"][share] == pytest.approx(right, abs=1e-9)
    assert shares["test"]["adversarial"] < shares["test"]["clean"] - 0.1


def test_attacked_images_are_read_when_they_are_there(copied, bundle, monkeypatch):
    def fail(*arguments, **options):
        raise AssertionError("attacked again")

    monkeypatch.setattr("kerobust.attacks.PGD.call", fail)
    assert run(copied, "perturb", bundle) == 0

    with pytest.raises(AssertionError, match="attacked again"):
        run(copied, "perturb", bundle, "--perturb.steps=3")


@pytest.mark.slow
def test_an_interrupted_rewrite_is_not_taken_for_the_old_images(
    copied, bundle, monkeypatch
):
    def die(*arguments, **options):
        raise KeyboardInterrupt

    folder = copied / "adversarial"
    before = load(DataConfig(name=f"examples:{folder}")).digest
    with monkeypatch.context() as patch:
        patch.setattr("kerobust.data.examples._write_schema", die)
        with pytest.raises(KeyboardInterrupt):
            run(copied, "perturb", bundle, "--perturb.attack=fgsm")
    with pytest.raises(UserError, match="`--data.name` must name a folder with"):
        load(DataConfig(name=f"examples:{folder}"))

    assert run(copied, "perturb", bundle) == 0

    assert load(DataConfig(name=f"examples:{folder}")).digest == before


def test_images_without_a_label_leave_what_the_model_says(bundle, tmp_path):
    images = load(DataConfig()).splits["test"].arrays()[0][:40]
    np.savez(tmp_path / "bare.npz", images=images)
    data = f"--data.name=npz:{tmp_path / 'bare.npz'}"

    code = run(tmp_path / "run", "perturb", bundle, data, "--perturb.splits=train")

    found = json.loads((tmp_path / "run/adversarial/perturb.json").read_text())
    assert code == 0
    assert found["splits"]["train"]["clean"] == 1.0
    assert found["splits"]["train"]["adversarial"] < 0.9


def test_labels_that_the_model_does_not_know_are_refused(bundle, tmp_path, capsys):
    images, labels = load(DataConfig()).splits["test"].arrays()
    labels = np.where(np.arange(len(labels)) % 2, labels, 11)
    np.savez(tmp_path / "more.npz", images=images, labels=labels)
    data = f"--data.name=npz:{tmp_path / 'more.npz'}"

    assert run(tmp_path / "run", "perturb", bundle, data) == USER_ERROR

    assert "a model of 10 classes and label 11" in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_of_another_program_is_attacked_by_its_files(tmp_path):
    folders = []
    for seed in (0, 1):
        tf.keras.utils.set_random_seed(seed)
        layers = tf.keras.layers
        flat = layers.Flatten(input_shape=(8, 8, 3))
        network = tf.keras.Sequential([flat, layers.Dense(10)])
        network.export(tmp_path / f"model{seed}")
        given = (tmp_path / "run", "perturb", tmp_path / f"model{seed}")
        assert run(*given) == 0
        report = tmp_path / "run" / "adversarial" / "perturb.json"
        folders.append(json.loads(report.read_text()))

    assert folders[0]["digest"] != folders[1]["digest"]


def test_a_blessed_model_is_pushed_once(copied, bundle, tmp_path, capsys):
    push = (f"--push.dir={tmp_path / 'shelf'}", "--push.name=probe")

    codes = [run(copied, "validate,push", bundle, *push) for _ in range(2)]

    version = tmp_path / "shelf" / "probe" / "1"
    said = capsys.readouterr().out
    assert codes == [0, 0]
    assert [path.name for path in version.parent.iterdir()] == ["1"]
    assert f"pushed: {version}" in said and f"pushed before: {version}" in said
    images = load(DataConfig()).splits["test"].fetch([0, 1])
    expected = load_bundle(bundle)(images)
    served = tf.saved_model.load(str(version)).signatures["serving_default"]
    np.testing.assert_allclose(served(images)["logits"], expected, atol=1e-5)
    np.testing.assert_array_equal(load_bundle(version / "bundle")(images), expected)
    card = (version / "README.md").read_text()
    assert "fgsm, linf 0.05, 60 images" in card and "\n# probe\n" in card
    assert json.loads((version / "blessing.json").read_text())["blessed"]


@pytest.mark.slow
def test_an_ensemble_is_pushed_as_one_classifier(tmp_path):
    tf.keras.utils.set_random_seed(0)
    ensemble = tiny_pretraining("ensemble").ensemble
    images = load(DataConfig()).splits["test"].fetch([0, 1])
    expected = ensemble(images)
    save_bundle(ensemble, tmp_path / "ensemble", {"flags": {"method": "ensemble"}})
    given = ("--method=ensemble", f"--push.dir={tmp_path / 'shelf'}")
    given += ("--evaluate.diversity=false",)

    code = run(
        tmp_path / "run", "evaluate,validate,push", tmp_path / "ensemble", *given
    )

    assert code == 0
    served = tf.saved_model.load(str(tmp_path / "shelf" / "model" / "1"))
    found = served.signatures["serving_default"](images)["logits"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_versions_count_up(copied, bundle, tmp_path):
    (tmp_path / "shelf" / "model" / "9").mkdir(parents=True)
    (tmp_path / "shelf" / "model" / "10").mkdir()
    (tmp_path / "shelf" / "model" / "notes").mkdir()

    assert run(copied, "validate,push", bundle, f"--push.dir={tmp_path / 'shelf'}") == 0

    assert (tmp_path / "shelf" / "model" / "11" / "saved_model.pb").is_file()


def test_a_model_below_its_limits_is_not_pushed(copied, bundle, tmp_path, capsys):
    limits = ("--validate.min_worst=0.999", f"--push.dir={tmp_path / 'shelf'}")

    code = run(copied, "validate,push", bundle, *limits)

    said = capsys.readouterr().out
    assert code == 1
    assert "wanted at least 99.90%: NO" in said and "not blessed" in said
    assert "not pushed" in said and not (tmp_path / "shelf").exists()


def test_what_was_pushed_is_found_on_the_shelf_itself(copied, bundle, tmp_path):
    push = f"--push.dir={tmp_path / 'shelf'}"
    assert run(copied, "validate,push", bundle, push) == 0
    (copied / "pushed.json").unlink()  # As if killed before the note.

    assert run(copied, "push", bundle, push) == 0

    assert [path.name for path in (tmp_path / "shelf" / "model").iterdir()] == ["1"]


def test_a_verdict_is_on_what_was_evaluated(copied, bundle, tmp_path, capsys):
    other = load_bundle(bundle)
    other.head.dense.kernel.assign_add(tf.ones_like(other.head.dense.kernel))
    save_bundle(other, tmp_path / "other", {})

    code = run(copied, "validate", tmp_path / "other")

    assert code == USER_ERROR
    assert "whose report is about others" in capsys.readouterr().err


def test_a_new_evaluation_needs_a_new_verdict(copied, bundle, tmp_path, capsys):
    assert run(copied, "validate", bundle) == 0
    more = ("--evaluate.limit=61", f"--push.dir={tmp_path / 'shelf'}")

    code = run(copied, "evaluate,push", bundle, *more)

    assert code == 1 and not (tmp_path / "shelf").exists()
    assert "has no blessing" in capsys.readouterr().out


def test_the_baseline_is_another_run(copied, evaluated, bundle, capsys):
    assert run(copied, "validate", bundle, f"--validate.baseline={evaluated}") == 0
    assert "accuracy without attack, change: +0.00%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stages", "flags", "words"),
    [
        ("validate", (), "`--run.workdir` must name a run folder with a finished"),
        ("push", (), "`--push.dir` must name a folder"),
        ("perturb", ("--perturb.splits=tests",), "`--perturb.splits` must be one of"),
        ("perturb", ("--perturb.splits=",), "`--perturb.splits` must name a split"),
        ("push", ("--push.name=a/b",), "`--push.name` must be letters"),
    ],
)
def test_what_is_missing_is_named(tmp_path, bundle, capsys, stages, flags, words):
    code = run(tmp_path / "new", stages, bundle, *flags)

    assert code == USER_ERROR
    assert words in capsys.readouterr().err


def test_a_baseline_without_an_evaluation_is_refused(copied, bundle, tmp_path, capsys):
    code = run(copied, "validate", bundle, f"--validate.baseline={tmp_path}")

    assert code == USER_ERROR
    assert "`--validate.baseline` must name a run folder" in capsys.readouterr().err
