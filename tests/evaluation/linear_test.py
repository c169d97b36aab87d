"""The linear probe: optimality, closed forms, invariances."""

import numpy as np
import pytest

from kerobust.config import UserError
from kerobust.evaluation import fit_linear


def make_problem(examples=300, width=12, classes=5, noise=1.0):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, examples)
    centres = generator.normal(size=(classes, width))
    features = centres[labels] + noise * generator.normal(size=(examples, width))
    return features.astype(np.float32), labels


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_separable_classes_are_separated():
    features = np.array([[0.0, 1.0], [0.2, 0.8], [1.0, 0.1], [0.9, 0.0]])
    labels = np.array([0, 0, 1, 1])

    kernel, bias = fit_linear(features, labels, 2)

    assert (kernel.shape, bias.shape) == ((2, 2), (2,))
    assert kernel.dtype == bias.dtype == np.float32
    assert np.argmax(features @ kernel + bias, 1).tolist() == labels.tolist()


def test_the_gradient_vanishes_at_the_result():
    features, labels = make_problem()
    mean, deviation = features.mean(0), features.std(0)

    kernel, bias = fit_linear(features, labels, 5, l2=0.01)

    # In standardised units w = kernel * deviation: X^T (p - y) / n + l2 w = 0, and the
    # free bias makes the average probabilities equal to the class frequencies.
    error = softmax(features @ kernel + bias) - np.eye(5)[labels]
    scaled = (features - mean) / deviation
    gradient = scaled.T @ error / len(labels) + 0.01 * kernel * deviation[:, np.newaxis]
    np.testing.assert_allclose(gradient, 0.0, atol=2e-6)
    np.testing.assert_allclose(error.mean(axis=0), 0.0, atol=2e-6)


def test_without_information_the_bias_holds_the_log_frequencies():
    kernel, bias = fit_linear(np.ones([10, 3]), [0] * 7 + [1] * 2 + [2], 3)

    np.testing.assert_array_equal(kernel, 0.0)
    np.testing.assert_allclose(softmax(bias[np.newaxis])[0], [0.7, 0.2, 0.1], atol=1e-5)


def test_order_shift_and_scale_of_features_do_not_matter():
    features, labels = make_problem()
    order = np.random.default_rng(1).permutation(len(labels))
    changed = 100.0 * features[order] + 7.0

    kernel, bias = fit_linear(features, labels, 5)
    other_kernel, other_bias = fit_linear(changed, labels[order], 5)

    expected = (features @ kernel + bias)[order]
    np.testing.assert_allclose(changed @ other_kernel + other_bias, expected, atol=2e-3)


def test_two_calls_agree_bit_for_bit():
    features, labels = make_problem()

    first, second = (fit_linear(features, labels, 5) for _ in range(2))

    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_shuffled_labels_drop_accuracy_to_chance():
    features, labels = make_problem(examples=2000, noise=0.5)
    shuffled = np.random.default_rng(2).permutation(labels[:1000])

    def accuracy(train_labels):
        kernel, bias = fit_linear(features[:1000], train_labels, 5)
        predictions = np.argmax(features[1000:] @ kernel + bias, axis=1)
        return np.mean(predictions == labels[1000:])

    assert accuracy(labels[:1000]) > 0.9
    assert 0.1 < accuracy(shuffled) < 0.3


def test_it_converges_for_more_features_than_examples():
    features = np.random.default_rng(0).normal(size=(60, 256))
    labels = np.arange(60) % 10

    kernel, bias = fit_linear(features, labels, 10)

    assert np.argmax(features @ kernel + bias, 1).tolist() == labels.tolist()


def test_too_few_steps_are_an_error_not_a_result():
    features, labels = make_problem()

    with pytest.raises(RuntimeError, match="Received: steps=1, gradient=.*Raise steps"):
        fit_linear(features, labels, 5, steps=1)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"labels": [0, 5]}, r"must lie in \[0, 1\].*labels from 0 to 5"),
        ({"labels": [0]}, r"features of shape \(2, 2\), labels of \(1,\)"),
        ({"num_classes": 1}, "Received: num_classes=1"),
        ({"l2": 0.0}, "Received: num_classes=2, l2=0.0"),
        ({"features": [[0.0, np.nan], [1.0, 0.0]]}, "must be finite"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"features": np.eye(2), "labels": [0, 1], "num_classes": 2}

    with pytest.raises(UserError, match=message):
        fit_linear(**{**arguments, **change})
