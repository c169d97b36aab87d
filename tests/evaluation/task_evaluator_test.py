"""Attacks across tasks: records, resuming, the worst case, who is asked, intervals."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import AttackConfig, Finding
from kerobust.evaluation.probes import fit_heads, whole_image
from kerobust.evaluation.task_config import BenchmarkConfig
from kerobust.evaluation.task_evaluator import TaskEvaluator
from kerobust.evaluation.task_report import difference, summary
from kerobust.evaluation.task_results import Probed, bootstrap
from kerobust.tasks import Segmentation
from tests.evaluation.probes_test import DENSE, QUICK, encoder, scenes, wide

THREAT = AttackConfig(epsilon=0.1)
SHORT = BenchmarkConfig(
    steps=3, suite_steps=0, epsilons=(0.2,), batch_size=8, limit=20, diagnose=False
)


@pytest.fixture(scope="module")
def probed():
    heads = fit_heads(DENSE, encoder(), scenes(), QUICK)
    return {name: Probed(DENSE[name], head) for name, head in heads.items()}


@pytest.fixture(scope="module")
def evaluator():
    return TaskEvaluator(THREAT, SHORT)


@pytest.fixture(scope="module")
def results(evaluator, probed):
    return evaluator(probed, scenes())


def test_attacks_harm_the_task_that_they_aim_at_and_stay_in_the_ball(results):
    for name, task in results.tasks.items():
        clean = results.value(name, results.clean[name])["value"]
        under = results.value(name, results.under(name, "task"))["value"]
        far = results.value(name, results.under(name, "task", epsilon=0.2))["value"]
        assert (under < clean) == task.HIGHER and (far < under) == task.HIGHER
    for key, norm in results.norms.items():
        assert norm <= float(key.split("@")[1]) + 1e-6


def test_every_task_judges_every_attack(results, probed):
    assert set(results.records["depth.embed@0.1"]) == {"depth", "segmentation"}
    own = results.under("segmentation", "task")
    other = results.under("depth", "task", "segmentation")
    assert own.shape == other.shape == (20, 3, 8) and not np.array_equal(own, other)
    clean = results.clean["segmentation"]
    np.testing.assert_array_equal(own[:, 1], clean[:, 1])  # What is there stays there.
    assert own[:, 1].sum() == own[:, 2].sum() == 20 * 256
    everything = results.everything["segmentation"]
    assert everything[1].sum() == scenes().size * 256


def test_a_killed_evaluation_goes_on_where_it_was(evaluator, probed, results, tmp_path):
    class KilledError(Exception):
        pass

    def until(count):
        def say(text):
            said.append(text)
            if len(said) == count:
                raise KilledError

        return say

    said: list[str] = []
    with pytest.raises(KilledError):
        evaluator(probed, scenes(), state_dir=tmp_path, progress=until(5))
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.npz")}
    said.clear()
    again = evaluator(probed, scenes(), state_dir=tmp_path, progress=said.append)

    assert len(kept) == 6  # Five attacks, and images without attack.
    assert f"continuing with {len(kept)}" in said[0]
    for name, time in kept.items():
        assert (tmp_path / name).stat().st_mtime_ns == time
    for key, judges in results.records.items():
        for judge, records in judges.items():
            np.testing.assert_array_equal(again.records[key][judge], records)


def test_a_diagnosis_is_made_once(probed, tmp_path, monkeypatch):
    sign = Finding("zero-gradients", "error", 0.25, 0.05, "Gradients vanish.")
    asked = []

    def diagnosed(one, batch, threat, seed):
        asked.append((one.task.NAME, len(batch["images"]), threat.epsilon))
        return [sign] if one.task.NAME == "segmentation" else []

    where = "kerobust.evaluation.task_evaluator.diagnosed"
    monkeypatch.setattr(where, diagnosed)
    config = dataclasses.replace(SHORT, diagnose=True, steps=1, curve=False)
    evaluator, found = TaskEvaluator(THREAT, config), []
    for epsilon in (0.1, 0.1, 0.2):
        evaluator.threat = AttackConfig(epsilon=epsilon)
        found.append(evaluator(probed, scenes(), state_dir=tmp_path).diagnosis)

    assert found == [{name: [sign] * (name == "segmentation") for name in probed}] * 3
    assert asked == [(name, 8, epsilon) for epsilon in (0.1, 0.2) for name in probed]


@pytest.mark.slow
def test_an_example_is_attacked_alike_whoever_is_beside_it(probed, results):
    alone = TaskEvaluator(THREAT, SHORT.replace(batch_size=5))(probed, scenes())

    for name in results.tasks:
        found, expected = (each.under(name, "embed") for each in (alone, results))
        if name == "depth":
            np.testing.assert_allclose(found, expected, rtol=1e-4)
        else:
            assert np.abs(found - expected).sum() <= 0.01 * expected.sum()


def test_the_summary_says_what_the_records_say(results):
    found = summary(results, "segmentation")

    values = found["values"]
    assert set(values) == {"clean", "embed", "task", "worst"}
    worst = min(values[name]["value"] for name in ("clean", "embed", "task"))
    assert values["worst"]["value"] <= worst
    for each in values.values():
        assert each["low"] <= each["value"] <= each["high"]
    radii = [point["epsilon"] for point in found["curves"]["task"]]
    assert radii == [0.0, 0.1, 0.2]
    carried = found["carried over"]["task"]
    assert carried["segmentation"] == values["task"]["value"]
    gap = difference(results, results, "depth")
    assert gap == {"difference": 0.0, "low": 0.0, "high": 0.0}


def test_every_image_is_taken_for_one_from_the_other_end_whatever_the_batches():
    split = scenes().subset(np.arange(7))
    everything = split.fetch(tf.range(7)).numpy()
    for size in (3, 4, 7):
        evaluator = TaskEvaluator(THREAT, SHORT.replace(batch_size=size))
        found = [
            evaluator._others(split, index, {"ids": split.ids[first : first + size]})
            for index, first in enumerate(range(0, 7, size))
        ]
        np.testing.assert_array_equal(
            tf.concat(found, axis=0), np.roll(everything, -3, axis=0)
        )


def test_images_that_agree_have_an_interval_without_width():
    task = DENSE["depth"]
    same = np.tile([[1.0, 4, 8, np.sqrt(2), 1, 2]], [7, 1])
    np.testing.assert_allclose(bootstrap(task, same), np.sqrt(2))
    random = np.random.default_rng(1)
    squares = random.uniform(0, 4, size=400)
    ones = np.ones(400)
    records = np.stack([ones, ones, squares, np.sqrt(squares), ones, ones], axis=1)
    draws = bootstrap(task, records) ** 2
    # The deviation of a mean, within what 1,000 draws can tell.
    assert draws.std() == pytest.approx(squares.std() / 20, rel=0.1)


@pytest.mark.slow
def test_suites_try_more_and_find_more(probed):
    suites = SHORT.replace(suite_steps=10, curve=False, limit=8)
    only = {"depth": probed["depth"]}
    results = TaskEvaluator(THREAT, suites)(only, scenes())

    for name, task in results.tasks.items():
        found = summary(results, name)
        assert len(found["attacks"]) >= 9 and "embed_other" in found["attacks"]
        worst, weak = (found["values"][x]["value"] for x in ("worst", "task"))
        assert (worst <= weak) if task.HIGHER else (worst >= weak)
    assert tf.reduce_all([norm <= 0.1 + 1e-6 for norm in results.norms.values()])


@pytest.mark.slow
def test_suites_whiten_tokens_of_windows_too():
    split, task = wide(16, 24), Segmentation(2)
    config = SHORT.replace(suite_steps=1, curve=False, limit=2)
    predictor = fit_heads({"s": task}, encoder(), split, QUICK)["s"]
    model = whole_image(predictor, split.image_shape, config)
    results = TaskEvaluator(THREAT, config)({"s": Probed(task, model)}, split)

    names = {job.attempt.name for job in results.jobs}
    assert {"embed_mse", "embed_cosine", "embed_whitened"} <= names
