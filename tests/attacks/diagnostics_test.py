"""Tests of kerobust.attacks.diagnostics: arguments, order, cost, side effects.

What is found in which victim is tested in masking_test.py.
"""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import diagnostics
from kerobust.attacks.diagnostics import Finding, MaskingError, diagnose
from tests.attacks.victims import convnet, digits, small_batch, small_network


def constant(images):
    """Returns probabilities without any path to the images: three findings' worth."""
    return tf.tile([[0.7, 0.2, 0.1]], [len(images), 1])


def test_findings_come_worst_first():
    found = diagnose(constant, *small_batch(12), 8.0)

    assert [(each.severity, each.code) for each in found] == [
        ("error", "epsilon-unit-slip"),
        ("error", "non-differentiable"),
        ("warning", "probabilities"),
    ]
    assert all(isinstance(each, Finding) and each.advice for each in found)


def test_strict_raises_with_all_findings_in_the_text():
    with pytest.raises(
        MaskingError, match=r"(?s)error\] non-diff.*warning\] prob"
    ) as e:
        diagnose(constant, *small_batch(12), 0.1, strict=True)

    codes = [each.code for each in e.value.findings]
    assert codes == ["non-differentiable", "probabilities"]


def test_strict_returns_when_nothing_is_worse_than_information():
    def blocked(images):
        return tf.math.log(constant(images))

    images, labels = small_batch(4)

    with pytest.raises(MaskingError) as error:
        diagnose(blocked, images, labels, 0.1, strict=True)

    # The information is not part of the complaint.
    assert [each.code for each in error.value.findings] == ["non-differentiable"]
    assert "log-probabilities" in [
        each.code for each in diagnose(blocked, images, labels, 0.1)
    ]


def test_the_same_seed_finds_the_same():
    network = convnet()
    calls = [diagnose(lambda x: 20 * network(x), *digits(32), 0.2) for _ in range(2)]

    assert calls[0] == calls[1] and calls[0]


def test_nothing_of_the_victim_changes():
    network = small_network()
    before = [variable.numpy() for variable in network.variables]

    diagnose(network, *small_batch(), 0.1)

    for variable, value in zip(network.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_model_that_keras_has_not_built_is_built():
    layers = [tf.keras.layers.Flatten(), tf.keras.layers.Dense(3)]
    lazy = tf.keras.Sequential([*layers, tf.keras.layers.Lambda(tf.stop_gradient)])

    found = diagnose(lazy, *small_batch(12), 0.1)

    assert [each.code for each in found] == ["non-differentiable"]


def test_a_counter_in_the_victim_is_no_sign_of_training_and_is_set_back():
    class Counted(tf.Module):
        def __init__(self):
            super().__init__()
            self.calls = tf.Variable(7, trainable=False)

        def __call__(self, images):
            self.calls.assign_add(1)
            return constant(images)

    victim = Counted()

    found = diagnose(victim, *small_batch(12), 0.1)

    assert "train-mode-batch-norm" not in [each.code for each in found]
    assert victim.calls.numpy() == 7


def test_a_radius_beyond_all_images_is_reported_not_refused():
    images, labels = small_batch(4)

    found = diagnose(small_network(2), images, labels % 2, 8.0)

    assert [each.code for each in found] == ["epsilon-unit-slip"]


def test_only_the_first_examples_are_used():
    seen = []

    def watched(images):
        seen.append(len(images))
        return constant(images)

    diagnose(watched, *small_batch(12), 0.1, limit=5)

    # Twice as many with their negatives for company.
    assert max(seen) == 10 and seen[0] == 5


def test_bytes_and_images_of_other_ranges_are_reported_not_refused():
    images, labels = digits(16)
    network = convnet()

    def codes(images):
        return [each.code for each in diagnose(network, images, labels, 0.1)]

    assert codes((255 * images).astype(np.uint8))[0] == "inputs-outside-bounds"
    assert codes(images - 0.5)[0] == "inputs-outside-bounds"
    assert codes(np.full_like(images, np.nan))[0] == "inputs-outside-bounds"


def test_logits_that_are_not_finite_end_the_diagnosis():
    calls = []

    def broken(images):
        calls.append(images)
        return constant(images) * np.nan

    found = diagnose(broken, *small_batch(12), 0.1)

    assert [each.code for each in found] == ["non-finite-logits"]
    assert len(calls) == 4


def test_a_victim_that_is_always_wrong_is_said_to_be_so():
    images, labels = small_batch(12)

    found = diagnose(constant, images, 1 + labels % 2, 0.1)

    assert [each.code for each in found] == ["probabilities", "nothing-right"]


@pytest.mark.slow
def test_functions_of_a_saved_model_are_victims_too(tmp_path):
    network = convnet()
    network.export(str(tmp_path))
    restored = tf.saved_model.load(str(tmp_path))

    assert diagnose(restored.serve, *digits(64), 0.1) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": np.zeros([4, 2, 2])}, r"`images` must have shape.*\(4, 2, 2\)"),
        ({"images": np.zeros([0, 2, 2, 1])}, "hold an example"),
        ({"labels": [0, 1, 2]}, "`labels` must have one row per image"),
        ({"labels": [0, 1, 2, 3]}, r"`labels`.*Received: labels from 0 to 3"),
        ({"labels": [0, 1, 2, -1]}, r"`labels`.*Received: labels from -1 to 2"),
        ({"labels": np.zeros([4, 3], np.float32)}, "integer class indices"),
        ({"epsilon": -0.1}, r"`epsilon` must be at least 0.*-0\.1"),
        ({"epsilon": np.nan}, "`epsilon` must be at least 0 and finite"),
        ({"norm": "l3"}, r"`norm` must be one of.*norm=l3"),
        ({"limit": 0}, r"`limit` must be a whole number.*limit=0"),
    ],
)
def test_arguments_that_no_victim_can_answer_are_refused(arguments, message):
    images, labels = small_batch()
    given = {"images": images, "labels": labels, "epsilon": 0.1, **arguments}

    with pytest.raises(ValueError, match=message):
        diagnose(constant, **given)


def test_outputs_that_are_no_logits_are_refused():
    with pytest.raises(TypeError, match=r"`victim` must map images to logits"):
        diagnose(lambda images: images, *small_batch(), 0.1)
    with pytest.raises(ValueError, match=r"at least 2.*shape \(4, 1\)"):
        diagnose(lambda x: x[:, 0, 0], *small_batch(), 0.1)


def test_everything_public_is_listed():
    assert set(diagnostics.__all__) == {
        *("Finding", "MaskingError", "black_box_helps", "diagnose")
    }
