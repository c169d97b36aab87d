"""Planted defences are named by `diagnose`, honest victims are not accused."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import diagnostics
from kerobust.attacks.diagnostics import diagnose
from tests.attacks.victims import convnet, digits, small_batch, small_network

RADII = [("linf", 0.1), ("linf", 0.2), ("l2", 0.5), ("l1", 2.0)]


@pytest.fixture(scope="module")
def network():
    return convnet()


@pytest.fixture(scope="module")
def plain():
    """Returns a network trained on the digits without any attack."""
    tf.keras.utils.set_random_seed(1)
    layers = tf.keras.layers
    network = tf.keras.Sequential(
        [
            tf.keras.Input([8, 8, 1]),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(tf.keras.optimizers.Adam(5e-3), loss, metrics=["accuracy"])
    found = network.fit(*digits(), batch_size=40, epochs=30, verbose=0)
    assert found.history["accuracy"][-1] > 0.95
    return network


@pytest.fixture(params=["asked", pytest.param("attacked", marks=pytest.mark.slow)])
def depth(request, monkeypatch):
    """Leaves the attacks out where outputs alone give the victim away, but if slow."""
    if request.param == "asked":
        monkeypatch.setattr(diagnostics, "_attack_findings", lambda *_: iter(()))


def codes(*arguments, **options) -> set[str]:
    """Returns the codes of all findings."""
    return {finding.code for finding in diagnose(*arguments, **options)}


def quickly(first, *rest):
    """Marks all but the first of a parameter's values as slow."""
    return [first, *(pytest.param(*each, marks=pytest.mark.slow) for each in rest)]


@pytest.mark.parametrize(("norm", "epsilon"), quickly(*RADII))
def test_the_adversarially_trained_network_is_not_accused(network, norm, epsilon):
    assert diagnose(network, *digits(64), epsilon, norm) == []


@pytest.mark.parametrize(("norm", "epsilon"), quickly(*reversed(RADII)))
def test_a_plainly_trained_network_is_not_accused(plain, norm, epsilon):
    assert diagnose(plain, *digits(64), epsilon, norm) == []


@pytest.mark.parametrize("seed", quickly(0, [1], [2]))
@pytest.mark.parametrize("classes", [2, 3])
def test_small_untrained_networks_are_not_accused(classes, seed):
    tf.keras.utils.set_random_seed(seed)
    images, labels = small_batch(32)

    found = diagnose(small_network(classes), images, labels % classes, 0.1)

    assert found == []


def confident(logits, share=0.9):
    """Returns where the largest probability is at least `share`, bool [B, 1]."""
    probabilities = tf.nn.softmax(logits)
    return tf.reduce_max(probabilities, axis=1, keepdims=True) >= share


def test_overconfident_logits_have_zero_gradients_and_saturate(network):
    found = diagnose(lambda images: 1000 * network(images), *digits(64), 0.2)

    by_code = {finding.code: finding for finding in found}
    assert {"zero-gradients", "saturated", "loss-not-rising"} <= set(by_code)
    assert by_code["zero-gradients"].severity == "error"
    assert "0.0% with DLR" in by_code["zero-gradients"].advice
    # DLR sees what the scale hides from cross-entropy.
    assert "scale-dependence" in by_code
    assert [each.severity for each in found] == sorted(each.severity for each in found)


def test_a_gate_that_hardens_unsure_answers_is_exposed(network):
    def gated(images):
        logits = network(images)
        answer = 10 * tf.one_hot(tf.argmax(logits, axis=1), 10)
        return tf.where(confident(logits), logits, answer)

    found = codes(gated, *digits(64), 0.2)

    # Attacks that enter the gate stand still, where random search goes on.
    assert {"zero-gradients", "loss-not-rising"} <= found
    assert {"large-epsilon-not-near-zero", "black-box-stronger"} <= found


def test_a_gate_that_abstains_has_zero_gradients_where_attacks_end(network):
    def gated(images):
        logits = network(images)
        return tf.where(confident(logits), logits, tf.zeros_like(logits))

    found = diagnose(gated, *digits(64), 0.1)

    assert [each.code for each in found] == ["zero-gradients"]
    assert "of attacked images" in found[0].advice


@pytest.mark.slow
def test_a_gate_that_sharpens_sure_answers_is_exposed(network):
    def gated(images):
        logits = network(images)
        return tf.where(confident(logits), 1000 * logits, logits)

    found = codes(gated, *digits(64), 0.1)

    assert {"zero-gradients", "saturated", "loss-not-rising"} <= found


@pytest.mark.slow
def test_a_gate_that_clips_unsure_answers_is_exposed(network):
    def gated(images):
        logits = network(images)
        return tf.where(confident(logits), logits, tf.clip_by_value(logits, -1, 1))

    found = codes(gated, *digits(64), 0.2)

    assert {"zero-gradients", "black-box-stronger"} <= found


@pytest.mark.slow
def test_reversed_gradients_lower_the_loss_and_lose_to_noise(plain):
    @tf.custom_gradient
    def reverse(images):
        return images, lambda gradient: -gradient

    found = codes(lambda images: plain(reverse(images)), *digits(64), 0.4)

    assert {"loss-not-rising", "noise-stronger", "black-box-stronger"} <= found


def test_a_rounded_input_leaves_no_gradient_path(network):
    found = diagnose(lambda x: network(tf.round(x * 8) / 8), *digits(64), 0.1)

    assert [each.code for each in found] == ["non-differentiable"]


@pytest.mark.slow
def test_a_rounded_input_with_a_path_has_zero_gradients(network):
    def quantised(images):
        steps = tf.round(images * 8) + 0 * tf.sign(images)  # `sign` has gradient 0.
        return network(steps / 8)

    found = codes(quantised, *digits(64), 0.2)

    assert {"zero-gradients", "black-box-stronger"} <= found


def test_probabilities_are_named(network, depth):
    found = codes(lambda images: tf.nn.softmax(network(images)), *digits(64), 0.1)

    assert "probabilities" in found


@pytest.mark.slow
def test_log_probabilities_are_only_mentioned(network):
    found = diagnose(
        lambda images: tf.nn.log_softmax(network(images)),
        *digits(64),
        0.1,
        strict=True,
    )

    assert [each.code for each in found] == ["log-probabilities"]


def test_a_network_for_bytes_is_named(network, depth):
    found = codes(lambda images: network(images / 255), *digits(64), 0.1)

    assert "input-scale" in found


@pytest.mark.parametrize("deliberate", [False, True])
def test_noisy_logits_are_named_unless_deliberate(network, depth, deliberate):
    noise = tf.random.Generator.from_seed(0)

    def noisy(images):
        logits = network(images)
        return logits + 3 * noise.normal(tf.shape(logits))

    # None of the other checks mistakes luck for masking.
    found = codes(noisy, *digits(64), 0.01, random=deliberate)

    assert found == (set() if deliberate else {"randomness"})


def batch_normalised(momentum: float) -> tf.keras.Model:
    """Returns a network whose batch norm is told to train for ever."""
    tf.keras.utils.set_random_seed(0)
    layers = tf.keras.layers
    images = tf.keras.Input([8, 8, 1])
    features = layers.Conv2D(8, 3, activation="relu")(images)
    features = layers.BatchNormalization(momentum=momentum)(features, training=True)
    return tf.keras.Model(images, layers.Dense(10)(layers.Flatten()(features)))


@pytest.mark.parametrize("momentum", [0.9, 1.0])  # 1: its variables stay.
def test_batch_norm_in_training_mode_is_named_and_left_as_it_was(depth, momentum):
    network = batch_normalised(momentum)
    before = [variable.numpy() for variable in network.variables]

    found = codes(network, *digits(16), 0.1)

    assert {"train-mode-batch-norm", "batch-mate-dependence"} <= found
    for variable, value in zip(network.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_is_named_when_gradients_underflow_only(policy):
    tf.keras.mixed_precision.set_global_policy(policy)
    network = convnet()
    sharp = tf.keras.Sequential([network, tf.keras.layers.Rescaling(4.0)])
    tf.keras.mixed_precision.set_global_policy("float32")

    assert codes(network, *digits(64), 0.1) == set()
    # bfloat16 has the range of float32: nothing underflows.
    underflow = "half-precision-underflow" in codes(sharp, *digits(64), 0.1)
    assert underflow is (policy == "mixed_float16")
