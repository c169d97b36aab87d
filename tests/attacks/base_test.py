"""Tests of kerobust.attacks.base: what is promised for every attack."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import (
    ATTACKS,
    BALLS,
    FGSM,
    PGD,
    CrossEntropy,
    MomentumPGD,
    Objective,
)
from kerobust.randomness import example_keys
from tests.attacks.victims import (
    CHEAP,
    Linear,
    convnet,
    digits,
    small_batch,
    small_network,
)

EPSILON = {"linf": 0.15, "l2": 0.6, "l1": 2.0}
NORMS = sorted(EPSILON)


@pytest.fixture(scope="module")
def network():
    return convnet()


@pytest.fixture(scope="module")
def every_attack():
    """Returns (name, norm) -> attack with random start and all iterates considered."""
    options = {"random_start": True, "seed": 0, "keep": "best"}
    return {
        (name, norm): attack(EPSILON[norm], norm=norm, **options, **CHEAP.get(name, {}))
        for name, attack in ATTACKS.items()
        for norm in NORMS
    }


@pytest.mark.parametrize("norm", NORMS)
def test_pixels_without_a_finite_gradient_stay_and_the_others_move(norm):
    class Partly(Objective):
        def outputs(self, images):
            return tf.reshape(images, [-1, 4])

        def values(self, outputs, targets):
            return tf.reduce_sum(outputs * [np.nan, np.inf, 1.0, 1.0], axis=1)

    images = tf.fill([1, 2, 2, 1], 0.5)

    change = MomentumPGD(0.1, norm=norm, steps=3)(images, tf.zeros([1]), Partly()) - 0.5

    stay = tf.reshape(change, [-1]).numpy()
    np.testing.assert_array_equal(stay[:2], 0)
    assert (stay[2:] > 0).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "name", ["pgd", "momentum_pgd", "decaying_pgd", "autopgd", "square"]
)
def test_result_stays_in_ball_and_box_whatever_the_gradient(every_attack, name, norm):
    class Wild(Objective):
        """NaN, infinite and zero gradients, beside ordinary ones."""

        def outputs(self, images):
            return tf.reshape(images, [-1, 64])

        def values(self, outputs, targets):
            return tf.reduce_sum(outputs * targets, axis=1)

    images = np.round(digits(8)[0])  # On the border of the box.
    factors = np.random.default_rng(0).normal(size=[8, 64]).astype(np.float32)
    factors[1], factors[2], factors[3] = np.nan, np.inf, 0
    ball = BALLS[norm]

    adversarial = every_attack[name, norm](images, factors, Wild())

    assert adversarial.dtype == tf.float32 and adversarial.shape == images.shape
    assert np.isfinite(adversarial).all()
    assert (adversarial.numpy() >= 0).all() and (adversarial.numpy() <= 1).all()
    assert (ball.norm(adversarial - images) <= EPSILON[norm] * (1 + 1e-5)).numpy().all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_epsilon_zero_returns_the_input_bit_for_bit(every_attack, network, name, norm):
    images, labels = digits(4)
    images[0, 0, :2, 0] = -0.0, 1.00005  # Resizing leaves such numbers.
    epsilon = tf.constant([0.0, 0.1, 0.0, 0.1])

    adversarial = every_attack[name, norm](
        images, labels, network, epsilon=epsilon
    ).numpy()

    same = [
        ours.tobytes() == given.tobytes()
        for ours, given in zip(adversarial, images, strict=True)
    ]
    assert same[0] and same[2]
    # FAB returns the image wherever it finds nothing within epsilon that fools.
    assert name == "fab" or not (same[1] or same[3])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_result_depends_on_neither_batch_mates_nor_order(
    every_attack, network, name, norm
):
    images, labels = digits(12)
    keys = example_keys(5, 0, tf.range(12))
    attack = every_attack[name, norm]
    order = np.random.default_rng(0).permutation(12)

    whole = attack(images, labels, network, keys=keys).numpy()
    shuffled = attack(
        images[order], labels[order], network, keys=tf.gather(keys, order)
    )
    alone = attack(images[3:4], labels[3:4], network, keys=keys[3:4])

    np.testing.assert_allclose(shuffled, whole[order], atol=1e-5)
    np.testing.assert_allclose(alone, whole[3:4], atol=1e-5)


def test_an_int_seed_repeats_and_none_draws_fresh_noise():
    images, labels = small_batch()
    network = small_network()
    seeded, fresh = FGSM(0.1, random_start=True, seed=3), FGSM(0.1, random_start=True)
    other = FGSM(0.1, random_start=True, seed=4)

    first, second = (seeded(images, labels, network).numpy() for _ in range(2))
    third, fourth = (fresh(images, labels, network).numpy() for _ in range(2))

    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(third, fourth)
    assert not np.array_equal(first, other(images, labels, network))


def test_skip_misclassified_leaves_wrong_examples_untouched(network):
    images, labels = digits(20)
    labels = np.where(np.arange(20) % 4 == 0, (labels + 1) % 10, labels)
    wrong = network(images).numpy().argmax(axis=1) != labels

    adversarial, info = PGD(0.1, skip_misclassified=True)(
        images, labels, network, return_info=True
    )

    changed = (adversarial.numpy() != images).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(changed, ~wrong)
    assert info.success.numpy()[wrong].all()
    assert (info.steps_used.numpy()[wrong] == 0).all()
    assert (info.norm.numpy()[wrong] == 0).all()


def test_info_describes_the_returned_images(network):
    images, labels = digits(20)
    attack = PGD(0.15, restarts=2, seed=0)

    adversarial, info = attack(images, labels, network, return_info=True)

    logits = network(adversarial).numpy()
    np.testing.assert_array_equal(info.success, logits.argmax(axis=1) != labels)
    values = CrossEntropy(network)(adversarial, tf.constant(labels))
    np.testing.assert_allclose(info.loss, values, rtol=1e-3, atol=1e-4)
    size = np.abs(adversarial - images).max(axis=(1, 2, 3))
    np.testing.assert_allclose(info.norm, size, atol=1e-7)
    assert info.success.dtype == tf.bool and info.steps_used.dtype == tf.int32


def test_without_targets_the_predictions_are_attacked(network):
    images, _ = digits(20)
    predicted = network(images).numpy().argmax(axis=1)
    attack = PGD(0.15, seed=0)

    result = attack(images, None, network)

    np.testing.assert_array_equal(result, attack(images, predicted, network))


def test_step_size_of_the_constructor_and_of_the_call_count():
    images, objective = tf.fill([2, 1, 1, 3], 0.5), Linear(np.ones(3))
    attack = PGD(0.2, steps=3, step_size=0.01, random_start=False)

    own = attack(images, tf.zeros([2]), objective)
    given = attack(images, tf.zeros([2]), objective, step_size=[0.02, 0.03])

    np.testing.assert_allclose(own, np.full([2, 1, 1, 3], 0.53), atol=1e-6)
    np.testing.assert_allclose(tf.reshape(given, [2, 3])[:, 0], [0.56, 0.59], atol=1e-6)


def test_a_changed_setting_takes_effect_at_the_next_call():
    images, objective = tf.fill([1, 1, 1, 3], 0.5), Linear(np.ones(3))
    attack = PGD(0.2, steps=1, step_size=0.01, random_start=False)
    attack(images, tf.zeros([1]), objective)

    attack.steps = 4

    result = attack(images, tf.zeros([1]), objective)
    np.testing.assert_allclose(result, np.full([1, 1, 1, 3], 0.54), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels_and_any_rectangle(channels):
    images = tf.fill([2, 3, 5, channels], 0.5)
    victim = Linear(np.ones(15 * channels))

    adversarial = PGD(0.1)(images, tf.zeros([2]), victim)

    np.testing.assert_allclose(adversarial, tf.fill(images.shape, 0.6), atol=1e-6)
