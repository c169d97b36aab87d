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
from kerobust.randomness import example_keys
from tests.attacks.victims import (
    Counting,
    convnet,
    digits,
    golden,
    small_batch,
    small_network,
)

NORMS = sorted(BALLS)
NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}
ORDERS = {"linf": np.inf, "l2": 2, "l1": 1}
DUAL_ORDERS = {"linf": 1, "l2": 2, "l1": np.inf}
MEDIUM = {"linf": 0.19, "l2": 0.65, "l1": 1.25}  # Fools about half of the digits.


def largest(norm, images):
    """Returns the largest epsilon: minimum-norm attacks."""
    return BALLS[norm].largest(images[0].size)


class LinearLogits:
    """Maps images to x . W + b: boundaries are planes."""

    def __init__(self, weights, bias):
        self.weights, self.bias = np.float32(weights), np.float32(bias)

    def __call__(self, images):
        return tf.reshape(images, [-1, len(self.weights)]) @ self.weights + self.bias


def wheel(classes=3):
    """Returns a linear victim on [2, 2, 1] whose regions all meet at the grey image."""
    weights = np.random.default_rng(classes).normal(size=[4, classes])
    return LinearLogits(weights, -0.5 * weights.sum(axis=0))


class Counted:
    """Counts the calls of a victim, in the graph and when traced."""

    def __init__(self, victim):
        self.victim, self.forwards, self.traces = victim, tf.Variable(0), 0

    def __call__(self, images):
        self.traces += 1
        self.forwards.assign_add(1)
        return self.victim(images)


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
def test_agrees_with_the_original_of_autoattack(network, attacks, norm):
    agree_with_the_original(attacks[norm], network, "untargeted")


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


def test_images_a_little_outside_the_box_are_searched_inside():
    victim = LinearLogits([[0, -1], [0, 0]], [0, 0.9])
    images = np.float32([1.00005, 0.5]).reshape([1, 1, 2, 1])

    adversarial, info = FAB(1.0, steps=10)(images, [0], victim, return_info=True)

    # 0.9 - x fools as soon as x < 0.9.
    assert info.success.numpy().all() and adversarial.numpy().max() <= 1
    np.testing.assert_allclose(info.norm, [0.1], rtol=1e-2)


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
        {"seed": None, "restarts": 3},
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
