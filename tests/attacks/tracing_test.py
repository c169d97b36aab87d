"""How often attacks compile, and that nothing compiled outlives its victim."""

import copy
import gc
import pickle
import warnings
import weakref

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import FGSM, PGD, CrossEntropy
from kerobust.attacks.weak import WeakIdentityCache
from tests.attacks.victims import Counting, small_batch, small_network


def test_one_trace_serves_all_epsilons_step_sizes_labels_and_batch_sizes():
    images, labels = small_batch(8)
    victim = Counting(CrossEntropy(small_network()))
    attack = PGD(steps=2)
    attack(images, labels, victim)
    after_first = victim.traces
    integers = (np.int32, np.int64, np.uint8)

    for call in range(20):
        rows = 8 if call % 5 else 3  # A short last batch.
        radius = 0.01 * call
        attack(
            images[:rows],
            (labels[:rows].numpy() + call % 3).astype(integers[call % 3]) % 3,
            victim,
            epsilon=tf.fill([rows], radius) if call % 2 else radius,
            step_size=None if call % 3 else tf.constant(0.1 * radius),
        )

    # The body of the loop is traced once, or TensorFlow would show it twice here.
    assert after_first == 1 and victim.traces == 1


def test_a_compiled_caller_shares_one_trace_too():
    images, labels = small_batch()
    victim = Counting(CrossEntropy(small_network()))
    attack = FGSM(0.1)

    @tf.function
    def caller(images, labels):
        return attack(images, labels, victim) + attack(images, labels, victim)

    caller(images, labels)
    caller(images, labels)

    assert victim.traces == 1


def test_other_images_options_or_victims_compile_anew():
    images, labels = small_batch()
    victim = Counting(CrossEntropy(small_network()))
    attack = FGSM(0.1)

    attack(images, labels, victim)
    attack(images, labels, victim, return_info=True)

    # With info the last point is looked at too: two more.
    assert victim.traces == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda network: network,
        lambda network: network.call,
        lambda network: lambda images: network(images),
        CrossEntropy,
    ],
    ids=["model", "method", "lambda", "objective"],
)
def test_the_victim_is_freed_with_its_variables(make):
    images, labels = small_batch()
    network = small_network()
    victim = make(network)
    attack = FGSM(0.1)
    attack(images, labels, victim)
    attack(images, labels, victim)
    references = [weakref.ref(network), weakref.ref(network.variables[0])]
    assert len(attack._functions) == 1

    del network, victim
    gc.collect()

    assert [reference() for reference in references] == [None, None]
    assert len(attack._functions) == 0


def test_the_compiled_function_is_freed_with_the_victim():
    images, labels = small_batch()
    network = small_network()
    attack = FGSM(0.1)
    attack(images, labels, network)
    (entry,) = attack._functions._entries.values()
    compiled = weakref.ref(next(iter(entry[1].values())))
    graph = weakref.ref(compiled().get_concrete_function().graph)
    assert graph() is not None

    del network, entry
    gc.collect()

    # The graph holds the handles, and they the memory, of the victim's variables.
    assert compiled() is None and graph() is None


def test_the_sixth_rebuilt_lambda_warns_with_advice():
    images, labels = small_batch()
    network = small_network()
    attack = FGSM(0.1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            attack(images, labels, lambda images: network(images))

    with pytest.warns(UserWarning, match="object 6 that attack.*outside the loop"):
        attack(images, labels, lambda images: network(images))


def test_many_living_victims_do_not_warn():
    images, labels = small_batch()
    attack = FGSM(0.1)

    victims = [lambda images, k=k: tf.reshape(images, [-1, 4]) * k for k in range(8)]
    for victim in victims:
        attack(images, labels, victim)

    assert len(attack._functions) == 8


def test_one_attack_serves_several_victims():
    images, labels = small_batch()
    first, second = small_network(), small_network()
    attack = FGSM(0.1)

    shared = [attack(images, labels, victim).numpy() for victim in (first, second)]

    expected = [FGSM(0.1)(images, labels, victim) for victim in (first, second)]
    np.testing.assert_array_equal(shared[0], expected[0])
    np.testing.assert_array_equal(shared[1], expected[1])


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda attack: pickle.loads(pickle.dumps(attack))]
)
def test_a_used_attack_can_be_copied(duplicate):
    images, labels = small_batch()
    network = small_network()
    attack = FGSM(0.1)
    expected = attack(images, labels, network)

    result = duplicate(attack)(images, labels, network)

    np.testing.assert_array_equal(result, expected)


def test_the_cache_makes_each_value_once_and_forgets_with_the_key():
    class Key:
        pass

    cache, key = WeakIdentityCache(), Key()

    assert cache.get(key, lambda: 1) == cache.get(key, lambda: 2) == 1
    del key
    gc.collect()

    assert len(cache) == 0
