"""Tests of kerobust.attacks.fab."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import (
    DLR,
    Averaged,
    LogitMargin,
    SoftCrossEntropy,
    TargetedCrossEntropy,
    TargetedDLR,
    TargetedMargin,
    ranked_goals,
)
from kerobust.attacks.balls import BALLS
from kerobust.attacks.fab import FAB
from tests.attacks.victims import (
    Counting,
    LinearLogits,
    convnet,
    digits,
    golden,
    small_batch,
    wheel,
)

NORMS = sorted(BALLS)
NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}
ORDERS = {"linf": np.inf, "l2": 2, "l1": 1}
DUAL_ORDERS = {"linf": 1, "l2": 2, "l1": np.inf}


def largest(norm, images):
    """Returns the largest epsilon: minimum-norm attacks."""
    return BALLS[norm].largest(images[0].size)


@pytest.fixture(scope="module")
def network():
    return convnet()


@pytest.mark.parametrize("norm", NORMS)
def test_finds_the_distance_to_the_nearest_boundary_of_a_linear_victim(norm):
    generator = np.random.default_rng(3)
    weights = generator.normal(size=[12, 3])
    # Logits of the grey image, close enough for the box to be far away.
    bias = np.array([0, -0.1, -0.12]) - 0.5 * weights.sum(axis=0)
    victim = LinearLogits(weights, bias)
    images = np.float32(0.5 + generator.uniform(-0.005, 0.005, [6, 2, 2, 3]))
    logits = victim(images).numpy()
    labels = logits.argmax(axis=1)
    attack = FAB(largest(norm, images), norm=norm, steps=30)

    _, info = attack(images, labels, victim, return_info=True)

    # |z_j - z_y| / dual norm of w_j - w_y, for the nearest j.
    expected = []
    for row, label in zip(logits, labels, strict=True):
        rivals = [j for j in range(3) if j != label]
        planes = (weights[:, rivals] - weights[:, [label]]).T
        slopes = np.linalg.norm(planes, DUAL_ORDERS[norm], axis=1)
        expected.append(np.min((row[label] - row[rivals]) / slopes))
    np.testing.assert_allclose(info.norm, expected, rtol=1e-2)
    assert info.success.numpy().all()


@pytest.mark.parametrize(("norm", "expected"), [("linf", 0.1), ("l1", 0.12)])
def test_the_nearest_boundary_is_nearest_in_the_norm_of_the_attack(norm, expected):
    # To class 1: 0.3 / (1 + 1 + 1) in linf, 0.3 / 1 in l1. To class 2: 0.12 / 1.
    victim = LinearLogits([[0, 1, 1], [0, 1, 0], [0, 1, 0]], [1.8, 0, 1.18])
    images = np.full([1, 1, 1, 3], 0.5, np.float32)

    attack = FAB(1.0, norm=norm, steps=5)
    adversarial, info = attack(images, [0], victim, return_info=True)

    np.testing.assert_allclose(info.norm, [expected], rtol=1e-2)
    moved = np.abs(adversarial - images).ravel() > 1e-3
    np.testing.assert_array_equal(moved, [True, norm == "linf", norm == "linf"])


def test_a_goal_chooses_the_boundary():
    victim = LinearLogits([[0, 1, -1], [0, 1, 0]], [1.4, 0, 1.6])
    images = np.full([2, 1, 2, 1], 0.5, np.float32)
    targets = {"labels": np.array([0, 0]), "goals": np.array([1, 2])}

    attack = FAB(1.0, norm="l2", steps=10)
    adversarial = attack(images, targets, TargetedMargin(victim))

    # Logits 1.4, 1, 1.1: 0.4 is missing along (1, 1), 0.3 along (-1, 0).
    change = tf.reshape(adversarial - images, [2, 2])
    np.testing.assert_allclose(change, [[0.2, 0.2], [-0.3, 0]], rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_at_the_border_of_the_box_it_equals_brute_force(norm):
    victim = LinearLogits([[0, 3], [0, 1]], [0, -3.3])
    images = np.float32([[0.9, 0.1], [0.95, 0.3], [0.2, 0.9]]).reshape([3, 1, 2, 1])

    attack = FAB(largest(norm, images), norm=norm, steps=50)
    _, info = attack(images, [0, 0, 0], victim, return_info=True)

    axis = np.linspace(0, 1, 1001)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    fooling = grid[grid @ [3, 1] > 3.3]
    expected = [
        np.linalg.norm(fooling - image.ravel(), ORDERS[norm], axis=1).min()
        for image in images
    ]
    # The grid is 0.001 fine.
    np.testing.assert_allclose(info.norm, expected, rtol=1e-2, atol=2e-3)


def agree_with_the_original(attack, network, kind):
    images, labels = digits()
    victim, targets = network, labels
    if kind == "t2":
        goals = ranked_goals(network(images), tf.constant(labels), 1)
        victim, targets = TargetedMargin(network), {"labels": labels, "goals": goals}
    epsilon = largest(attack.norm, images)

    _, info = attack(images, targets, victim, epsilon=epsilon, return_info=True)

    suite = golden("attacks_suite")
    name = f"fab_{NAMES[attack.norm]}_{kind}_n{attack.steps}_norand__"
    expected = suite[f"{name}norm"]
    off = np.abs(info.norm - expected) > 0.02 * expected
    assert off.mean() <= 0.02
    np.testing.assert_array_equal(info.success, suite[f"{name}misclassified"])


@pytest.mark.parametrize("norm", NORMS)
def test_agrees_with_the_original_of_autoattack(network, norm):
    agree_with_the_original(FAB(norm=norm, steps=20), network, "untargeted")


@pytest.mark.parametrize("norm", NORMS)
def test_agrees_with_the_targeted_original_of_autoattack(network, norm):
    agree_with_the_original(FAB(norm=norm), network, "t2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "steps"), [("t2", 5), ("t2", 20), ("untargeted", 5), ("untargeted", 100)]
)
@pytest.mark.parametrize("norm", NORMS)
def test_agrees_with_the_original_after_any_number_of_steps(network, norm, kind, steps):
    agree_with_the_original(FAB(norm=norm, steps=steps), network, kind)


def test_images_a_little_outside_the_box_are_searched_inside():
    victim = LinearLogits([[0, -1], [0, 0]], [0, 0.9])
    images = np.float32([1.00005, 0.5]).reshape([1, 1, 2, 1])

    adversarial, info = FAB(1.0, steps=10)(images, [0], victim, return_info=True)

    # 0.9 - x fools as soon as x < 0.9.
    assert info.success.numpy().all() and adversarial.numpy().max() <= 1
    np.testing.assert_allclose(info.norm, [0.1], rtol=1e-2)


def test_any_number_of_channels_and_any_rectangle():
    weights = np.zeros([3 * 5 * 2, 2])
    weights[:, 1] = np.linspace(1, 2, 30)
    victim = LinearLogits(weights, [0, -0.5 * weights.sum() - 0.3])
    images = np.full([2, 3, 5, 2], 0.5, np.float32)

    attack = FAB(1.0, norm="l2", steps=10)
    adversarial, info = attack(images, [0, 0], victim, return_info=True)

    expected = 0.3 / np.linalg.norm(weights[:, 1])
    np.testing.assert_allclose(info.norm, [expected] * 2, rtol=1e-2)
    assert adversarial.shape == images.shape


def test_with_two_classes_the_other_one_is_the_goal():
    images, _ = small_batch(8)
    victim = wheel(classes=2)
    labels = victim(images).numpy().argmax(axis=1)
    targets = {"labels": labels, "goals": 1 - labels}
    attack = FAB(1.0, steps=10)

    plain = attack(images, labels, victim)
    aimed = attack(images, targets, TargetedMargin(victim))

    np.testing.assert_allclose(plain, aimed, atol=1e-6)
    assert (plain != images).numpy().any(axis=(1, 2, 3)).all()


def test_classes_that_are_never_meant_are_left_out():
    def masked(images):
        logits = LinearLogits([[0, 1], [0, 1]], [0, -1.1])(images)
        return tf.concat([logits, tf.fill([tf.shape(logits)[0], 1], -np.inf)], axis=1)

    images = np.full([1, 1, 2, 1], 0.5, np.float32)

    _, info = FAB(1.0, steps=5)(images, [0], masked, return_info=True)

    # 0.1 is missing, of both pixels together.
    np.testing.assert_allclose(info.norm, [0.05], rtol=1e-2)


def test_pixels_without_a_finite_gradient_stay_and_the_others_move():
    def broken(images):
        rows = tf.reshape(images, [-1, 3])
        nothing = tf.sqrt(rows[:, 0] - rows[:, 0])  # Gradient infinity minus infinity.
        return tf.stack([nothing, rows[:, 1] + rows[:, 2] - 1.2], axis=1)

    images = np.full([1, 1, 3, 1], 0.5, np.float32)

    attack = FAB(1.0, norm="l2", steps=5)
    adversarial, info = attack(images, [0], broken, return_info=True)

    # 0.2 is missing, along (1, 1).
    assert info.success.numpy().all() and adversarial[0, 0, 0, 0] == 0.5
    np.testing.assert_allclose(info.norm, [0.1 * 2**0.5], rtol=1e-2)


def test_scale_of_the_logits_does_not_matter():
    images, _ = small_batch(8)
    victim, scale = wheel(), tf.Variable(1.0)
    labels = victim(images).numpy().argmax(axis=1)
    attack, norms = FAB(2.0, norm="l2", steps=5), []

    def scaled(images):
        return victim(images) * scale

    for factor in (1.0, 1e6, 1e-12, 1e-25):
        scale.assign(factor)
        norms.append(attack(images, labels, scaled, return_info=True)[1].norm)

    assert tf.reduce_min(norms) > 0
    for other in norms[1:]:
        np.testing.assert_allclose(other, norms[0], rtol=1e-3)


def test_the_objective_says_the_values_only():
    images, _ = small_batch(8)
    victim = wheel()
    labels = tf.argmax(victim(images), axis=1)
    attack, objective = FAB(1.0, steps=3), DLR(victim)

    adversarial, info = attack(images, labels, objective, return_info=True)

    np.testing.assert_array_equal(adversarial, attack(images, labels, victim))
    assert (adversarial != images).numpy().any()
    np.testing.assert_allclose(
        info.loss, objective(adversarial, labels), rtol=1e-3, atol=1e-5
    )


def test_without_targets_the_predictions_are_led_to_the_runners_up():
    images, _ = small_batch(8)
    victim = wheel()
    predicted = victim(images).numpy().argmax(axis=1)
    goals = ranked_goals(victim(images), tf.constant(predicted), 1)
    attack, objective = FAB(1.0, steps=3), TargetedDLR(victim)

    result = attack(images, None, objective)

    targets = {"labels": predicted, "goals": goals}
    np.testing.assert_array_equal(result, attack(images, targets, objective))
    assert (result != images).numpy().any(axis=(1, 2, 3)).all()


def test_config_round_trip_keeps_every_setting():
    attack = FAB(
        0.3,
        norm="l1",
        steps=7,
        max_pull=0.2,
        overshoot=1.5,
        backward=0.5,
        random_start=True,
        restarts=2,
        stop_when_fooled=True,
        seed=4,
        name="other",
    )

    config = tf.keras.saving.serialize_keras_object(attack)
    again = tf.keras.saving.deserialize_keras_object(config)

    assert type(again) is FAB and again.get_config() == attack.get_config()
    expected = {"steps": 7, "max_pull": 0.2, "overshoot": 1.5, "backward": 0.5}
    assert expected.items() <= again.get_config().items()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "`steps` must be a whole number.*Received: steps=0"),
        ({"max_pull": 1.1}, r"`max_pull` must be in \[0, 1\]. Received: max_pull=1.1"),
        ({"overshoot": 0.9}, "`overshoot` must be at least 1. Received: overshoot=0.9"),
        ({"overshoot": np.nan}, "`overshoot` must be.*Received: overshoot=nan"),
        ({"backward": 0}, "`backward` must be above 0 and at most 1.*backward=0"),
        ({"keep": "last"}, '`keep` must be "best".*Received: keep=last'),
        ({"precision": "bfloat16"}, '`precision` must be "float32".*=bfloat16'),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FAB(**options)


@pytest.mark.parametrize(
    ("objective", "targets"),
    [
        (Counting(LogitMargin(lambda x: x)), [0]),
        (Averaged(LogitMargin(lambda x: x)), [0]),
        (SoftCrossEntropy(lambda x: x), [[0.5, 0.5]]),
        (TargetedCrossEntropy(lambda x: x), [0]),
    ],
    ids=lambda each: type(each).__name__,
)
def test_objectives_without_logits_and_label_are_refused(objective, targets):
    message = f"`victim` must.*for FAB. Received: {type(objective).__name__}"
    with pytest.raises(TypeError, match=message):
        FAB()(tf.zeros([1, 1, 2, 1]), np.array(targets), objective)


def test_a_victim_without_gradient_is_refused():
    with pytest.raises(
        ValueError, match="`victim` must be differentiable.*LogitMargin"
    ):
        FAB()(tf.zeros([2, 1, 2, 1]), [0, 0], lambda x: tf.round(x)[:, 0, :, 0] * 0 + 1)
