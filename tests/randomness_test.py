"""Tests of kerobust.randomness."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust import randomness
from kerobust.randomness import example_keys, exponential, fold_in, normal, uniform

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("key", "count", "expected"),
    [
        # The known answers published with Random123 (kat_vectors, threefry2x32, 20).
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((ONES, ONES), (ONES, ONES), (0x1CB996FC, 0xBB002BE7)),
        (
            (0x13198A2E, 0x03707344),
            (0x243F6A88, 0x85A308D3),
            (0xC4923A9C, 0x483DF7A0),
        ),
    ],
)
def test_threefry_gives_the_published_answers(key, count, expected):
    words = [tf.constant([word], tf.uint32) for word in (*key, *count)]

    result = randomness.threefry(*words)

    assert [int(word[0]) for word in result] == list(expected)


@pytest.mark.parametrize("draw", [uniform, normal, exponential])
def test_draws_depend_on_the_own_key_only(draw):
    keys = example_keys(3, 1, tf.range(10))
    order = np.random.default_rng(0).permutation(10)

    whole = draw(keys, [3, 5]).numpy()
    shuffled = draw(tf.gather(keys, order), [3, 5])
    alone = draw(keys[4:5], [3, 5])

    # Cosines of a vectorised and of a scalar loop may differ in the last bit.
    np.testing.assert_allclose(shuffled, whole[order], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(alone, whole[4:5], rtol=1e-5, atol=1e-6)
    assert len(np.unique(whole)) > 140


def test_draws_are_the_same_in_a_graph_and_for_an_unknown_batch():
    keys = example_keys(0, 0, tf.range(4))
    signature = [tf.TensorSpec([None, 2], tf.int32)]

    compiled = tf.function(lambda keys: uniform(keys, [7]), signature)

    np.testing.assert_array_equal(compiled(keys), uniform(keys, [7]))


def test_keys_differ_by_seed_epoch_id_and_purpose():
    base = example_keys(0, 0, [1, 2])

    others = [
        base,
        example_keys(1, 0, [1, 2]),
        example_keys(2**33, 0, [1, 2]),
        example_keys(0, 1, [1, 2]),
        example_keys(0, 0, [3, 4]),
        fold_in(base, 0),
        fold_in(base, 1),
        fold_in(base, "mask"),
        fold_in(base, "attack"),
    ]

    rows = np.concatenate([keys.numpy() for keys in others])
    assert len({tuple(row) for row in rows}) == len(rows)


def test_fold_in_takes_one_number_per_example():
    keys = example_keys(0, 0, [1, 2])

    folded = fold_in(keys, tf.constant([5, 6])).numpy()

    np.testing.assert_array_equal(folded[0], fold_in(keys, 5)[0])
    np.testing.assert_array_equal(folded[1], fold_in(keys, 6)[1])


def test_example_keys_take_ids_of_any_integer_type_and_a_symbolic_epoch():
    ids = np.arange(4)
    expected = example_keys(1, 2, tf.range(4))

    compiled = tf.function(lambda epoch: example_keys(1, epoch, ids.astype(np.int64)))

    np.testing.assert_array_equal(compiled(tf.constant(2, tf.int64)), expected)


@pytest.mark.parametrize(
    ("draw", "mean", "deviation"),
    [
        (lambda keys, shape: uniform(keys, shape, -1.0, 3.0), 1.0, 4 / 12**0.5),
        (normal, 0.0, 1.0),
        (exponential, 1.0, 1.0),
    ],
    ids=["uniform", "normal", "exponential"],
)
def test_moments_are_those_of_the_law(draw, mean, deviation):
    values = draw(example_keys(0, 0, tf.range(500)), [201]).numpy()

    # 100,500 draws: the standard error of the mean is deviation / 317.
    assert np.isfinite(values).all()
    assert abs(values.mean() - mean) < 4 * deviation / 317
    assert abs(values.std() / deviation - 1) < 0.02
    # Draws of one example do not follow each other, nor do those of its neighbours.
    centred = (values - mean) / deviation
    assert abs((centred[:, 1:] * centred[:, :-1]).mean()) < 4 / 317
    assert abs((centred[1:] * centred[:-1]).mean()) < 4 / 317


def test_ranges():
    keys = example_keys(0, 0, tf.range(1000))

    values = uniform(keys, [100]).numpy()

    # 24-bit fractions: 0 is possible, 1 is not.
    assert values.min() >= 0 and values.max() <= 1 - 2.0**-24
    assert values.min() < 1e-3 and values.max() > 1 - 1e-3
    assert exponential(keys, [100]).numpy().min() >= 0


@pytest.mark.parametrize("shape", [[], [1], [2, 3], [1, 1, 5]])
def test_shapes_of_one_example_follow_the_batch(shape):
    draws = uniform(example_keys(0, 0, tf.range(3)), shape)

    assert draws.shape == [3, *shape] and draws.dtype == tf.float32
