"""Tests of kerobust.attacks.msd."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import MSD, CrossEntropy, Objective, UnionBall
from kerobust.attacks.msd import RADII
from kerobust.randomness import example_keys
from tests.attacks.balls_test import slow_l1_box
from tests.attacks.victims import (
    Counting,
    Linear,
    convnet,
    digits,
    small_batch,
    small_network,
)

DIGITS = {"linf": 0.15, "l2": 0.6, "l1": 1.5}
SIZE = 6
SMALL = {"linf": 0.1, "l2": 0.2, "l1": 0.35}


class Quadratic(Objective):
    """x.A.x / 2 + b.x: its gradient turns as the image moves."""

    def __init__(self, matrix, bias):
        self.matrix, self.bias = np.float32(matrix), np.float32(bias)

    def outputs(self, images):
        return tf.reshape(images, [-1, SIZE])

    def values(self, outputs, targets):
        bent = tf.matmul(outputs, self.matrix) / 2.0 + self.bias
        return tf.reduce_sum(outputs * bent, axis=1)


def quadratic(seed=11):
    """Returns an objective with a symmetric matrix, and 12 images."""
    generator = np.random.default_rng(seed)
    matrix = generator.normal(size=[SIZE, SIZE]) * 8
    matrix = matrix + matrix.T
    bias = generator.normal(size=[SIZE]) - matrix.sum(axis=1) / 2  # Turns around grey.
    objective = Quadratic(matrix, bias)
    images = generator.uniform(0, 1, [12, SIZE])
    images[::3] = np.round(images[::3])  # On the border of the box.
    return objective, images.astype(np.float32)


def slow_msd(objective, image, count, steps, size):
    """Returns all points and the norms that won, of one image."""
    matrix, bias = np.float64(objective.matrix), np.float64(objective.bias)

    def value(x):
        return x @ matrix @ x / 2 + bias @ x

    image = np.float64(image)
    points, winners = [image], []
    for _ in range(steps):
        x = points[-1]
        gradient = matrix @ x + bias
        free = ((gradient < 0) & (x > 0)) | ((gradient > 0) & (x < 1))
        largest = np.argsort(-np.abs(gradient) * free)[: min(count, free.sum())]
        sparse = np.zeros(SIZE)
        sparse[largest] = np.sign(gradient[largest]) / max(len(largest), 1)
        unit = gradient / np.linalg.norm(gradient)
        moved = {
            norm: x - image + size * SMALL[norm] * direction
            for norm, direction in (
                ("linf", np.sign(gradient)),
                ("l2", unit),
                ("l1", sparse),
            )
        }
        moved["linf"] = np.clip(moved["linf"], -SMALL["linf"], SMALL["linf"])
        moved["l2"] *= min(1, SMALL["l2"] / np.linalg.norm(moved["l2"]))
        moved["l1"] = slow_l1_box(moved["l1"], SMALL["l1"], -image, 1 - image)
        ahead = {norm: np.clip(image + each, 0, 1) for norm, each in moved.items()}
        winners.append(max(ahead, key=lambda norm: value(ahead[norm])))
        points.append(ahead[winners[-1]])
    return np.array(points), winners


@pytest.mark.parametrize(
    ("weights", "gain"),
    [
        # Radius times dual norm, 0.1 |w|_1, 0.2 |w|_2 and 0.35 max |w|:
        ([1.0, -1.0, 1.0, -1.0, 1.0, 1.0], 0.6),  # 0.6, 0.49, 0.35
        ([3.0, -3.0, 1.0, 0.0, 0.0, 1.0], 0.2 * 20**0.5),  # 0.8, 0.89, 1.05
        ([2.0, -2.0, 2.0, 1.0, 0.0, 0.0], 0.2 * 13**0.5),  # 0.7, 0.721, 0.7
        ([5.0, 0.5, 0.5, 0.0, 0.0, 0.0], 1.75),  # 0.6, 1.01, 1.75
    ],
)
def test_reaches_the_largest_maximum_of_the_balls(weights, gain):
    images = tf.fill([2, 1, SIZE, 1], 0.5)
    gain = max(gain, 0.35 * max(weights))
    attack = MSD(SMALL, steps=20, counts=(1, 1))

    _, info = attack(images, tf.zeros([2]), Linear(weights), return_info=True)

    np.testing.assert_allclose(info.loss - 0.5 * np.sum(weights), gain, atol=1e-5)
    np.testing.assert_allclose(info.norm, 1.0, rtol=1e-5)


def test_it_follows_a_slow_search_that_changes_balls_and_never_leaves_the_union():
    objective, images = quadratic()
    shaped = tf.reshape(images, [12, 1, SIZE, 1])
    steps, size, count = 8, 0.4, 2
    sizes = {norm: size * radius for norm, radius in SMALL.items()}
    attack = MSD(SMALL, steps=steps, step_sizes=sizes, counts=(count, count))

    adversarial, info = attack(shaped, tf.zeros([12]), objective, return_info=True)

    searches = [slow_msd(objective, image, count, steps, size) for image in images]
    points = np.stack([search[0] for search in searches])  # [12, steps + 1, SIZE]
    values = np.einsum("bij,jk,bik->bi", points, objective.matrix, points) / 2
    values += points @ objective.bias
    best = np.argmax(values, axis=1)
    expected = points[np.arange(12), best]
    np.testing.assert_allclose(tf.reshape(adversarial, [12, SIZE]), expected, atol=1e-4)
    np.testing.assert_allclose(info.loss, values.max(axis=1), rtol=1e-4)
    # One delta is projected on three balls: the search went from one to another and
    # out of the first, but each point lies in the ball of the norm that won.
    change = points - images[:, None]
    norms = np.stack(
        [
            np.abs(change).max(axis=2) / SMALL["linf"],
            np.linalg.norm(change, axis=2) / SMALL["l2"],
            np.abs(change).sum(axis=2) / SMALL["l1"],
        ]
    )
    winners = np.array([search[1] for search in searches])
    for index, norm in enumerate(SMALL):
        won = winners == norm
        assert won.any() and (norms[index][:, 1:][won] <= 1 + 1e-6).all()
        assert norms[index].max() > 1.1
    assert sum(len(set(row)) > 1 for row in winners) >= 4
    assert norms.min(axis=0).max() <= 1 + 1e-6
    assert (info.norm <= 1 + 1e-5).numpy().all()


def test_every_point_of_a_search_lies_in_the_union_though_it_leaves_balls():
    images, labels = digits(40)
    network, ball, images = convnet(), UnionBall(DIGITS), tf.constant(images)
    attack = MSD(DIGITS, steps=12, step_sizes={p: r / 4 for p, r in DIGITS.items()})
    given = {
        "targets": tf.constant(labels, tf.int32),
        "keys": example_keys(0, 0, tf.range(40)),
        "length": tf.ones([40, 1, 1, 1]),
        "rooms": ball.rooms(images, tf.ones([40])),
    }
    objective = CrossEntropy(network)

    inside, point = [], images
    for index in range(12):
        point = attack._step(index, given, point, objective).images
        inside.append(ball._norms(point - images).numpy() <= 1 + 1e-5)

    inside = np.stack(inside)  # [steps, norms, examples]
    assert inside.any(axis=1).all()
    left = inside[:-1] & ~inside[1:]
    assert left.any(axis=(0, 2)).all()  # Every ball was left by some example.


def test_keep_last_returns_the_end_and_best_the_best_of_the_search():
    objective, images = quadratic()
    shaped = tf.reshape(images, [12, 1, SIZE, 1])
    options = {"steps": 8, "step_sizes": {p: 0.4 * r for p, r in SMALL.items()}}
    options["counts"] = (2, 2)

    last = MSD(SMALL, keep="last", **options)(shaped, tf.zeros([12]), objective)
    best = MSD(SMALL, **options)(shaped, tf.zeros([12]), objective)

    expected = [slow_msd(objective, image, 2, 8, 0.4)[0][-1] for image in images]
    np.testing.assert_allclose(tf.reshape(last, [12, SIZE]), expected, atol=1e-4)
    values = [objective(each, None).numpy() for each in (last, best)]
    assert (values[1] >= values[0] - 1e-5).all() and (values[1] > values[0]).any()
    assert MSD().keep == "best"


def test_an_l1_step_moves_a_number_of_coordinates_drawn_from_the_range():
    weights = np.linspace(1.0, 2.0, 30).astype(np.float32)
    images = tf.fill([400, 1, 30, 1], 0.5)
    attack = MSD({"l1": 1.0}, steps=1, step_sizes={"l1": 0.5}, counts=(3, 6), seed=0)

    change = attack(images, tf.zeros([400]), Linear(weights)) - images

    moved = tf.math.count_nonzero(change, axis=[1, 2, 3]).numpy()
    # 100 each, with a standard deviation of 8.7.
    assert np.bincount(moved).tolist()[:3] == [0, 0, 0]
    assert (np.abs(np.bincount(moved)[3:] - 100) < 35).all() and moved.max() == 6
    np.testing.assert_allclose(tf.reduce_sum(change, axis=[1, 2, 3]), 0.5, rtol=1e-5)


def test_each_step_draws_anew():
    weights = np.linspace(1.0, 2.0, 30).astype(np.float32)
    images = tf.fill([50, 1, 30, 1], 0.5)
    sizes = {"l1": 0.5}
    options = {"step_sizes": sizes, "counts": (1, 12), "seed": 0, "keep": "last"}

    one, two = (
        MSD({"l1": 1.0}, steps=steps, **options)(
            images, tf.zeros([50]), Linear(weights)
        )
        for steps in (1, 2)
    )

    first = tf.math.count_nonzero(one - images, axis=[1, 2, 3]).numpy()
    # The second step adds to more coordinates only if it has more than the first one.
    both = tf.math.count_nonzero(two - images, axis=[1, 2, 3]).numpy()
    assert (both >= first).all() and 10 < (both > first).sum() < 40


@pytest.mark.parametrize(("steps", "full"), [(3, 1), (12, 3), (28, 6)])
def test_the_default_step_is_five_radii_over_the_steps(steps, full):
    images = tf.fill([2, 1, SIZE, 1], 0.5)
    attack = MSD(SMALL, steps=steps)

    _, info = attack(
        images,
        tf.zeros([2]),
        Linear(np.ones(SIZE)),
        epsilon=[1.0, 0.5],
        return_info=True,
    )

    # At most the radius; steps of 5 / 12 and 5 / 28 fill the ball in three and in six,
    # whatever epsilon is. Then nothing can be gained.
    np.testing.assert_array_equal(info.steps_used, [full, full])


def test_step_sizes_are_lengths_at_epsilon_1():
    images = tf.fill([2, 1, SIZE, 1], 0.5)
    attack = MSD({"linf": 0.1}, steps=50, step_sizes={"linf": 0.001})

    for given, factor in (({}, 1), ({"epsilon": 0.5}, 0.5), ({"step_size": 1.5}, 1.5)):
        point = attack(images, tf.zeros([2]), Linear(np.ones(SIZE)), **given)

        expected = np.full([2, 1, SIZE, 1], 0.05 * factor)
        np.testing.assert_allclose(point - images, expected, atol=1e-5)


def test_nothing_comparable_leaves_the_search_where_it_is():
    class Hopeless(Objective):
        """A gradient of 1 at the images, and no number anywhere else."""

        def outputs(self, images):
            return images[:, 0, 0, 0]

        def values(self, outputs, targets):
            return tf.where(outputs == 0.5, outputs, np.nan)

    images = tf.fill([2, 1, SIZE, 1], 0.5)

    for keep in ("last", "best"):
        attack = MSD(SMALL, steps=3, keep=keep)
        adversarial = attack(images, tf.zeros([2]), Hopeless())
        np.testing.assert_array_equal(adversarial, images)


def test_it_stops_at_the_first_point_that_fools():
    images, labels = digits(40)
    network, keys = convnet(), example_keys(0, 0, tf.range(40))
    wrong = network(images).numpy().argmax(axis=1) != labels
    attacks = [MSD(DIGITS, steps=10, stop_when_fooled=stop) for stop in (False, True)]

    (_, usual), (adversarial, info) = (
        attack(images, labels, network, keys=keys, return_info=True)
        for attack in attacks
    )

    np.testing.assert_array_equal(info.success, usual.success)
    success = info.success.numpy()
    assert wrong.sum() < success.sum() < 40 and (info.norm <= 1 + 1e-5).numpy().all()
    assert (info.steps_used <= usual.steps_used).numpy()[success].all()
    assert (info.steps_used < usual.steps_used).numpy()[success].any()
    np.testing.assert_array_equal(success & (info.steps_used.numpy() == 0), wrong)
    logits = network(adversarial).numpy()
    np.testing.assert_array_equal(logits.argmax(axis=1) != labels, success)


@pytest.mark.parametrize(("keep", "extra"), [("best", 1), ("last", 0)])
def test_a_step_costs_one_gradient_and_one_look_per_norm(keep, extra):
    images, labels = small_batch()
    victim = Counting(CrossEntropy(small_network()))
    attack = MSD({"linf": 0.1, "l2": 0.2, "l1": 0.3}, steps=7, keep=keep)

    attack(images, labels, victim)
    traces = victim.traces
    attack(images[:3], labels[:3], victim, epsilon=0.5)

    assert int(victim.forwards) == 2 * (7 * (1 + 3) + extra)
    assert victim.traces == traces == 4 + extra


def test_a_search_in_bfloat16_is_judged_in_float32():
    images, labels = digits(16)
    network = convnet()
    attack = MSD(DIGITS, steps=4, precision="bfloat16", seed=0)

    adversarial, info = attack(images, labels, network, return_info=True)

    labels = tf.constant(labels, tf.int32)
    loss = CrossEntropy(network)(adversarial, labels)
    np.testing.assert_allclose(info.loss, loss, rtol=1e-5, atol=1e-6)
    assert info.success.numpy().any() and (info.norm <= 1 + 1e-5).numpy().all()


def test_msd_comes_back_from_its_config():
    attack = MSD(
        {"Linf": 0.1, 2: 0.5},
        epsilon=0.8,
        steps=7,
        step_sizes={"l2": 0.05, np.inf: 0.01},
        counts=(2, 3),
        random_start=True,
        restarts=2,
        seed=4,
        name="mine",
    )

    packed = tf.keras.saving.serialize_keras_object(attack)
    again = tf.keras.saving.deserialize_keras_object(packed)

    config = again.get_config()
    assert type(again) is MSD and config == attack.get_config()
    assert config["radii"] == {"linf": 0.1, "l2": 0.5} and "norm" not in config
    assert config["step_sizes"] == {"l2": 0.05, "linf": 0.01}
    assert config["restarts"] == 2 and again.norm == "union"
    plain = MSD.from_config(MSD().get_config()).get_config()
    assert plain["radii"] == dict(RADII) and plain["step_sizes"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radii": {}}, "`radii` must map at least one norm"),
        ({"steps": 0}, "`steps` must be a whole number of at least 1"),
        ({"counts": (0, 3)}, "`counts` must be a whole number of at least 1"),
        ({"counts": (4, 3)}, r"`counts` must be the fewest.*counts=\(4, 3\)"),
        ({"counts": (4,)}, r"`counts` must be the fewest.*counts=\(4,\)"),
        ({"step_sizes": {"l2": 0.1}}, "`step_sizes` must name the norms of `radii`"),
        ({"step_sizes": {"l2": -0.1}}, "`step_sizes` must be at least 0"),
        ({"epsilon": -1.0}, "`epsilon` must be at least 0"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MSD(**options)
