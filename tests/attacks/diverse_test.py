"""Tests of kerobust.attacks.diverse."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import DiversePGD, MomentumPGD
from kerobust.attacks.diverse import _Framed
from kerobust.attacks.objectives import Objective
from kerobust.randomness import example_keys

IMAGES = np.random.default_rng(0).uniform(0.2, 0.8, [6, 8, 8, 3]).astype(np.float32)
LABELS = np.arange(6) % 2
KEYS = example_keys(0, 0, np.arange(6))


class Sees(Objective):
    """Gives what it is shown."""

    def outputs(self, images):
        return images


@pytest.fixture(scope="module")
def victim():
    tf.keras.utils.set_random_seed(0)
    layers = [
        tf.keras.layers.Conv2D(4, 3, activation="tanh"),
        tf.keras.layers.Flatten(),
    ]
    model = tf.keras.Sequential([*layers, tf.keras.layers.Dense(2)])
    model(IMAGES)
    return model


def seen(boxes, images=IMAGES):
    return _Framed(Sees(), tf.constant(boxes, tf.float32)).outputs(images).numpy()


def test_without_a_change_the_image_is_seen_as_it_is():
    attack = DiversePGD(0.1, probability=0.0)

    boxes = attack._boxes(KEYS)

    np.testing.assert_array_equal(boxes, [[0, 0, 1, 1]] * 6)
    np.testing.assert_allclose(seen(boxes), IMAGES, atol=1e-6)


def test_a_frame_twice_as_large_holds_a_smaller_image_and_zeros():
    plain = np.full([1, 9, 9, 1], 0.5, np.float32)

    shown = seen([[-0.5, -0.5, 1.5, 1.5]], plain)

    # The image takes the inner half: pixels 2 to 6 of 0 to 8.
    expected = np.zeros([1, 9, 9, 1])
    expected[:, 2:7, 2:7] = 0.5
    np.testing.assert_allclose(shown, expected, atol=1e-6)


def test_shares_and_places_have_the_limits_that_were_asked_for():
    attack = DiversePGD(0.1, probability=1.0, smallest=0.5)

    boxes = attack._boxes(example_keys(0, 0, np.arange(500))).numpy()

    sides = boxes[:, 2:] - boxes[:, :2]
    np.testing.assert_allclose(sides[:, 0], sides[:, 1], rtol=1e-5)
    shares = 1 / sides[:, 0]
    assert 0.5 <= shares.min() < 0.52 and 0.98 < shares.max() <= 1.0
    assert np.all(boxes[:, :2] <= 0) and np.all(boxes[:, 2:] >= 1 - 1e-6)
    places = -boxes[:, 0] / np.maximum(sides[:, 0] - 1, 1e-6)
    assert places[shares < 0.9].min() < 0.05 and places[shares < 0.9].max() > 0.95


def test_probability_0_is_momentum_pgd(victim):
    given = (IMAGES, LABELS, victim)

    found = DiversePGD(0.1, steps=3, probability=0.0)(*given, keys=KEYS)

    expected = MomentumPGD(0.1, steps=3)(*given, keys=KEYS)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_it_raises_the_loss_inside_the_ball_and_range(victim):
    attack = DiversePGD(0.1, steps=5, probability=1.0)

    found, info = attack(IMAGES, LABELS, victim, keys=KEYS, return_info=True)

    assert np.abs(found - IMAGES).max() <= 0.1 + 1e-6
    assert np.min(found) >= 0 and np.max(found) <= 1
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, victim(IMAGES))
    assert np.all(info.loss > losses)
    other = MomentumPGD(0.1, steps=5)(IMAGES, LABELS, victim, keys=KEYS)
    assert np.abs(found - other).max() > 0.01


def test_results_depend_on_keys_and_not_on_batch_mates(victim):
    attack = DiversePGD(0.1, steps=3, probability=1.0)

    whole = attack(IMAGES, LABELS, victim, keys=KEYS)

    part = attack(IMAGES[2:4], LABELS[2:4], victim, keys=KEYS[2:4])
    np.testing.assert_allclose(whole[2:4], part, atol=1e-6)
    fresh = attack(IMAGES, LABELS, victim, keys=example_keys(1, 0, np.arange(6)))
    assert np.abs(whole - fresh).max() > 0.01


def test_the_best_of_several_restarts_is_judged_on_the_image_itself(victim):
    attack = DiversePGD(0.1, steps=2, random_start=True, restarts=3, probability=1.0)

    found, info = attack(IMAGES, LABELS, victim, keys=KEYS, return_info=True)

    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, victim(found))
    np.testing.assert_allclose(info.loss, losses, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"), [("probability", 1.5), ("smallest", 0.0), ("smallest", 1.2)]
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must lie in"):
        DiversePGD(0.1, **{name: value})


def test_its_configuration_makes_it_again():
    attack = DiversePGD(0.2, steps=7, probability=0.3, smallest=0.6, decay=0.9)

    again = DiversePGD.from_config(attack.get_config())

    assert again.get_config() == attack.get_config()
