"""Tests of kerobust.attacks.objectives."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import (
    CosineDistance,
    CrossEntropy,
    FeatureDistance,
    LogitMargin,
    Objective,
    SoftCrossEntropy,
)
from kerobust.attacks.objectives import as_objective, infer
from tests.attacks.victims import small_batch, small_network

LOGITS = np.array([[1.0, 2.0, 0.0], [3.0, -1.0, 0.5]], np.float32)
LABELS = np.array([1, 1])


def fixed(outputs):
    """Returns a victim with the same outputs for all images."""
    return lambda images: tf.constant(outputs)


def values(objective, targets):
    return objective(tf.zeros([2, 1, 1, 1]), tf.constant(targets)).numpy()


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def test_cross_entropy_is_minus_the_log_probability_of_the_label():
    expected = -log_softmax(LOGITS)[[0, 1], LABELS]

    np.testing.assert_allclose(
        values(CrossEntropy(fixed(LOGITS)), LABELS), expected, rtol=1e-5
    )


def test_soft_cross_entropy_weighs_by_the_targets():
    targets = np.array([[0.5, 0.5, 0.0], [0.0, 0.2, 0.8]], np.float32)
    expected = -(targets * log_softmax(LOGITS)).sum(axis=1)

    result = values(SoftCrossEntropy(fixed(LOGITS)), targets)

    np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_margin_is_the_best_other_logit_minus_the_own():
    # 1 - 2 and 3 - (-1).
    np.testing.assert_allclose(values(LogitMargin(fixed(LOGITS)), LABELS), [-1, 4])


def test_feature_distance_is_the_mean_square_over_all_features():
    features = np.zeros([2, 2, 2], np.float32)
    targets = np.array([[[1, 1], [1, 1]], [[2, 0], [0, 0]]], np.float32)

    np.testing.assert_allclose(
        values(FeatureDistance(fixed(features)), targets), [1, 1]
    )


def test_cosine_distance_is_0_for_equal_and_2_for_opposite_directions():
    features = np.array([[1.0, 2.0], [1.0, 2.0]], np.float32)
    targets = np.array([[10.0, 20.0], [-3.0, -6.0]], np.float32)

    np.testing.assert_allclose(
        values(CosineDistance(fixed(features)), targets), [0, 2], atol=1e-6
    )


@pytest.mark.parametrize("kind", [CrossEntropy, LogitMargin])
def test_fooled_means_that_another_class_wins(kind):
    objective = kind(fixed(LOGITS))

    fooled = objective.fooled(tf.constant(LOGITS), tf.constant(LABELS))

    np.testing.assert_array_equal(fooled, [False, True])
    np.testing.assert_array_equal(objective.predictions(tf.constant(LOGITS)), [1, 0])


def test_soft_fooled_compares_with_the_likeliest_class():
    objective = SoftCrossEntropy(fixed(LOGITS))
    targets = tf.constant([[0.4, 0.6, 0.0], [0.4, 0.6, 0.0]])

    fooled = objective.fooled(tf.constant(LOGITS), targets)

    np.testing.assert_array_equal(fooled, [False, True])
    predicted = objective.predictions(tf.constant(LOGITS))
    np.testing.assert_array_equal(predicted, [[0, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize("kind", [FeatureDistance, CosineDistance])
def test_feature_objectives_have_no_success_and_no_predictions(kind):
    objective = kind(fixed(LOGITS))

    assert objective.fooled(tf.constant(LOGITS), tf.constant(LOGITS)) is None
    message = f"`targets` must be given.* Received: targets=None for {kind.__name__}"
    with pytest.raises(TypeError, match=message):
        objective.predictions(tf.constant(LOGITS))


def test_labels_of_shape_b_1_are_labels():
    column = values(CrossEntropy(fixed(LOGITS)), LABELS[:, np.newaxis])

    np.testing.assert_array_equal(column, values(CrossEntropy(fixed(LOGITS)), LABELS))


@pytest.mark.parametrize("targets", [np.eye(3)[LABELS], np.eye(3, dtype=int)[LABELS]])
@pytest.mark.parametrize("kind", [CrossEntropy, LogitMargin])
def test_one_hot_labels_are_sent_to_soft_cross_entropy(kind, targets):
    message = r"integer class indices.*SoftCrossEntropy\(victim\).*shape \(2, 3\)"
    with pytest.raises(ValueError, match=message):
        values(kind(fixed(LOGITS)), targets)


def test_float_labels_are_refused():
    with pytest.raises(ValueError, match="integer class indices.*dtype float32"):
        values(CrossEntropy(fixed(LOGITS)), LABELS.astype(np.float32))


def test_class_indices_are_sent_to_cross_entropy():
    with pytest.raises(ValueError, match="use CrossEntropy for class indices"):
        values(SoftCrossEntropy(fixed(LOGITS)), LABELS)


@pytest.mark.parametrize(
    "outputs", [LOGITS[:, 0], LOGITS[:, :, np.newaxis]], ids=["rank1", "rank3"]
)
def test_victims_without_logits_are_sent_to_objective(outputs):
    message = (
        r"logits of shape \[B, K\].*subclass `kerobust.attacks.Objective`.*outputs"
    )
    with pytest.raises(TypeError, match=message):
        values(CrossEntropy(fixed(outputs)), LABELS)


def test_victims_that_return_a_structure_are_refused():
    def structured(images):
        return {"logits": tf.constant(LOGITS)}

    with pytest.raises(TypeError, match="logits of shape.*Received: outputs=dict"):
        values(CrossEntropy(structured), LABELS)
    with pytest.raises(TypeError, match="one tensor of features.*outputs=dict"):
        values(FeatureDistance(structured), LABELS)


def test_victims_are_called_for_inference():
    network = small_network()  # Its dropout would show.
    images, _ = small_batch()
    expected = network(images, training=False)

    def needs_it(images, training):
        return network(images, training=training)

    for victim in (network, needs_it, functools.partial(network, training=False)):
        np.testing.assert_array_equal(infer(victim, images), expected)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_outputs_become_float32(dtype):
    outputs = infer(lambda images: {"a": tf.cast(images, dtype), "b": 3}, tf.ones([2]))

    assert outputs["a"].dtype == tf.float32 and outputs["b"] == 3


def test_an_objective_is_itself_and_callables_are_wrapped_once():
    class Owner:
        def predict(self, images):
            return images

    def function(images):
        return images

    owner, other, objective = Owner(), Owner(), Objective()

    assert as_objective(objective) is objective
    assert as_objective(function) is as_objective(function)
    assert as_objective(owner.predict) is as_objective(owner.predict)
    assert as_objective(owner.predict) is not as_objective(other.predict)
    assert isinstance(as_objective(function), CrossEntropy)


def test_victims_are_told_apart_by_identity_not_equality():
    class Equal:
        """Equal to all of its kind, and not hashable."""

        def __eq__(self, other):
            return True

        def __call__(self, images):
            return images

    first, second = Equal(), Equal()

    assert as_objective(first) is not as_objective(second)


def test_a_victim_must_be_callable():
    with pytest.raises(TypeError, match="`victim` must be an Objective or a callable"):
        as_objective(None)
