"""Tasks: records that add up, worst cases, what they refuse, attacks in their balls."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import TokenMatch
from kerobust.attacks.attempts import attempt_keys, check_inside
from kerobust.config import UserError
from kerobust.models import VisionTransformer
from kerobust.models.heads import POOLINGS
from kerobust.randomness import example_keys
from kerobust.tasks import TASKS, Classification, Depth, Effort, Segmentation
from kerobust.tasks.base import PARTS, embed_suite

RANDOM = np.random.default_rng(0)
MADE = {
    "classification": Classification(4),
    "segmentation": Segmentation(4),
    "depth": Depth(5.0, bins=8),
}
TARGETS = {
    "labels": RANDOM.integers(0, 4, size=6).astype(np.int32),
    "masks": RANDOM.integers(-1, 4, size=(6, 16, 16)).astype(np.int32),
    "depths": RANDOM.uniform(1, 4, size=(6, 16, 16)).astype(np.float32),
}
IMAGES = RANDOM.uniform(size=(6, 16, 16, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def predictors():
    tf.keras.utils.set_random_seed(0)
    encoder = VisionTransformer((16, 16), 8, 16, 1, 2)
    return {name: task.predictor(encoder) for name, task in MADE.items()}


def test_every_task_is_made_here():
    assert set(MADE) == set(TASKS)
    assert {name: type(task) for name, task in MADE.items()} == dict(TASKS)
    assert all(name == task.NAME for name, task in MADE.items())


def test_the_attack_on_the_embedding_moves_what_the_classifier_reads(predictors):
    model, effort = predictors["classification"], Effort(0.1)
    parts = {
        pooling: Classification(4, pooling=pooling).embed(effort).objective(model).part
        for pooling in POOLINGS
    }

    assert parts["cls"] == parts["last4_cls"] == "cls"
    assert (parts["mean"], parts["cls_mean"]) == ("patches", "both")


@pytest.mark.parametrize("name", MADE)
def test_metrics_of_a_sum_are_those_of_all_images(name, predictors):
    task, targets = MADE[name], TARGETS[MADE[name].TARGET]
    outputs = predictors[name](IMAGES)
    records = task.records(outputs, targets)
    parts = [task.records(outputs[i : i + 2], targets[i : i + 2]) for i in (0, 2, 4)]

    np.testing.assert_array_equal(np.concatenate(parts), records)
    found = task.metrics(records.sum(axis=0))
    several = np.stack([records[:3].sum(axis=0), records.sum(axis=0)])
    assert task.main(several)[1] == pytest.approx(found[task.MAIN])
    assert next(iter(found)) == task.MAIN and np.isfinite(list(found.values())).all()
    loss = task.loss(outputs, tf.constant(targets))
    assert loss.shape == () and np.isfinite(loss)


@pytest.mark.parametrize("name", MADE)
def test_the_worst_case_is_no_better_than_any_attack(name):
    task, targets = MADE[name], TARGETS[MADE[name].TARGET]
    tried = []
    for _ in range(3):
        shape = {"classification": (6, 4), "segmentation": (6, 16, 16, 4)}
        outputs = RANDOM.uniform(1, 4, size=shape.get(name, (6, 16, 16)))
        tried.append(task.records(tf.constant(outputs, tf.float32), targets))

    def value(records):
        main = task.metrics(records.sum(axis=0))[task.MAIN]
        return main if task.HIGHER else -main

    worst = task.worst(tried)
    assert worst.shape == tried[0].shape
    assert value(worst) <= min(map(value, tried))
    for image, record in enumerate(worst):  # Nothing but what an attack did.
        assert any(np.array_equal(record, each[image]) for each in tried) or (
            name == "classification"
        )


def test_the_worst_mean_iou_of_few_images_is_that_of_all_combinations():
    task = MADE["segmentation"]
    for seed in range(10):
        random = np.random.default_rng(seed)
        cells = random.integers(0, 30, size=(3, 4, 4, 4))  # By label and prediction.
        right = np.diagonal(cells, axis1=2, axis2=3)
        tried = list(np.stack([right, cells.sum(axis=3), cells.sum(axis=2)], axis=2))
        found = task.metrics(task.worst(tried).sum(axis=0))["mean_iou"]
        every = [
            task.metrics(sum(tried[a][i] for i, a in enumerate(chosen)))["mean_iou"]
            for chosen in itertools.product(range(3), repeat=4)
        ]
        # Greedy, so not always the very least.
        assert min(every) <= found <= np.sort(every)[3]


def test_worst_depths_are_those_with_the_largest_squares():
    task = MADE["depth"]
    truth = np.full((2, 2, 2), 2.0)
    first = task.records(np.array([np.full((2, 2), 3.0), np.full((2, 2), 2.0)]), truth)
    other = task.records(np.array([np.full((2, 2), 2.5), np.full((2, 2), 4.0)]), truth)

    worst = task.worst([first, other])
    assert task.metrics(worst.sum(axis=0))["rmse"] == pytest.approx(np.sqrt(5 / 2))


@pytest.mark.parametrize(
    ("name", "targets", "text"),
    [
        ("segmentation", np.full([2, 4, 4], -1), "must have labelled pixels"),
        ("segmentation", np.full([2, 4, 4], 9), "from 0 to 3.*Received: label 9"),
        ("segmentation", np.array([[[-2, 0]]]), "from 0 to 3.*Received: label -2"),
        ("depth", np.full([2, 4, 4], 2500.0), "must be in metres.*Divide millimetres"),
        ("depth", np.zeros([2, 4, 4]), "must have depths that count"),
        ("depth", np.full([2, 4, 4], 30.0), "none from 0.001 to 5 metres"),
    ],
    ids=["ignored", "outside", "negative", "millimetres", "unknown", "far"],
)
def test_targets_that_no_head_could_learn_are_refused(name, targets, text):
    with pytest.raises(UserError, match=text):
        MADE[name].check(targets)


@pytest.mark.parametrize("name", MADE)
def test_attacks_of_the_benchmark_move_what_they_aim_at(name, predictors):
    effort = Effort(0.1, steps=3, suite_steps=0)
    attempts = MADE[name].attempts(effort)

    _attacked(name, predictors, effort, attempts)

    assert list(attempts) == ["embed", "task"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "norm"), [*((name, "linf") for name in MADE), ("segmentation", "l2")]
)
def test_every_attack_of_a_suite_moves_what_it_aims_at(name, norm, predictors):
    effort = Effort(0.1 if norm == "linf" else 1.0, norm, 3, 10)
    attempts = MADE[name].attempts(effort)

    _attacked(name, predictors, effort, attempts)

    assert len(attempts) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_attack_on_the_encoder_moves_the_tokens_that_it_names(norm, predictors):
    matrices = dict.fromkeys(PARTS, tf.eye(16))
    effort = Effort(0.1 if norm == "linf" else 1.0, norm, 3, 10, matrices)
    attempts, name = embed_suite(effort), "classification"

    _attacked(name, predictors, effort, attempts)

    assert len(attempts) == 8
    for attempt in attempts.values():
        _, part, way = attempt.name.split("_")
        objective = attempt.objective(predictors[name])
        assert objective.part == part
        assert isinstance(objective, TokenMatch) == (way == "other")
        assert way == "other" or objective.distance == way


@pytest.mark.parametrize(
    ("task", "targets", "expected"),
    [
        (Segmentation(4, void=0), [[0, 1], [-1, 3]], [[-1, 1], [-1, 3]]),
        (Segmentation(4), [[0, 1], [-1, 3]], [[0, 1], [-1, 3]]),
        (Depth(5.0), [[0.0, 1.0], [5.0, 5.5]], [[0.0, 1.0], [5.0, 0.0]]),
    ],
    ids=["void", "usual", "depth"],
)
def test_attacks_see_what_metrics_count(task, targets, expected):
    targets = np.array(targets)
    found = task.counted(targets)

    np.testing.assert_array_equal(found, expected)
    assert found.dtype == targets.dtype and task.known(targets)
    assert not task.known(np.full_like(targets, 0 if task.NAME == "depth" else -1))


def test_nothing_that_counts_has_no_error_rather_than_none():
    depth, far = Depth(5.0), np.full([1, 2, 2], 30.0)
    total = depth.records(far, far).sum(axis=0)
    masks = Segmentation(4).records(tf.zeros([1, 2, 2, 4]), np.full([1, 2, 2], -1))

    assert all(np.isnan(value) for value in depth.metrics(total).values())
    assert np.isnan(depth.main(total[np.newaxis])).all()
    assert np.isnan(Segmentation(4).metrics(masks.sum(axis=0))["mean_iou"])


def test_a_void_class_that_is_none_is_refused():
    with pytest.raises(UserError, match="--benchmark.void.* from 0 to 3.*void=20"):
        Segmentation(4, void=20)


def _attacked(name, predictors, effort, attempts):
    task, predictor = MADE[name], predictors[name]
    for attempt in attempts.values():
        objective = attempt.objective(predictor)
        blind = attempt.name.startswith("embed")
        targets = tf.constant(TARGETS[task.TARGET])
        if name == "segmentation":  # All pixels are right without attack.
            targets = task.predictions(predictor(IMAGES))
        if blind:
            others = IMAGES[::-1] if isinstance(objective, TokenMatch) else IMAGES
            targets = objective.outputs(tf.constant(others))
        keys = attempt_keys(attempt, example_keys(0, 0, range(6)))
        moved = attempt.attack(IMAGES, targets, objective, keys=keys)
        check_inside(attempt, IMAGES, moved.numpy(), effort.epsilon)
        before, after = (objective(x, targets).numpy() for x in (IMAGES, moved))
        assert after.mean() > before.mean(), attempt.name
