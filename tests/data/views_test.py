"""Batches: what each step sees, whatever happened before it."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.data import (
    AUGMENTATIONS,
    DataConfig,
    evaluation_batches,
    load,
    training_batches,
)
from kerobust.distribute import strategy
from kerobust.randomness import example_keys

BATCH = 32


def train(size: int = 100):
    return load(DataConfig()).splits["train"].subset(np.arange(size))


def collect(batches) -> list[dict[str, np.ndarray]]:
    return [{name: item.numpy() for name, item in batch.items()} for batch in batches]


def assert_same(first, second):
    assert len(first) == len(second)
    for one, two in zip(first, second, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])


@pytest.fixture(scope="module")
def whole_run():
    settings = {"batch_size": BATCH, "steps": 10, "seed": 4}
    settings["augment"] = AUGMENTATIONS["resized_crop_flip"]
    return settings, collect(training_batches(train(), **settings))


# 100 images in batches of 32 make 3 steps an epoch.
@pytest.mark.parametrize("start", [3, 8])
def test_a_resumed_run_sees_the_batches_of_the_whole_run(start, whole_run):
    settings, whole = whole_run

    rest = collect(training_batches(train(), start_step=start, **settings))

    assert_same(whole[start:], rest)


@pytest.mark.parametrize("start", [0, 4])
def test_shares_of_a_batch_make_the_batch(start, whole_run):
    settings, whole = whole_run
    # 4 replicas on 2 workers.
    halves = [
        collect(
            training_batches(
                train(),
                start_step=start,
                shares=(range(first, first + 2), 4),
                **settings,
            )
        )
        for first in (0, 2)
    ]

    joined = [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in (
            [half[step + part] for half in halves for part in (0, 1)]
            for step in range(0, len(halves[0]), 2)
        )
    ]
    assert_same(whole[start:], joined)


def test_a_finished_run_has_no_batches_left():
    batches = training_batches(train(), batch_size=BATCH, steps=4, start_step=4)

    assert collect(batches) == []


def test_the_parallel_pipeline_gives_what_eager_code_gives(whole_run):
    settings, whole = whole_run
    split, batch = train(), whole[5]

    positions = np.searchsorted(split.ids, batch["ids"])
    eager = settings["augment"](split.fetch(positions), batch["keys"])

    np.testing.assert_array_equal(batch["images"], eager)


def test_each_epoch_visits_an_image_at_most_once_and_has_its_own_order():
    batches = collect(training_batches(train(), batch_size=BATCH, steps=6))

    # 100 images in batches of 32: 3 steps an epoch.
    first = np.concatenate([batch["ids"] for batch in batches[:3]])
    second = np.concatenate([batch["ids"] for batch in batches[3:]])
    assert len(set(first)) == len(set(second)) == 96
    assert (first != second).sum() > 80


def test_orders_are_all_different_over_many_epochs_and_seeds():
    # tf.random.experimental.index_shuffle repeats after 256 epochs: this must not.
    split = train(16)
    orders = set()
    for seed in (0, 1):
        batches = training_batches(split, batch_size=16, steps=300, seed=seed)
        orders |= {
            tuple(ids) for ids in batches.map(lambda b: b["ids"]).as_numpy_iterator()
        }

    assert len(orders) == 600


def test_every_image_is_equally_likely_to_come_first():
    batches = training_batches(train(10), batch_size=10, steps=1000)

    firsts = collections.Counter(
        int(ids[0]) for ids in batches.map(lambda b: b["ids"]).as_numpy_iterator()
    )

    # Binomial(1000, 1/10): standard deviation 9.5.
    assert len(firsts) == 10
    assert all(abs(count - 100) < 48 for count in firsts.values())


def test_seeds_give_different_orders():
    one, two = (
        collect(training_batches(train(), batch_size=BATCH, steps=1, seed=seed))[0]
        for seed in (0, 1)
    )

    assert (one["ids"] != two["ids"]).any()


def test_images_labels_and_keys_belong_to_the_ids():
    split = train()
    place = {int(name): number for number, name in enumerate(split.ids)}

    batch = collect(training_batches(split, batch_size=BATCH, steps=4, seed=9))[3]

    positions = np.array([place[int(name)] for name in batch["ids"]])
    np.testing.assert_array_equal(batch["images"], split.fetch(positions))
    np.testing.assert_array_equal(batch["labels"], split.labels[positions])
    # Step 3 is the first of epoch 1.
    np.testing.assert_array_equal(batch["keys"], example_keys(9, 1, batch["ids"]))


def test_element_shapes_are_static():
    batches = training_batches(train(), batch_size=BATCH, steps=1)

    assert batches.element_spec == {
        "images": tf.TensorSpec([BATCH, 8, 8, 3], tf.float32),
        "labels": tf.TensorSpec([BATCH], tf.int32),
        "ids": tf.TensorSpec([BATCH], tf.int32),
        "keys": tf.TensorSpec([BATCH, 2], tf.int32),
    }


def test_a_batch_larger_than_the_split_is_refused():
    with pytest.raises(UserError, match="`batch_size`.*100.*batch_size=101"):
        training_batches(train(), batch_size=101, steps=1)


def test_two_replicas_share_each_batch_without_loss():
    settings = {"batch_size": BATCH, "steps": 4, "seed": 2}
    settings["augment"] = AUGMENTATIONS["crop1"]
    devices = strategy(2)

    whole = collect(training_batches(train(), **settings))
    shared = devices.experimental_distribute_dataset(
        training_batches(train(), **settings)
    )
    joined = [
        {
            name: np.concatenate(devices.experimental_local_results(item))
            for name, item in batch.items()
        }
        for batch in shared
    ]

    assert_same(whole, joined)
    halves = devices.experimental_local_results(next(iter(shared))["ids"])
    assert [len(half) for half in halves] == [BATCH // 2, BATCH // 2]


def test_evaluation_sees_everything_once_in_batches_of_one_size():
    split = train(70)

    batches = collect(evaluation_batches(split, BATCH))

    assert [len(batch["ids"]) for batch in batches] == [BATCH] * 3
    assert [batch["valid"].sum() for batch in batches] == [32, 32, 6]
    valid = np.concatenate([batch["valid"] for batch in batches])
    ids = np.concatenate([batch["ids"] for batch in batches])
    images = np.concatenate([batch["images"] for batch in batches])
    np.testing.assert_array_equal(ids[valid], split.ids)
    np.testing.assert_array_equal(images[valid], split.arrays()[0])
    assert set(ids[~valid]) == {split.ids[-1]}


def test_an_empty_split_cannot_be_evaluated():
    with pytest.raises(UserError, match="0 images"):
        evaluation_batches(train(0), BATCH)
