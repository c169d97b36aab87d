"""What FAB promises of every result, and how it is searched."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import LogitMargin
from kerobust.attacks.balls import BALLS
from kerobust.attacks.fab import FAB
from kerobust.randomness import example_keys
from tests.attacks.victims import (
    Counted,
    convnet,
    digits,
    small_batch,
    small_network,
    wheel,
)

NORMS = sorted(BALLS)
ORDERS = {"linf": np.inf, "l2": 2, "l1": 1}
MEDIUM = {"linf": 0.19, "l2": 0.65, "l1": 1.25}  # Fools about half of the digits.


def largest(norm, images):
    """Returns the largest epsilon: minimum-norm attacks."""
    return BALLS[norm].largest(images[0].size)


@pytest.fixture(scope="module")
def network():
    return convnet()


@pytest.fixture(scope="module")
def attacks():
    """Returns one attack per norm, so that tests share its compiled form."""
    return {norm: FAB(MEDIUM[norm], norm=norm, steps=20) for norm in NORMS}


@pytest.fixture(scope="module")
def random_attack():
    """Returns an attack with random starts, shared likewise."""
    options = {"steps": 5, "random_start": True, "restarts": 2, "seed": 0}
    return FAB(MEDIUM["linf"], **options)


@pytest.mark.parametrize("norm", NORMS)
def test_results_fool_inside_ball_and_box_or_are_the_image_itself(
    network, attacks, norm
):
    images, labels = digits(40)

    adversarial, info = attacks[norm](images, labels, network, return_info=True)

    found, change = info.success.numpy(), (adversarial - images).numpy()
    assert 5 < found.sum() < 35
    assert adversarial.numpy().min() >= 0 and adversarial.numpy().max() <= 1
    assert (info.norm.numpy() <= np.float32(MEDIUM[norm])).all()
    size = np.linalg.norm(change.reshape(40, -1), ORDERS[norm], axis=1)
    np.testing.assert_allclose(info.norm, size, rtol=1e-5)
    logits = network(adversarial).numpy()
    np.testing.assert_array_equal(logits.argmax(axis=1) != labels, found)
    np.testing.assert_array_equal(adversarial[~found], images[~found])
    values = LogitMargin(network)(adversarial, tf.constant(labels))
    np.testing.assert_allclose(info.loss, values, atol=1e-4)
    np.testing.assert_array_equal(info.steps_used > 0, found & (size > 0))


@pytest.mark.parametrize("norm", NORMS)
def test_epsilon_counts_without_tolerance_and_does_not_steer(network, attacks, norm):
    images, labels = digits(20)

    def attack(epsilon):
        given, options = (images, labels, network), {"return_info": True}
        return attacks[norm](*given, epsilon=epsilon, **options)

    adversarial, info = attack(largest(norm, images))
    size = info.norm.numpy()
    (at, _), (below, missed) = attack(size), attack(np.nextafter(size, 0))

    # The search is the same, only what it may return differs.
    assert info.success.numpy().all() and (size > 0).sum() > 15
    np.testing.assert_array_equal(at, adversarial)
    np.testing.assert_array_equal(below, images)
    np.testing.assert_array_equal(missed.success, size == 0)


@pytest.mark.parametrize("norm", NORMS)
def test_epsilon_zero_returns_the_input_bit_for_bit(network, attacks, norm):
    images, labels = digits(4)
    images[0, 0, :2, 0] = -0.0, 1.00005  # Resizing leaves such numbers.
    epsilon = tf.constant([0.0, 1.0, 0.0, 1.0])

    adversarial, _ = attacks[norm](
        images, labels, network, epsilon=epsilon, return_info=True
    )

    same = [
        ours.tobytes() == given.tobytes()
        for ours, given in zip(adversarial.numpy(), images, strict=True)
    ]
    assert same[0] and same[2] and not same[1]


def test_result_depends_on_neither_batch_mates_nor_order(network, random_attack):
    images, labels = digits(12)
    keys = example_keys(5, 0, tf.range(12)).numpy()
    order = np.random.default_rng(0).permutation(12)

    def attack(rows):
        given = images[rows], labels[rows], network
        options = {"keys": keys[rows], "epsilon": 1.0, "return_info": True}
        return random_attack(*given, **options)[0].numpy()

    whole, shuffled, alone = attack(np.arange(12)), attack(order), attack([3])

    np.testing.assert_allclose(shuffled, whole[order], atol=1e-4)
    np.testing.assert_allclose(alone, whole[3:4], atol=1e-4)
    assert (whole != images).any(axis=(1, 2, 3)).all()


def test_misclassified_images_come_back_untouched(network, random_attack):
    images, labels = digits(20)
    labels = np.where(np.arange(20) % 4 == 0, (labels + 1) % 10, labels)
    wrong = network(images).numpy().argmax(axis=1) != labels

    adversarial, info = random_attack(
        images, labels, network, epsilon=1.0, return_info=True
    )

    changed = (adversarial.numpy() != images).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(changed, ~wrong)
    assert info.success.numpy()[wrong].all()
    assert (info.norm.numpy()[wrong] == 0).all()
    assert (info.steps_used.numpy()[wrong] == 0).all()


def test_stopping_when_fooled_fools_the_same(network, attacks):
    images, labels = digits(60)
    config = attacks["linf"].get_config() | {"stop_when_fooled": True}

    (_, usual), (adversarial, info) = (
        attack(images, labels, network, return_info=True)
        for attack in (attacks["linf"], FAB(**config))
    )

    success = info.success.numpy()
    np.testing.assert_array_equal(success, usual.success)
    assert 5 < success.sum() < 55
    assert (info.norm <= MEDIUM["linf"]).numpy().all()
    assert (info.norm >= usual.norm - 1e-5).numpy().all()
    assert np.sum(info.norm) > np.sum(usual.norm) + 1e-3
    np.testing.assert_array_equal(adversarial[~success], images[~success])


def test_examples_leave_at_their_first_point_within_epsilon():
    images, _ = small_batch(8)
    victim = Counted(wheel())
    labels = victim(images).numpy().argmax(axis=1)
    attack = FAB(1.0, steps=50, stop_when_fooled=True)

    _, info = attack(images, labels, victim, return_info=True)

    # One step crosses a plane; one forward was ours, then the clean one, two per step.
    np.testing.assert_array_equal(info.steps_used, np.ones(8))
    assert info.success.numpy().all() and victim.forwards.numpy() == 1 + 1 + 2


def test_without_random_start_no_randomness_is_used():
    images, _ = small_batch(8)
    victim = wheel()
    labels = victim(images).numpy().argmax(axis=1)
    options = [
        {"seed": None},
        # Not even by this alone: it is the first search that starts at the image.
        {"seed": 1, "random_start": True},
    ]

    first, second = (
        FAB(1.0, steps=5, **each)(images, labels, victim) for each in options
    )

    np.testing.assert_array_equal(first, second)
    assert (first != images).numpy().any()


@pytest.mark.parametrize("norm", NORMS)
def test_restarts_start_at_half_of_epsilon_and_the_first_at_the_image(norm):
    images = tf.fill([50, 3, 2, 2], 0.5)
    epsilon = tf.linspace(0.0, 0.4, 50)
    keys = example_keys(0, 0, tf.range(50))
    attack = FAB(norm=norm, random_start=True)

    first, second = (attack._start(images, epsilon, keys, n) for n in (0, 1))

    np.testing.assert_array_equal(first, images)
    np.testing.assert_allclose(
        BALLS[norm].norm(second - images), epsilon / 2, rtol=1e-5, atol=1e-7
    )
    rises = tf.reduce_mean(tf.cast(second[1:] > images[1:], tf.float32))
    assert 0.4 < rises < 0.6


def test_of_all_restarts_the_closest_point_is_returned():
    def valley(images):
        right = images[:, 0, 0, 0] - 0.5
        missing = tf.where(right > 0, 0.3**2, 0.1**2)
        return tf.stack([missing, right**2], axis=1)

    images, options = np.full([32, 1, 2, 1], 0.5, np.float32), {"random_start": True}
    near, success = [], []

    for restarts in (2, 6):
        attack = FAB(0.8, steps=20, restarts=restarts, seed=0, **options)
        _, info = attack(images, np.zeros(32, int), valley, return_info=True)
        success.append(info.success.numpy().mean())
        near.append(np.isclose(info.norm, 0.1, rtol=0.02).mean())
        far = np.isclose(info.norm, 0.3, rtol=0.02).mean()
        assert near[-1] + far == success[-1]

    # The image has no slope. Every later search goes to one side, far or near, and 31
    # of 32 times at least one of five goes near; farther points have larger values.
    assert success == [1, 1]
    assert 0.2 < near[0] < 0.8 and near[1] > 0.8


def test_restarts_that_find_nothing_say_what_the_image_is_worth(network, random_attack):
    images, labels = digits(8)

    adversarial, info = random_attack(
        images, labels, network, epsilon=1e-4, return_info=True
    )

    assert not info.success.numpy().any()
    np.testing.assert_array_equal(adversarial, images)
    values = LogitMargin(network)(tf.constant(images), tf.constant(labels))
    np.testing.assert_allclose(info.loss, values, atol=1e-4)


def test_the_graph_does_not_grow_with_the_classes_and_the_forwards_neither():
    images, labels = small_batch()
    nodes, forwards = [], []

    for classes in (3, 50):
        attack, victim = FAB(0.1, steps=4), Counted(small_network(classes))
        attack(images, labels, victim)
        (_, functions) = next(iter(attack._functions._entries.values()))
        graph = next(iter(functions.values())).get_concrete_function().graph
        definition = graph.as_graph_def()
        inner = [len(each.node_def) for each in definition.library.function]
        nodes.append(len(definition.node) + sum(inner))
        forwards.append(victim.forwards.numpy())

    assert nodes[0] == nodes[1]
    # The clean images once; each step to linearise, and to judge where it leads.
    assert forwards == [1 + 2 * 4] * 2


def test_one_trace_serves_all_epsilons_labels_and_batch_sizes():
    images, labels = small_batch(8)
    victim = Counted(small_network())
    attack = FAB(steps=2)
    attack(images, labels, victim)
    after_first = victim.traces

    for call in range(6):
        rows = 8 if call % 2 else 3
        radius = 0.01 * call
        epsilon = tf.fill([rows], radius) if call % 3 else radius
        attack(images[:rows], labels[:rows], victim, epsilon=epsilon)

    assert after_first == 3 and victim.traces == 3
