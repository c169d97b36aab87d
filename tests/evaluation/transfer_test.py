"""Transfer between models: closed forms of linear victims, bookkeeping, refusals."""

import json

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import FGSM, PGD
from kerobust.config import UserError
from kerobust.evaluation import TransferMatrix, transfer_matrix

# Two tasks that share no direction, and one halfway between them.
FIRST = np.float32([1, 1, 0, 0])
SECOND = np.float32([0, 0, 1, -1])
EPSILON = 0.1


class Linear(tf.keras.Model):
    """Two classes, told apart by the sign of w.(x - 0.5)."""

    def __init__(self, weights):
        super().__init__()
        self.kernel = tf.Variable(weights)

    def call(self, images):
        score = tf.linalg.matvec(tf.reshape(images, [-1, 4]) - 0.5, self.kernel)
        return tf.stack([-score, score], axis=1)


@pytest.fixture(scope="module")
def models():
    return {
        "first": Linear(FIRST),
        "parallel": Linear(3 * FIRST),
        "orthogonal": Linear(SECOND),
        "between": Linear(FIRST + SECOND),
    }


@pytest.fixture(scope="module")
def data():
    """Returns images and labels that the first task and half the second explain."""
    generator = np.random.default_rng(0)
    images = generator.uniform(0.3, 0.7, [60, 2, 2, 1]).astype(np.float32)
    return images, ((images.reshape(60, 4) - 0.5) @ FIRST > 0).astype(int)


@pytest.fixture(scope="module")
def found(models, data):
    surrogates = {name: models[name] for name in ("first", "orthogonal")}
    # Attacks on it help the other victims, but not with what they have wrong as it is.
    surrogates["opposite"] = Linear(-FIRST)
    return transfer_matrix(FGSM(EPSILON, norm="l2"), surrogates, models, *data)


def test_linear_models_transfer_as_far_as_their_weights_agree(found, models, data):
    images, labels = data
    change, signs = images.reshape(60, 4) - 0.5, 2 * labels - 1

    assert found.surrogates == ("first", "orthogonal", "opposite")
    assert found.victims == ("first", "parallel", "orthogonal", "between")
    for row, surrogate in enumerate(found.surrogates):
        weights = {"first": FIRST, "orthogonal": SECOND, "opposite": -FIRST}[surrogate]
        direction = weights / np.linalg.norm(weights)
        for column, victim in enumerate(found.victims):
            weights = models[victim].kernel.numpy()
            margin = signs * (change @ weights)
            # A step of epsilon along w costs a victim v epsilon v.w / |w|.
            left = margin - EPSILON * weights @ direction
            expected = (margin > 0) & (left > 0)
            np.testing.assert_array_equal(found.robust[row, column], expected)
            np.testing.assert_array_equal(found.clean[column], margin > 0)
    helped = (margin < 0) & (left > 0)
    assert helped.any() and not found.robust[2, 3, helped].any()


def test_parallel_models_fall_alike_and_orthogonal_ones_not_at_all(found):
    np.testing.assert_array_equal(found.robust[0, 1], found.robust[0, 0])
    assert 0 < found.success[0, 0] < 1
    assert found.success[0, 2] == found.success[1, 0] == 0
    assert 0 < found.success[0, 3] < found.success[0, 0]
    np.testing.assert_array_equal(found.accuracy[0, 2], found.clean_accuracy[2])


def test_success_is_counted_among_what_the_victim_has_right(found):
    right, robust = found.clean[2].sum(), found.robust[1, 2].sum()

    assert 0 < robust < right < 60
    assert found.success[1, 2] == pytest.approx(1 - robust / right)
    assert found.accuracy[1, 2] == pytest.approx(robust / 60)
    assert found.clean_accuracy[2] == pytest.approx(right / 60)


def test_white_box_means_the_same_object_or_the_same_name(models, data):
    surrogates = {"one": models["first"], "between": Linear(FIRST)}
    victims = {"first": models["first"], "between": models["between"]}

    found = transfer_matrix(FGSM(EPSILON), surrogates, victims, *data)

    np.testing.assert_array_equal(found.white_box, [[True, False], [False, True]])


def test_each_surrogate_is_attacked_once_per_batch_with_the_keys_of_the_rows(
    models, data
):
    calls = []

    class Recorder(PGD):
        def __call__(self, images, labels, victim, **options):
            calls.append((victim, len(images)))
            return super().__call__(images, labels, victim, **options)

    surrogates = {name: models[name] for name in ("first", "between")}
    attack = Recorder(0.3, steps=1, step_size=0.02)

    parts = transfer_matrix(attack, surrogates, models, *data, batch_size=25, seed=3)
    whole = transfer_matrix(attack, surrogates, models, *data, seed=3)
    other = transfer_matrix(attack, surrogates, models, *data, seed=4)

    first, between = surrogates.values()
    expected = [(model, size) for size in (25, 25, 10) for model in (first, between)]
    assert calls[:6] == expected and len(calls) == 6 + 2 + 2
    np.testing.assert_array_equal(parts.robust, whole.robust)
    np.testing.assert_array_equal(parts.clean, whole.clean)
    assert (other.robust != whole.robust).any()


def test_a_victim_must_withstand_what_every_start_made(models, data):
    attack = PGD(0.2, steps=1, step_size=0.02)  # The start decides.
    surrogates = {"first": models["first"]}

    once, often = (
        transfer_matrix(attack, surrogates, models, *data, restarts=count)
        for count in (1, 8)
    )

    assert not (often.robust & ~once.robust).any()
    assert often.robust.sum() < once.robust.sum()
    np.testing.assert_array_equal(often.clean, once.clean)


def small_matrix():
    """Returns one surrogate and two victims, the second of them always wrong."""
    clean = np.array([[True, True, True, False], [False] * 4])
    robust = np.array([[[True, False, False, False], [False] * 4]])
    return TransferMatrix(
        ("a",), ("a", "b|c"), clean, robust, np.array([[True, False]])
    )


def test_a_victim_that_is_always_wrong_has_no_success_rate():
    found = small_matrix()

    assert found.success[0, 0] == pytest.approx(2 / 3) and np.isnan(found.success[0, 1])
    assert found.to_dict()["success"]["a"]["b|c"] is None


def test_result_is_json(found):
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))

    assert again["natural"]["between"]["total"] == 60
    cell = again["robust"]["first"]["between"]
    assert cell["correct"] == sum(again["examples"]["robust"]["first"]["between"])
    assert again["examples"]["clean"]["first"] == found.clean[0].astype(int).tolist()
    assert again["success"]["first"]["orthogonal"] == 0.0
    assert again["white_box"]["first"] == {
        "first": True,
        "parallel": False,
        "orthogonal": False,
        "between": False,
    }


def test_table_shows_accuracies_success_rates_and_white_boxes():
    lines = small_matrix().table().splitlines()

    cells = [[cell.strip(" |") for cell in line.split(" | ")] for line in lines]
    assert cells[0] == ["made on", "a %", r"b\|c %"]
    assert cells[2] == ["(clean)", "75.0", "0.0"]
    assert cells[3] == ["a", "25.0 (66.7) *", "0.0 (-)"]


def test_what_makes_no_matrix_is_refused(models, data):
    images, labels = data
    given = {"images": images, "labels": labels, "surrogates": models}
    given |= {"victims": models, "attack": FGSM(0.1)}
    for name, empty in (
        ("surrogates", {}),
        ("victims", {}),
        ("images", images[:0]),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must hold at least one"):
            transfer_matrix(**{**given, name: empty})
    with pytest.raises(ValueError, match="`batch_size` must be a whole number"):
        transfer_matrix(**given, batch_size=0)
    broken = {"nan": lambda images: images[:, 0, :, 0] * np.nan}
    with pytest.raises(UserError, match="`model` must return finite logits"):
        transfer_matrix(**{**given, "victims": broken})
