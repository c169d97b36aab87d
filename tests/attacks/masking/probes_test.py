"""What a probe measures, on victims with known answers."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import BALLS
from kerobust.attacks.masking.probes import FEW, MANY, Probe
from kerobust.attacks.masking.vanishing import MAGNIFIED
from tests.attacks.victims import small_batch, small_network

WEIGHTS = np.array([4.0, -3.0, 2.0, -1.0], np.float32)


def two_classes(images):
    """Logits (0, w.x): label 0 is right where w.x < 0."""
    score = tf.linalg.matvec(tf.reshape(images, [-1, 4]), WEIGHTS)
    return tf.stack([tf.zeros_like(score), score], axis=1)


def grey(rows: int = 3):
    """Returns images at which w.x = 1, and labels 1."""
    return tf.fill([rows, 2, 2, 1], 0.5), tf.ones([rows], tf.int32)


@pytest.mark.parametrize(
    ("norm", "epsilon", "expected"),
    [
        # Against the sign of the weights, each pixel by 0.1.
        ("linf", 0.1, [-0.1, 0.1, -0.1, 0.1]),
        # Along the weights, whose norm is sqrt(30).
        ("l2", 0.1, -0.1 * WEIGHTS / 30**0.5),
        # The steepest pixel until it meets the box, then the next.
        ("l1", 0.7, [-0.5, 0.2, 0.0, 0.0]),
    ],
)
def test_one_step_goes_where_a_linear_loss_rises_most(norm, epsilon, expected):
    probe = Probe(two_classes, *grey(), norm, seed=0)

    moved = probe.step(probe.gradients(probe.images).cross_entropy, epsilon)

    change = np.reshape(moved - probe.images, [3, 4])
    np.testing.assert_allclose(change, np.tile(expected, [3, 1]), atol=2e-3)


def test_a_step_along_nothing_stays():
    probe = Probe(two_classes, *grey(), "linf", seed=0)

    moved = probe.step(np.full([3, 2, 2, 1], np.nan, np.float32), 0.1)

    np.testing.assert_array_equal(moved, probe.images)


@pytest.mark.parametrize("norm", sorted(BALLS))
def test_noise_lies_in_the_ball_and_repeats_with_the_seed(norm):
    epsilon = {"linf": 0.1, "l2": 0.3, "l1": 0.6}[norm]
    probe, same, other = (
        Probe(two_classes, *grey(20), norm, seed=seed) for seed in (1, 1, 2)
    )

    noise = probe.noise(epsilon)

    size = BALLS[norm].norm(noise - probe.images).numpy()
    assert (size > 0).all() and (size <= epsilon * (1 + 1e-5)).all()
    np.testing.assert_array_equal(noise, same.noise(epsilon))
    assert not np.array_equal(noise, other.noise(epsilon))
    assert not np.array_equal(noise, probe.noise(epsilon, draw=1))


def test_gradients_are_those_of_the_formulas():
    probe = Probe(two_classes, *grey(), "linf", seed=0)

    found = probe.gradients(probe.images)

    # w.x = 1: cross-entropy log(1 + 1/e), its gradient -sigmoid(-1) w. With two classes
    # DLR is the margin of the other class, -w.x.
    np.testing.assert_allclose(found.losses, np.log1p(np.exp(-1.0)), rtol=1e-5)
    slope = -WEIGHTS / (1 + np.e)
    np.testing.assert_allclose(found.cross_entropy.reshape(3, 4)[0], slope, rtol=1e-5)
    np.testing.assert_allclose(found.dlr.reshape(3, 4)[0], -WEIGHTS, rtol=1e-5)
    np.testing.assert_allclose(found.magnified, MAGNIFIED * found.cross_entropy)
    np.testing.assert_allclose(found.logits, [[0, 1]] * 3, atol=1e-6)


def test_a_rounding_leaves_no_path():
    found = Probe(lambda x: two_classes(tf.round(x)), *grey(), "linf", 0).gradients(
        grey()[0]
    )

    assert found.cross_entropy is None and found.dlr is None
    assert found.magnified is None


def test_all_ascents_share_one_compilation_and_reach_the_closed_form():
    traces = []

    def victim(images):
        if not tf.executing_eagerly():
            traces.append(images)
        return two_classes(images)

    probe = Probe(victim, *grey(), "linf", seed=0)

    few, many = probe.ascend(FEW, 0.05), probe.ascend(MANY, 0.05)
    after_two = len(traces)
    far, ratio = probe.ascend(FEW, 0.2), probe.ascend(FEW, 0.2, scale=None)
    hot = probe.ascend(FEW, 0.05, scale=10.0)

    assert len(traces) == after_two
    # w.x falls by 10 epsilon, from 1 to 0.5 and to -1.
    np.testing.assert_allclose(few.losses, np.log1p(np.exp(-0.5)), rtol=1e-4)
    np.testing.assert_allclose(many.losses, few.losses, rtol=1e-4)
    np.testing.assert_allclose(hot.losses, np.log1p(np.exp(-5.0)), rtol=1e-4)
    np.testing.assert_allclose(ratio.losses, 1.0, rtol=1e-4)
    assert few.robust.all() and many.robust.all() and hot.robust.all()
    assert not far.robust.any() and not ratio.robust.any()


def test_the_number_of_steps_counts():
    probe = Probe(two_classes, *grey(), "linf", seed=0)

    one, two = (probe.ascend(steps, 0.4).images - 0.5 for steps in (1, 2))

    # Steps of 0.4 each (min(2.5 * 0.4 / steps, 0.4)) from random starts in +-0.4: only
    # two of them are sure to reach the border.
    sign = np.reshape(np.sign(WEIGHTS), [1, 2, 2, 1])
    assert (np.abs(one + 0.4 * sign) > 1e-3).any()
    np.testing.assert_allclose(two, np.tile(-0.4 * sign, [3, 1, 1, 1]), atol=1e-6)


def test_the_black_box_breaks_what_can_be_broken_and_nothing_else():
    probe = Probe(two_classes, *grey(), "linf", seed=0)

    # w.x = 1 falls by at most 10 epsilon.
    assert not probe.search(0.3).any()
    assert probe.search(0.05).all()


def test_company_shows_what_batch_statistics_do():
    images, labels = small_batch(6)
    network = small_network()
    flatten, dense, norm = network.layers[:3]

    def training(images):
        return norm(dense(flatten(images)), training=True)

    together, apart = Probe(network, images, labels, "linf", 0).company()
    np.testing.assert_allclose(together, apart, atol=1e-6)
    np.testing.assert_allclose(apart, network(images)[:4], atol=1e-6)

    together, apart = Probe(training, images, labels, "linf", 0).company()
    assert np.abs(together - apart).max() > 0.1


def test_a_single_example_has_company_too():
    images, labels = small_batch(1)
    victim = Probe(
        lambda x: two_classes(x - tf.reduce_mean(x, 0)), images, labels, "linf", 0
    )

    together, apart = victim.company()

    assert together.shape == apart.shape == (1, 2)
    assert np.abs(together - apart).max() > 0.01


@pytest.mark.parametrize("kind", [tf.float16, tf.bfloat16])
def test_half_precision_is_seen_in_logits_and_in_layers(kind):
    images, labels = small_batch()
    tf.keras.mixed_precision.set_global_policy(f"mixed_{kind.name}")
    layer = small_network()
    tf.keras.mixed_precision.set_global_policy("float32")
    exact = np.array([[1 / 3, 0.1]], np.float32)
    probe = Probe(two_classes, images, labels, "linf", 0)

    rounded = tf.cast(tf.cast(exact, kind), tf.float32).numpy()

    assert probe.in_half_precision(rounded)
    assert not probe.in_half_precision(exact)
    assert not probe.in_half_precision(1e6 * exact)  # More than float16 can hold.
    assert Probe(layer, images, labels, "linf", 0).in_half_precision(exact)


def test_many_draws_decide_about_a_random_victim():
    noise = tf.random.Generator.from_seed(0)
    probe = Probe(
        lambda x: two_classes(x) + noise.normal([len(x), 2]), *grey(60), "linf", 0
    )

    single = probe.robust(probe.images)
    probe.average()
    averaged = probe.robust(probe.images)

    # The margin of 1 has noise of sqrt(2): one draw is wrong with 24 %, the majority of
    # ten (half of them fooled is not fooled) with less than 2 %.
    assert 0.55 < single.mean() < 0.95
    assert averaged.mean() > 0.9
