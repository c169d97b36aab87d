"""Attacks across tasks: records, resuming, the worst case, who is asked, intervals."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import AttackConfig, Finding
from kerobust.config import UserError
from kerobust.evaluation.probes import fit_heads, whole_image
from kerobust.evaluation.task_config import BenchmarkConfig
from kerobust.evaluation.task_evaluator import TaskEvaluator
from kerobust.evaluation.task_report import compared, summary
from kerobust.evaluation.task_results import Probed, bootstrap
from kerobust.tasks import Depth, Segmentation
from tests.evaluation.probes_test import DENSE, QUICK, TASKS, encoder, scenes, wide

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


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_encoders_are_compared_with_those_after_them(results):
    better = dataclasses.replace(results, records=dict.fromkeys(results.records))
    better.jobs = []  # Nothing was tried, so that the worst case is the clean one.
    for name, task in results.tasks.items():
        found = compared({"a": better, "b": results, "c": results}, name)

        assert list(found["a"]["against"]) == ["b", "c"] and not found["c"]["against"]
        worst, clean = (found["a"]["against"]["b"][x] for x in ("worst", "clean"))
        values = [
            results.value(name, each)["value"]
            for each in (results.clean[name], results.worst(name))
        ]
        gain = (values[0] - values[1]) * (1 if task.HIGHER else -1)
        assert worst["difference"] == pytest.approx(gain)
        assert 0 < worst["low"] <= worst["difference"] <= worst["high"]
        nothing = {"difference": 0.0, "low": 0.0, "high": 0.0}
        assert clean == found["b"]["against"]["c"]["worst"] == nothing


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
def test_suites_find_more_than_the_attacks_of_the_benchmark():
    heads = fit_heads(TASKS, encoder(), scenes(), QUICK)
    probed = {name: Probed(TASKS[name], head) for name, head in heads.items()}
    config = SHORT.replace(suite_steps=10, curve=False, limit=16)
    results = TaskEvaluator(THREAT, config)(probed, scenes())

    for name, task in results.tasks.items():
        found = summary(results, name)
        assert {"embed_cls_mse", "embed_patches_other"} <= set(found["attacks"])
        values = {
            column: results.value(name, results.worst(name, only))["value"]
            for column, only in {
                "output": lambda x: not x.startswith("embed") and x != "task",
                "embedding": lambda x: x.startswith("embed_"),
            }.items()
        }
        for single, suite in (("task", "output"), ("embed", "embedding")):
            weak = found["values"][single]["value"]
            gain = (weak - values[suite]) * (1 if task.HIGHER else -1)
            assert gain >= 0, (name, suite)
    assert max(results.norms.values()) <= 0.1 + 1e-6


@pytest.mark.slow
def test_attacks_on_the_encoder_are_made_once_for_all_tasks(probed):
    config = SHORT.replace(suite_steps=1, steps=1, curve=False, limit=4)
    found = TaskEvaluator(THREAT, config)(probed, scenes())

    shared = [job for job in found.jobs if job.task == "encoder"]
    assert len(shared) == 8
    assert len({job.key for job in found.jobs}) == len(found.jobs)
    for job in shared:
        assert set(found.records[job.key]) == set(probed)


@pytest.mark.slow
def test_attacks_leave_pixels_alone_that_do_not_count(probed):
    task = Segmentation(8, void=1)  # The floor, most of every scene.
    model = probed["segmentation"].model
    config = SHORT.replace(curve=False, limit=8, steps=1, step_size=0.1)
    shown = scenes().thinned(8).read(tf.range(8), ("masks",))["masks"].numpy()

    found = TaskEvaluator(THREAT, config)({"s": Probed(task, model)}, scenes())
    everywhere = TaskEvaluator(THREAT, config)(
        {"s": Probed(Segmentation(8), model)}, scenes()
    )

    assert (shown == 1).mean() > 0.2
    own, other = (each.under("s", "task") for each in (found, everywhere))
    assert not np.array_equal(own, other)
    assert task.main(own.sum(axis=0, keepdims=True)) < task.main(
        other.sum(axis=0, keepdims=True)
    )


def test_images_without_a_target_that_counts_are_refused_before_attacks(probed):
    near = {"depth": Probed(Depth(most=0.01), probed["depth"].model)}

    with pytest.raises(UserError, match="depths that count for depth.*20 images"):
        TaskEvaluator(THREAT, SHORT)(near, scenes())


@pytest.mark.slow
def test_suites_whiten_tokens_of_windows_too():
    split, task = wide(16, 24), Segmentation(2)
    config = SHORT.replace(suite_steps=1, curve=False, limit=2)
    predictor = fit_heads({"s": task}, encoder(), split, QUICK)["s"]
    model = whole_image(predictor, split.image_shape, config)
    results = TaskEvaluator(THREAT, config)({"s": Probed(task, model)}, split)

    names = {job.attempt.name for job in results.jobs}
    assert {"embed_cls_whitened", "embed_patches_whitened"} <= names
