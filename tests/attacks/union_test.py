"""Tests of kerobust.attacks.union: several attacks on the same images."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import (
    FGSM,
    MSD,
    PGD,
    Attacked,
    CrossEntropy,
    MomentumPGD,
    Objective,
    SparsePGD,
    Union,
)
from kerobust.randomness import example_keys, fold_in
from tests.attacks.victims import Counting, convnet, digits, small_batch, small_network

MEMBERS = [  # Each is the best one for some digits; only the last one draws.
    PGD(0.2, steps=3, random_start=False),
    PGD(0.8, norm="l2", steps=3, random_start=False),
    SparsePGD(1.5, quantile=0.95, steps=3),
]
KEYS = example_keys(2, 0, tf.range(48))


class Weighted(Objective):
    """w.x with weights of each example's own, given as targets [B, D]."""

    def outputs(self, images):
        return tf.reshape(images, [tf.shape(images)[0], -1])

    def values(self, outputs, targets):
        return tf.reduce_sum(outputs * targets, axis=1)


@pytest.fixture(scope="module")
def network():
    return convnet()


@pytest.fixture(scope="module")
def alone(network):
    """Returns images [3, 48, ...], success and loss [3, 48] of each member alone."""
    images, labels = digits(48)
    # A member draws from the keys of its number, under those of the first search.
    found = [
        attack(
            images,
            labels,
            network,
            keys=fold_in(fold_in(KEYS, 0), index),
            return_info=True,
        )
        for index, attack in enumerate(MEMBERS)
    ]
    return [
        np.stack(each)
        for each in zip(
            *((x, info.success, info.loss) for x, info in found), strict=True
        )
    ]


@pytest.fixture(scope="module")
def together(network):
    """Returns what the union of the members returns, images and info."""
    return Union(MEMBERS)(*digits(48), network, keys=KEYS, return_info=True)


def test_the_best_member_wins_example_by_example():
    images = tf.fill([3, 1, 4, 1], 0.5)
    weights = np.float32([[1, 1, 1, 1], [3, 0.1, 0, 0], [2, 2, 0.1, 0]])
    attack = Union([FGSM(0.1), FGSM(0.19, norm="l2"), FGSM(0.2, norm="l1")])

    adversarial, info = attack(images, weights, Weighted(), return_info=True)

    # Radius times dual norm: (.4, .38, .2), (.31, .5703, .6) and (.41, .5377, .4).
    gain = info.loss - 0.5 * weights.sum(axis=1)
    np.testing.assert_allclose(gain, [0.4, 0.6, 0.53771], atol=1e-4)
    changed = tf.reshape(adversarial - images, [3, 4])
    np.testing.assert_allclose(changed[:2], [[0.1] * 4, [0.2, 0, 0, 0]], atol=1e-6)
    np.testing.assert_array_equal(info.success, [False] * 3)


@pytest.mark.parametrize(("fools", "expected"), [(True, 0.6), (False, 0.7)])
def test_what_fools_precedes_what_has_the_larger_value(fools, expected):
    class Narrow(Objective):
        def outputs(self, images):
            return images[:, 0, 0, 0]

        def values(self, outputs, targets):
            return outputs

        def fooled(self, outputs, targets):
            return (outputs > 0.55) & (outputs < 0.65) if fools else None

    images = tf.fill([2, 1, 1, 1], 0.5)

    adversarial = Union([FGSM(0.2), FGSM(0.1)])(images, tf.zeros([2]), Narrow())

    np.testing.assert_allclose(tf.reshape(adversarial, [2]), expected, atol=1e-6)


def test_max_gives_each_example_the_best_result_of_the_members(alone, together):
    every, success, loss = alone
    adversarial, info = together

    best = np.where(success == success.any(axis=0), loss, -1)
    winner = np.argmax(best, axis=0)
    assert len(set(winner)) == 3 and 0 < success.any(axis=0).sum() < 48
    np.testing.assert_allclose(adversarial, every[winner, np.arange(48)], atol=1e-5)
    np.testing.assert_array_equal(info.success, success.any(axis=0))
    np.testing.assert_allclose(info.loss, best.max(axis=0), atol=1e-4)
    assert (info.norm <= 1 + 1e-5).numpy().all()


def test_random_gives_each_example_the_result_of_one_member(network, alone):
    images, labels = digits(48)
    attack = Union(MEMBERS, combine="random")

    adversarial = attack(images, labels, network, keys=KEYS).numpy()
    few = attack(images[5:8], labels[5:8], network, keys=KEYS[5:8])

    distance = np.abs(alone[0] - adversarial).max(axis=(2, 3, 4))
    assert (np.min(distance, axis=0) < 1e-5).all()
    counts = np.bincount(np.argmin(distance, axis=0), minlength=3)
    assert (counts >= 8).all()  # 16 each, with a standard deviation of 3.3.
    np.testing.assert_allclose(few, adversarial[5:8], atol=1e-5)


def test_another_member_never_helps_the_victim(network, alone, together):
    images, labels = digits(48)

    _, two = Union(MEMBERS[:2])(images, labels, network, keys=KEYS, return_info=True)

    success = np.stack([alone[1][0], two.success, together[1].success]).astype(int)
    loss = np.stack([alone[2][0], two.loss, together[1].loss])
    assert (np.diff(success, axis=0) >= 0).all()
    assert (np.diff(loss, axis=0) >= -1e-5)[np.diff(success, axis=0) == 0].all()
    assert success[0].sum() < success[1].sum() <= success[2].sum()


class Rows(Counting):
    """Counts images instead of calls."""

    def outputs(self, images):
        self.forwards.assign_add(tf.shape(images)[0])
        return self.inner.outputs(images)


@pytest.mark.slow
def test_stop_when_fooled_spares_fooled_examples_the_other_members(
    network, alone, together
):
    images, labels = digits(48)
    victim = Rows(CrossEntropy(network))
    attack = Union(MEMBERS, stop_when_fooled=True)

    _, info = attack(images, labels, victim, keys=KEYS, return_info=True)

    np.testing.assert_array_equal(info.success, together[1].success)
    # 3 steps and the look at the last point, of those that still stand.
    first, second, _ = alone[1]
    tried = 48 + np.sum(~first) + np.sum(~first & ~second)
    assert int(victim.forwards) == 4 * tried < 4 * 3 * 48


def test_a_batch_that_the_first_member_fools_ends_the_union():
    images = tf.fill([5, 2, 2, 1], 0.5)
    victim = Counting(CrossEntropy(lambda x: tf.reduce_sum(x, [2, 3])))
    attack = Union([FGSM(0.1), FGSM(0.2), FGSM(0.3)], stop_when_fooled=True)

    _, info = attack(images, tf.ones([5], tf.int32), victim, return_info=True)

    # Equal logits: class 0 wins and the label is 1. One gradient and one look.
    assert info.success.numpy().all() and int(victim.forwards) == 2


def test_epsilon_multiplies_every_radius():
    images = tf.fill([2, 1, 4, 1], 0.5)
    weights = np.float32([[1, 1, 1, 1], [3, 0.1, 0, 0]])
    attack = Union([FGSM(0.1), FGSM(0.2, norm="l1")], epsilon=0.5)

    half = attack(images, weights, Weighted()) - images
    given = attack(images, weights, Weighted(), epsilon=[1.5, 2.0]) - images

    expected = np.float32([[0.1] * 4, [0.2, 0, 0, 0]])
    np.testing.assert_allclose(tf.reshape(half, [2, 4]), 0.5 * expected, atol=1e-6)
    factor = np.float32([[1.5], [2.0]])
    np.testing.assert_allclose(tf.reshape(given, [2, 4]), factor * expected, atol=1e-6)


def test_members_keep_their_step_size_and_their_indulgence(network):
    images, labels = digits(20)
    labels = np.where(np.arange(20) % 4 == 0, (labels + 1) % 10, labels)
    wrong = network(images).numpy().argmax(axis=1) != labels
    member = PGD(
        0.2, steps=1, step_size=0.01, random_start=False, skip_misclassified=True
    )

    adversarial = Union([member])(images, labels, network)

    change = np.abs(adversarial - images).max(axis=(1, 2, 3))
    np.testing.assert_allclose(change, np.where(wrong, 0.0, 0.01), atol=1e-6)


def test_the_ball_is_the_union_of_the_largest_balls_of_each_norm():
    inner = Union([FGSM(0.1), FGSM(0.5, norm="l2")], epsilon=2.0)
    multi = MSD({"l2": 0.8, "l1": 3.0}, epsilon=0.5)

    attack = Union([FGSM(0.05), FGSM(0.15), inner, multi])

    radii = attack.ball.radii
    assert radii == pytest.approx({"linf": 0.2, "l2": 1.0, "l1": 1.5})


def test_unions_nest():
    images = tf.fill([40, 1, 4, 1], 0.5)
    inner = Union([FGSM(0.1), FGSM(0.3, norm="l1")], combine="random", epsilon=0.5)
    attack = Union([inner, FGSM(0.05, norm="l2")], epsilon=2.0, seed=0)

    change = attack(images, np.ones([40, 4], np.float32), Weighted()) - images

    # Gains 0.4 or, from the other inner one, 0.3; the outer one has 0.2.
    gain = tf.reduce_sum(change, axis=[1, 2, 3]).numpy()
    near = np.abs(gain - [[0.4], [0.3]]) < 1e-5
    assert near.any(axis=0).all() and near.any(axis=1).all()


def test_one_trace_serves_all_factors_and_batch_sizes():
    images, labels = small_batch(8)
    victim = Counting(CrossEntropy(small_network()))
    attack = Union([FGSM(0.1), PGD(0.4, norm="l2", steps=2)], stop_when_fooled=True)
    attack(images, labels, victim)
    first = victim.traces

    for call in range(6):
        rows = 8 if call % 2 else 3
        attack(images[:rows], labels[:rows], victim, epsilon=0.1 * call)

    assert victim.traces == first


def test_it_trains_in_a_train_step():
    class Robust(tf.keras.Model):
        def __init__(self):
            super().__init__()
            self.network = small_network()
            members = [FGSM(0.1), FGSM(0.4, norm="l2")]
            self.attack = Union(members, combine="random", seed=0)

        def train_step(self, data):
            images, labels = data
            images = self.attack(images, labels, self.network)
            with tf.GradientTape() as tape:
                logits = self.network(images, training=True)
                loss = self.compute_loss(images, labels, logits)
            self.optimizer.minimize(loss, self.network.trainable_variables, tape=tape)
            return {"loss": loss}

    images, labels = small_batch(8)
    model = Robust()
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf.keras.optimizers.Adam(0.05), loss=loss)

    history = model.fit(images, labels, epochs=10, verbose=0).history["loss"]

    assert history[-1] < history[0] and len(model.attack.variables) == 0


def test_a_union_comes_back_from_its_config_and_from_a_keras_file(tmp_path):
    images, labels = small_batch()
    members = [MomentumPGD(0.1, steps=2), FGSM(0.5, norm="l2")]
    attack = Union(
        members,
        epsilon=0.8,
        combine="random",
        skip_misclassified=True,
        stop_when_fooled=True,
        seed=3,
        name="mine",
    )
    model = Attacked(attack, small_network())
    expected = model(images, labels)["adversarial"]

    model.save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras")

    again = loaded.attack
    assert type(again) is Union and again.get_config() == attack.get_config()
    assert [type(each) for each in again.attacks] == [MomentumPGD, FGSM]
    result = loaded(images, labels)["adversarial"]
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_what_a_union_cannot_do_is_refused():
    with pytest.raises(TypeError, match="`attacks` must be a list of at least one"):
        Union([])
    with pytest.raises(TypeError, match="`attacks`.*Received: attacks="):
        Union([PGD(0.1), "pgd"])
    with pytest.raises(ValueError, match=r"epsilon above 0.*with epsilon=\[0.1, 0.0\]"):
        Union([PGD(0.1), PGD(0.0)])
    with pytest.raises(ValueError, match="`combine`.*max, random.*combine=average"):
        Union([PGD(0.1)], combine="average")
    images, labels = small_batch()
    attack = Union([PGD(0.1), SparsePGD(12.0)])
    with pytest.raises(ValueError, match="`step_size` of Union.*step_size=0.1"):
        attack(images, labels, small_network(), step_size=0.1)
    # 4 pixels cannot change by more than 4 in l1: the radius 12 means 0.333 at most.
    with pytest.raises(ValueError, match="at most 0.333.*multiplies the radii"):
        attack(images, labels, small_network())
