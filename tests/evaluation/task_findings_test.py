"""Signs that attacks on tasks miss what exists, and none where all is well."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import AttackConfig
from kerobust.attacks.attempts import Attempt
from kerobust.evaluation.probes import fit_heads, whole_image
from kerobust.evaluation.task_findings import contradictions, diagnosed
from kerobust.evaluation.task_results import Job, Probed, TaskResults
from kerobust.tasks import Classification, Depth, Segmentation
from tests.evaluation.probes_test import QUICK, encoder, read, scenes, wide

COUNT = 40
KINDS = {"depth": Depth(), "classification": Classification(3)}


def made(harms: dict[tuple[str, str, float], np.ndarray], judge: str) -> TaskResults:
    """Returns results at radius 0.1 in which attacks did given harm to one task.

    Args:
        harms: (attacked task, attack, epsilon) -> harm [COUNT]: metres beyond an RMSE
            of 1, or 1 where a class is lost.
        judge: The task.
    """

    def records(harm):
        if judge == "depth":
            ones = np.ones(COUNT)
            rmse = ones + harm
            return np.stack([ones, ones, rmse**2, rmse, ones, ones], axis=1)
        return np.stack([np.ones(COUNT), 1.0 - harm], axis=1)

    jobs = {
        key: Job(key[0], Attempt(key[1], None, None), key[2])  # type: ignore[arg-type]
        for key in harms
    }
    return TaskResults(
        tasks={judge: KINDS[judge]},
        epsilon=0.1,
        clean={judge: records(np.zeros(COUNT))},
        everything={},
        records={jobs[key].key: {judge: records(harm)} for key, harm in harms.items()},
        jobs=list(jobs.values()),
        norms={},
        seconds={},
        pictures={},
    )


def some(count: int, high: float, low: float = 0.0) -> np.ndarray:
    return np.where(np.arange(COUNT) < count, high, low)


def codes(results: TaskResults, task: str) -> list[str]:
    return [finding.code for finding in contradictions(results, task)]


@pytest.mark.parametrize("task", sorted(KINDS))
def test_growing_harm_of_the_tasks_own_attacks_is_no_sign(task):
    harms = {
        (task, "task", 0.05): some(10, 1.0),
        (task, "task", 0.1): some(20, 1.0),
        (task, "task", 0.2): some(30, 1.0),
        (task, "embed", 0.1): some(15, 1.0),
        ("other", "task", 0.1): some(20, 1.0),
    }
    assert codes(made(harms, task), task) == []


@pytest.mark.parametrize("task", sorted(KINDS))
def test_less_harm_in_a_larger_ball_is_a_sign(task):
    harms = {
        (task, "task", 0.1): some(20, 1.0),
        (task, "task", 0.2): some(10, 1.0),
        (task, "embed", 0.1): some(20, 1.0),
    }
    (finding,) = contradictions(made(harms, task), task)
    assert (finding.code, finding.value) == ("harm-not-growing", 10 / COUNT)
    assert "within 0.2" in finding.advice


@pytest.mark.parametrize(("made_for", "attack"), [("other", "task"), ("own", "embed")])
@pytest.mark.parametrize("task", sorted(KINDS))
def test_harm_by_what_is_blind_to_the_loss_is_a_sign(task, made_for, attack):
    key = (task if made_for == "own" else made_for, attack, 0.1)
    harms = {(task, "task", 0.1): some(5, 1.0), key: some(20, 1.0)}
    results = made(harms, task)

    (finding,) = contradictions(results, task)
    assert (finding.code, finding.value) == ("foreign-attack-stronger", 15 / COUNT)
    # The suite finds them: then no loss was the wrong one.
    harms[task, "apgd", 0.1] = some(20, 1.0)
    assert codes(made(harms, task), task) == []


def test_a_little_more_harm_larger_balls_and_unlabelled_images_are_no_sign():
    more = {
        ("depth", "task", 0.1): some(COUNT, 1.0),
        ("other", "task", 0.1): some(COUNT, 1.2),
        ("other", "task", 0.2): some(COUNT, 9.0),
    }
    assert codes(made(more, "depth"), "depth") == []
    more["other", "task", 0.1] = some(COUNT, 1.31)
    assert codes(made(more, "depth"), "depth") == ["foreign-attack-stronger"]


def test_the_worst_case_counts_everything_in_the_ball_and_nothing_beyond():
    results = made(
        {
            ("depth", "task", 0.1): some(10, 1.0),
            ("other", "task", 0.1): some(20, 2.0, 0.5),
            ("other", "task", 0.05): some(30, 0.7),
            ("other", "task", 0.2): some(COUNT, 9.0),
        },
        "depth",
    )
    rmse = np.sqrt(results.worst("depth")[:, 2])
    np.testing.assert_allclose(
        rmse, 1 + some(20, 2.0, 0.5) + np.where(np.arange(40) // 10 == 2, 0.2, 0.0)
    )
    own = np.sqrt(results.worst("depth", lambda name: name == "task")[:, 2])
    np.testing.assert_allclose(own, 1 + some(10, 1.0))


@pytest.fixture(scope="module")
def fitted():
    kinds = {"segmentation": Segmentation(8)}
    return kinds["segmentation"], fit_heads(kinds, encoder(), scenes(), QUICK)[
        "segmentation"
    ]


def test_a_segmentation_is_diagnosed_at_its_middle_pixel(fitted):
    task, model = fitted
    shown = read(scenes())
    shown["masks"][:5, 8, 8] = -1

    victim, images, labels = task.as_classifier(model, shown["images"], shown["masks"])

    np.testing.assert_array_equal(images, shown["images"][5:])
    np.testing.assert_array_equal(labels, shown["masks"][5:, 8, 8])
    expected = model(images, training=False)[:, 8, 8]
    np.testing.assert_array_equal(victim(images, training=False), expected)
    assert victim.submodules  # Where a diagnosis finds batch normalisation.


def test_a_model_of_windows_is_diagnosed_in_the_middle_one(fitted):
    task, model = fitted
    read_wide = wide(20, 28).read(tf.range(4), ("masks",))
    images, masks = (read_wide[name].numpy() for name in ("images", "masks"))
    windows = whole_image(model, images.shape[1:], QUICK)

    _, shown, labels = task.as_classifier(windows, images, masks)

    count = len(windows.windows(tf.constant(images)))
    middle = windows.windows(tf.constant(images))[count // 2]
    np.testing.assert_array_equal(shown, middle)
    expected = windows.windows(tf.constant(masks))[count // 2][:, 8, 8]
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.slow
def test_saturated_masks_are_found_out_and_honest_ones_are_not(fitted):
    task, model = fitted
    threat, shown = AttackConfig(epsilon=0.05), read(scenes())

    def saturated(images, training=False):
        return 1e6 * model(images, training=training)

    honest = diagnosed(Probed(task, model), shown, threat, 0)
    found = diagnosed(Probed(task, saturated), shown, threat, 0)

    assert not [each.code for each in honest if each.severity == "error"]
    assert {"zero-gradients", "saturated"} & {each.code for each in found}


def test_depths_are_not_diagnosed():
    shown = read(scenes())
    assert diagnosed(Probed(Depth(), None), shown, AttackConfig(epsilon=0.1), 0) == []
