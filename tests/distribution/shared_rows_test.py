"""Eager attacks in the scope of a strategy: rows shared out, results as without."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import PGD
from kerobust.attacks.victim import Victim
from kerobust.data import datasets
from kerobust.distribute import over_replicas, sharing_replicas, strategy
from kerobust.randomness import example_keys
from tests.distribution.attacking import found, network


@pytest.fixture(scope="module")
def given():
    split = datasets.load(datasets.DataConfig()).splits["test"].thinned(5)
    images, labels = split.arrays()
    with strategy(2).scope():
        model = network()
    return model, images, labels


def test_rows_are_shared_only_by_eager_code_in_the_scope_of_a_strategy():
    assert sharing_replicas(8) == 1
    with strategy(2).scope():
        assert sharing_replicas(8) == 2
        assert sharing_replicas(1) == 1
        assert sharing_replicas(None) == 1
        inside = strategy(2).run(lambda: tf.constant(sharing_replicas(8)))
        assert tf.function(lambda: sharing_replicas(8))() == 1
    assert [int(x) for x in strategy(2).experimental_local_results(inside)] == [1, 1]


@pytest.mark.parametrize("rows", [2, 3, 7])
def test_every_row_comes_back_once_and_in_order(rows):
    with strategy(2).scope():
        share = over_replicas(
            lambda x, y: {"sum": x + y["more"], "size": tf.shape(x)[:1]}
        )
        values = tf.range(rows)
        result = tf.function(share)(values, {"more": 10 * values})

    assert result["sum"].numpy().tolist() == [11 * i for i in range(rows)]
    assert result["size"].numpy().tolist() == [rows // 2, rows - rows // 2]


@pytest.mark.parametrize("skip", [False, True])
def test_an_attack_gives_the_images_that_it_gives_on_one_device(given, skip):
    model, images, labels = given
    attack = PGD(0.1, steps=3, random_start=True, restarts=2, skip_misclassified=skip)
    more = {"keys": example_keys(1, 0, np.arange(5)), "return_info": True}
    one, one_info = attack(images, labels, model, **more)

    with strategy(2).scope():
        two, two_info = attack(images, labels, model, **more)

    np.testing.assert_allclose(one, two, atol=1e-6)
    np.testing.assert_array_equal(one_info.success, two_info.success)
    np.testing.assert_allclose(one_info.norm, two_info.norm, atol=1e-6)
    np.testing.assert_array_equal(one_info.steps_used, two_info.steps_used)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_victim_counts_the_images_of_all_replicas(given, devices):
    model, images, _ = given
    with strategy(devices).scope():
        victim = Victim(model)
    one = victim.logits(images)

    with strategy(2).scope():
        two = victim.logits(images)

    np.testing.assert_allclose(one, two, atol=1e-6)
    assert victim.passes() == (10, 0)


def test_replicas_count_apart(given):
    # A common count would be one more thing to wait for each other.
    model, images, _ = given
    with strategy(2).scope():
        victim = Victim(model)
        victim.logits(images)
        counts = strategy(2).experimental_local_results(victim._counts[0])

    assert [int(count) for count in counts] == [2, 3]


@pytest.mark.slow
def test_a_suite_finds_the_flags_of_one_device_on_two():
    one = found(version="custom")
    with strategy(2).scope():
        two = found(version="custom")

    assert 0 < one["robust"].sum() < len(one["robust"])
    np.testing.assert_array_equal(one["robust"], two["robust"])
    np.testing.assert_array_equal(one["broken_by"], two["broken_by"])
    np.testing.assert_allclose(one["adversarial"], two["adversarial"], atol=1e-5)
