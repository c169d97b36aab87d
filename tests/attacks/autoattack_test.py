"""AutoAttack: verified, resumable, independent of batches, for any classes."""

import json

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import AutoAttack, MaskingError
from kerobust.config import UserError
from tests.attacks.victims import convnet, digits

QUICK = {"steps": 4, "queries": 20}
COUNT = 24
FIELDS = ("labels", "clean", "robust", "predictions", "broken_by", "norms")


@pytest.fixture(scope="module")
def network():
    return convnet()


@pytest.fixture(scope="module")
def suite():
    """Returns the quick suite; one object, so that it compiles once."""
    return AutoAttack(0.15, **QUICK)


def run(suite, network, count=COUNT, **options):
    images, labels = digits(count)
    options = {"diagnose": False, "return_adversarial": True} | options
    return suite.evaluate(network, images, labels, **options)


@pytest.fixture(scope="module")
def report(suite, network):
    return run(suite, network)


def assert_same(first, second):
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), name)


def test_what_it_reports_is_what_the_model_says_about_its_images(report, network):
    images, labels = digits(COUNT)

    found = network(report.adversarial).numpy().argmax(axis=1)

    clean = network(images).numpy().argmax(axis=1) == labels
    np.testing.assert_array_equal(report.clean, clean)
    np.testing.assert_array_equal(report.robust, clean & (found == labels))
    broken = report.broken_by >= 0
    np.testing.assert_array_equal(report.predictions[broken], found[broken])
    assert 0.2 < report.robust_accuracy < report.clean_accuracy


def test_what_fooled_is_inside_the_ball_and_what_did_not_is_untouched(report):
    images, _ = digits(COUNT)

    change = np.abs(report.adversarial - images).max(axis=(1, 2, 3))

    broken = report.broken_by >= 0
    assert change[broken].min() > 0 and change.max() <= 0.15 + 1e-6
    assert report.adversarial.min() >= 0 and report.adversarial.max() <= 1
    np.testing.assert_array_equal(change[~broken], 0)
    np.testing.assert_allclose(report.norms, change, atol=1e-7)


def test_every_break_has_a_name(report):
    names = report.breakers()

    assert [name is not None for name in names] == (report.broken_by >= 0).tolist()
    members = {name.split(",")[0] for name in names if name}
    assert members <= {"apgd-ce", "apgd-t", "fab-t", "square"}
    broken = sum(found["broken"] for found in report.members.values())
    assert broken == report.clean.sum() - report.robust.sum()
    last = list(report.members.values())[-1]
    assert last["robust_accuracy"] == report.robust_accuracy


def test_batch_size_and_batch_mates_change_nothing(suite, network, report):
    small = run(suite, network, batch_size=7)

    assert_same(small, report)


@pytest.mark.slow
def test_a_dataset_of_other_batches_gives_the_same(suite, network, report):
    images, labels = digits(COUNT)
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(5)

    found = suite.evaluate(network, batches, batch_size=9, diagnose=False)

    assert_same(found, report)
    assert found.adversarial is None


def test_a_killed_evaluation_continues_with_the_same_result(
    suite, network, report, tmp_path
):
    lines, again = [], []

    def kill(line):
        lines.append(line)
        if "batch 2" in line and "fab-t" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(suite, network, batch_size=10, state_dir=tmp_path, progress=kill)
    found = run(
        suite, network, batch_size=10, state_dir=tmp_path, progress=again.append
    )
    lines.clear()
    third = run(
        suite, network, batch_size=10, state_dir=tmp_path, progress=lines.append
    )

    assert_same(found, report)
    assert_same(third, report)
    assert len(lines) == 1  # All three batches are read.
    np.testing.assert_array_equal(found.adversarial, report.adversarial)
    assert again[0].startswith("continuing with 1 stored batches")
    assert all("batch 1 " not in line for line in again[1:])
    assert "ETA 0:00" in again[-1]


@pytest.mark.slow
def test_results_of_another_model_are_not_continued(suite, network, tmp_path):
    run(suite, network, count=4, state_dir=tmp_path)
    other = convnet()
    other.layers[-1].bias.assign_add(tf.one_hot(0, 10))
    lines = []

    run(suite, other, count=4, state_dir=tmp_path, progress=lines.append)

    assert lines[0].startswith("discarding 1 stored batches")
    assert "weights of the model" in lines[0]


def test_a_search_costs_its_steps_and_one_look_more(network):
    images, labels = digits(1)
    suite = AutoAttack(1e-4, version="custom", attacks=["apgd-ce", "fab-t"], steps=10)

    found = suite.evaluate(network, images, labels, diagnose=False).members

    # Nothing breaks within 0.0001. Auto-PGD: a start and 10 steps, a gradient for each
    # but the last point (the original: 11 of each). One forward sees the result again.
    assert found["apgd-ce"]["forwards"] == 11 + 1
    assert found["apgd-ce"]["backwards"] == 10
    # Nine goals, a gradient per step.
    assert found["fab-t"]["backwards"] == 9 * 10
    assert found["fab-t"]["forwards"] <= 9 * (2 * 10 + 1 + 1)


@pytest.mark.parametrize(
    ("classes", "notes"),
    [
        (2, ["apgd-t tries all 1 wrong", "fab-t tries all 1 wrong", "the margin"]),
        pytest.param(
            *(3, ["apgd-t tries all 2 wrong", "fab-t tries all 2 wrong", "z_1 - z_3"]),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *(5, ["apgd-t tries all 4 wrong", "fab-t tries all 4 wrong"]),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_any_number_of_classes_is_attacked_and_what_was_adapted_is_said(classes, notes):
    # Class c wins where the mean of the pixels is near c / (classes - 1).
    centres = np.linspace(0, 1, classes).astype(np.float32)

    def model(images):
        mean = tf.reduce_mean(images, axis=[1, 2, 3])
        return -10.0 * tf.square(mean[:, tf.newaxis] - centres)

    images = tf.fill([1, 2, 2, 1], 0.0) + centres[:, None, None, None]
    images = tf.concat([images, images * 0.98 + 0.01], axis=0).numpy()
    labels = np.tile(np.arange(classes), 2)
    half = 0.5 / (classes - 1)

    found = {
        epsilon: AutoAttack(epsilon, **QUICK).evaluate(
            model, images, labels, diagnose=False
        )
        for epsilon in (0.8 * half, 1.2 * half)
    }

    # The border between neighbours is half a distance away: an exact answer.
    assert [report.robust_accuracy for report in found.values()] == [1.0, 0.0]
    said = found[0.8 * half].notes
    assert len(said) == len(notes)
    assert all(part in text for part, text in zip(notes, said, strict=True))


@pytest.mark.slow
def test_a_random_model_is_judged_by_many_draws(network):
    images, labels = digits(12)
    noise = tf.random.Generator.from_seed(0)

    def noisy(images):
        logits = network(images)
        return logits + noise.normal(tf.shape(logits), stddev=0.5)

    found = AutoAttack(0.15, version="rand", steps=4).evaluate(
        noisy, images, labels, diagnose=False
    )

    counts = found.members["apgd-ce"]
    attacked = found.clean.sum()
    # 20 draws of 4 gradients each, of every example until it is fooled.
    assert counts["backwards"] % 20 == 0
    assert 20 * attacked <= counts["backwards"] <= 20 * 4 * attacked


@pytest.mark.slow
def test_a_random_model_continues_after_a_kill(network, tmp_path):
    images, labels = digits(6)
    noise = tf.random.Generator.from_seed(0)

    def noisy(images):
        return network(images + noise.normal(tf.shape(images), stddev=0.1))

    suite = AutoAttack(0.1, version="rand", steps=2)
    options = {"diagnose": False, "state_dir": tmp_path}
    first = suite.evaluate(noisy, images, labels, **options)
    lines = []

    again = suite.evaluate(noisy, images, labels, progress=lines.append, **options)

    assert lines == [f"continuing with 1 stored batches in {tmp_path}"]
    assert_same(again, first)


def test_a_printed_report_says_what_is_left(report):
    lines = str(report).splitlines()

    clean, robust = (f"{x:.2%}" for x in (report.clean.mean(), report.robust.mean()))
    assert f"clean {clean}, robust {robust}" in lines[0] and "linf" in lines[0]
    names = [line.split(":")[0] for line in lines[1 : 1 + len(report.members)]]
    assert names == list(report.members)
    assert "[" not in lines[1] and len(str(report)) < 3000


def test_the_report_is_json_and_knows_the_fields_of_robustbench(report):
    info = report.model_info(name="digits", dataset="digits")

    again = json.loads(json.dumps(report.to_dict()))
    assert again["robust_accuracy"] == report.robust_accuracy
    assert again["examples"]["broken_by"] == report.broken_by.tolist()
    assert info["name"] == "digits" and info["eps"] == "0.15"
    assert info["clean_acc"] == f"{100 * report.clean_accuracy:.2f}"
    # Four steps are not the standard suite.
    assert info["autoattack_acc"] == "" and not report.suite["standard"]


@pytest.mark.parametrize(
    ("options", "standard"),
    [
        ({}, True),
        ({"version": "plus"}, False),
        ({"steps": 50}, False),
        ({"version": "custom", "attacks": ["apgd-ce"]}, False),
    ],
)
def test_only_the_full_standard_suite_fills_autoattack_acc(report, options, standard):
    assert AutoAttack(0.1, **options).is_standard is standard
    suite = report.suite | {"standard": standard}
    info = type(report)(**{**vars(report), "suite": suite}).model_info()
    assert bool(info["autoattack_acc"]) is standard


def test_strict_stops_at_a_masked_model_before_the_attacks(suite, network):
    images, labels = digits(16)

    def loud(images):
        return 1000.0 * network(images)

    with pytest.raises(MaskingError, match="saturated|zero-gradients"):
        suite.evaluate(loud, images, labels, strict=True)


def test_a_model_without_gradients_is_left_to_square(network):
    images, labels = digits(40)

    def stepped(images):
        return network(tf.round(images * 16) / 16)

    suite = AutoAttack(
        0.25, version="custom", attacks=["apgd-ce", "square"], queries=99
    )
    found = suite.evaluate(stepped, images, labels, diagnose=False)

    assert found.members["square"]["broken"] > 3 * found.members["apgd-ce"]["broken"]
    assert [finding.code for finding in found.findings] == ["black-box-stronger"]


def test_wrong_outputs_are_refused_in_a_paragraph():
    images, labels = digits(4)

    with pytest.raises(UserError, match="finite logits.*NaN"):
        AutoAttack(0.1).evaluate(
            lambda x: tf.fill([tf.shape(x)[0], 3], np.nan),
            images,
            labels,
            diagnose=False,
        )
    with pytest.raises(UserError, match="at least two classes"):
        AutoAttack(0.1).evaluate(
            lambda x: tf.reduce_mean(x, [1, 2]), images, labels, diagnose=False
        )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"epsilon": 8.0}, "`epsilon` must be at most 1.*did you mean 8/255"),
        ({"version": "standrd"}, '`version`.*Did you mean "standard"'),
        ({"version": "custom"}, '`attacks` must be given with version="custom"'),
        ({"attacks": ["square"]}, '`attacks` must be given with version="custom"'),
        ({"version": "custom", "attacks": ["apgd"]}, "`attacks` must be one of"),
        ({"version": "custom", "attacks": {"fab": 0}}, "`attacks` must be a whole"),
        ({"norm": "l3"}, "`norm` must be one of"),
        ({"queries": 0}, "`queries` must be a whole number"),
    ],
)
def test_what_it_refuses(options, text):
    with pytest.raises(ValueError, match=text):
        AutoAttack(**{"epsilon": 0.1, **options})


@pytest.mark.parametrize(
    ("images", "labels", "text"),
    [
        (np.zeros([2, 4, 4, 1], np.float32), None, "`labels` must be given"),
        (np.zeros([2, 4, 4, 1], np.float32), [0], "one row per image"),
        (np.zeros([2, 8, 8, 1], np.float32), [0, 10], "below the number of logits"),
        ([], None, "`images` must hold an example"),
        (np.full([2, 4, 4, 1], 255.0, np.float32), [0, 1], r"\[0, 1\]. Divide by 255"),
        (np.zeros([2, 4, 4, 1], np.float32), [0.5, 1], "`labels` must be class"),
        (
            np.zeros([2, 4, 4, 1], np.float32),
            [[0, 1], [1, 0]],
            "`labels` must be class",
        ),
    ],
)
def test_what_evaluate_refuses(network, images, labels, text):
    with pytest.raises(ValueError, match=text):
        AutoAttack(0.1).evaluate(network, images, labels, diagnose=False)
