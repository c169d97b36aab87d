"""Weighted nearest neighbours against a loop over everything."""

import math

import numpy as np
import pytest

from kerobust.config import UserError
from kerobust.evaluation import knn_predict


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
