"""Weighted nearest neighbours against a loop over everything."""

import math

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.evaluation import knn_predict
from kerobust.evaluation.knn import knn_votes
from tests.goldens.closed_form import checks
from tests.models.filled import formula

GOLDEN = "dino_deacl_knn.json"
SHA256 = "99a1af9f0061944cca372ad9004a650b1320ff8e1191a6890cdf04fe4e46db58"


def slow_knn(bank, labels, queries, k, temperature, num_classes):
    """Votes one neighbour at a time, in float64."""
    found = []
    for query in queries:
        cosines = [
            float(row @ query) / math.sqrt(float(row @ row) * float(query @ query))
            for row in bank
        ]
        nearest = sorted(range(len(bank)), key=lambda i: -cosines[i])[:k]
        votes = [0.0] * num_classes
        for index in nearest:
            votes[labels[index]] += math.exp(cosines[index] / temperature)
        found.append(votes.index(max(votes)))
    return found


@pytest.mark.parametrize("k, temperature", [(1, 0.07), (20, 0.07), (7, 1.0), (90, 0.5)])
def test_predictions_match_the_slow_oracle(k, temperature):
    generator = np.random.default_rng(k)
    bank, queries = generator.normal(size=(90, 6)), generator.normal(size=(50, 6))
    labels = generator.integers(0, 4, 90)

    found = knn_predict(bank, labels, queries, k, temperature, 4)

    assert found.dtype == np.int32
    assert found.tolist() == slow_knn(bank, labels, queries, k, temperature, 4)


def test_neighbours_votes_and_predictions_are_those_of_the_original_code():
    golden = checks(GOLDEN, SHA256)["D7_knn"]  # k = 4, T = .07, label = i mod 3
    bank, queries = (formula(golden["inputs"][name]) for name in ("train", "test"))
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    labels, expected = np.arange(12) % 3, golden["expected"]

    bank, queries = bank.astype(np.float32), queries.astype(np.float32)
    given = (bank, np.eye(3, dtype=np.float32)[labels], queries)
    index, votes = knn_votes(*given, k=4, temperature=0.07)

    np.testing.assert_array_equal(index, expected["topk_idx"])
    # The original does not divide by the weight of the nearest: compare shares.
    original = np.reshape(expected["votes"], [4, 3])
    shares = votes / tf.reduce_sum(votes, axis=1, keepdims=True)
    np.testing.assert_allclose(
        shares, original / original.sum(axis=1, keepdims=True), rtol=1e-4
    )
    predicted = knn_predict(bank, labels, queries, 4, 0.07)
    assert predicted.tolist() == expected["pred"]


@pytest.mark.parametrize("size", [1, 3])
def test_few_queries_and_more_neighbours_than_the_bank_are_no_trouble(size):
    bank, labels = np.eye(3), [0, 1, 1]

    found = knn_predict(bank, labels, np.eye(3)[:size], k=200)

    assert found.tolist() == [0, 1, 1][:size]


def test_close_neighbours_outvote_many_distant_ones_only_at_low_temperature():
    bank = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    query = np.array([[1.0, 0.0]])

    # Class 0 has weight e^(1/T), class 1 has 2 e^0: equal at T = 1 / ln 2 = 1.44.
    assert knn_predict(bank, [0, 1, 1], query, 3, temperature=1.3) == [0]
    assert knn_predict(bank, [0, 1, 1], query, 3, temperature=1.6) == [1]


def test_neither_order_of_the_bank_nor_length_of_features_matters():
    generator = np.random.default_rng(0)
    bank, queries = generator.normal(size=(60, 5)), generator.normal(size=(1500, 5))
    labels = generator.integers(0, 3, 60)
    order, lengths = generator.permutation(60), generator.uniform(0.1, 9, (60, 1))

    found = knn_predict(bank, labels, queries)
    other = knn_predict((bank * lengths)[order], labels[order], queries)

    np.testing.assert_array_equal(found, other)
    assert len(found) == 1500  # More than one chunk.


def test_shuffled_labels_drop_accuracy_to_chance():
    generator = np.random.default_rng(0)
    labels, truth = generator.integers(0, 10, (2, 1000))
    centres = 3 * generator.normal(size=(10, 16))
    bank = centres[labels] + generator.normal(size=(1000, 16))
    queries = centres[truth] + generator.normal(size=(1000, 16))

    right = np.mean(knn_predict(bank, labels, queries) == truth)
    wrong = np.mean(knn_predict(bank, generator.permutation(labels), queries) == truth)

    assert right > 0.95
    assert wrong < 0.25  # .1 on average; queries of a class share their neighbours.


def test_extreme_temperature_does_not_overflow():
    found = knn_predict(np.eye(3), [0, 1, 2], np.eye(3), temperature=1e-4)

    assert found.tolist() == [0, 1, 2]


def test_no_queries_give_no_predictions():
    assert knn_predict(np.eye(2), [0, 1], np.zeros([0, 2])).shape == (0,)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"k": 0}, "Received: k=0, temperature=0.07"),
        ({"temperature": 0.0}, "Received: k=20, temperature=0.0"),
        ({"bank_labels": [0, -1]}, r"must lie in \[0, 0\].*labels from -1 to 0"),
        ({"bank_labels": [0]}, r"bank of shape \(2, 2\), labels of \(1,\)"),
        ({"num_classes": 1}, r"must lie in \[0, 0\].*labels from 0 to 1"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"bank": np.eye(2), "bank_labels": [0, 1], "queries": np.eye(2)}

    with pytest.raises(UserError, match=message):
        knn_predict(**{**arguments, **change})
