"""Where attacks may stand: train_step, functional model, tape, replicas, half types."""

import logging

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import (
    FGSM,
    PGD,
    CrossEntropy,
    DecayingPGD,
    MomentumPGD,
    Objective,
)
from kerobust.distribute import strategy
from kerobust.randomness import example_keys
from tests.attacks.victims import convnet, digits, small_batch, small_network


def weights(network):
    return [variable.numpy() for variable in network.variables]


def assert_unchanged(network, before):
    for old, new in zip(before, weights(network), strict=True):
        np.testing.assert_array_equal(old, new)


class AdversarialTrainer(tf.keras.Model):
    """Trains a classifier on attacked images in its own train_step."""

    def __init__(self, classifier, attack):
        super().__init__()
        self.classifier = classifier
        self.attack = attack
        self.change = tf.keras.metrics.Mean("change")

    def train_step(self, data):
        images, labels = data
        adversarial = self.attack(images, labels, self.classifier)
        self.change.update_state(tf.reduce_max(tf.abs(adversarial - images), [1, 2, 3]))
        with tf.GradientTape() as tape:
            logits = self.classifier(adversarial, training=True)
            loss = tf.reduce_mean(CrossEntropy(lambda _: logits)(images, labels))
        variables = self.classifier.trainable_variables
        self.optimizer.apply_gradients(
            zip(tape.gradient(loss, variables), variables, strict=True)
        )
        return {"loss": loss, "change": self.change.result()}


def test_in_a_train_step_it_attacks_the_network_as_it_learns():
    images, labels = digits(100)
    classifier = convnet()
    attack = PGD(0.1, steps=2)
    trainer = AdversarialTrainer(classifier, attack)
    trainer.compile(optimizer=tf.keras.optimizers.SGD(0.0))

    history = trainer.fit(images, labels, batch_size=32, epochs=2, verbose=0)

    # Each image moves by epsilon; with a rate of 0 nothing else changes anything.
    np.testing.assert_allclose(history.history["change"][-1], 0.1, atol=1e-5)
    for old, new in zip(weights(convnet()), weights(classifier), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-30)  # SGD flushes denormals.
    assert attack.weights == [] and attack.trainable_variables == []
    # The attack owns nothing: the classifier's 8 variables come from `classifier`.
    assert len(trainer.trainable_variables) == 8


@pytest.mark.parametrize("explicit", [True, False])
def test_inside_a_training_call_the_victim_stays_in_inference_mode(explicit):
    class Trainer(tf.keras.Model):
        """Attacks in `call`, where Keras lends its training flag to every layer."""

        def __init__(self):
            super().__init__()
            self.attack = FGSM(0.1, seed=0)
            self.network = small_network()
            self.victim = self.network if explicit else lambda x: self.network(x)

        def call(self, images, training=None):
            return self.attack(images, None, self.victim)

    images, _ = small_batch()
    model = Trainer()
    before = weights(model.network)
    expected = FGSM(0.1, seed=0)(images, None, model.network)

    eager = model(images, training=True)
    model.compile(loss="mse", optimizer=tf.keras.optimizers.SGD(0.0))
    compiled = tf.function(lambda images: model(images, training=True))(images)

    # Dropout at a half would change the gradient's sign somewhere, batch norm itself.
    np.testing.assert_allclose(eager, expected, atol=1e-6)
    np.testing.assert_allclose(compiled, expected, atol=1e-6)
    assert_unchanged(model.network, before)


def test_a_global_learning_phase_does_not_reach_the_victim():
    images, labels = small_batch()
    network = small_network()
    before = weights(network)

    with pytest.warns(UserWarning, match="set_learning_phase"):
        tf.keras.backend.set_learning_phase(1)
    try:
        FGSM(0.1)(images, labels, lambda images: network(images))
    finally:
        tf.keras.backend.clear_session()

    assert_unchanged(network, before)


@pytest.mark.parametrize("attack", [FGSM, PGD, MomentumPGD, DecayingPGD])
def test_no_variable_of_the_victim_changes(attack):
    images, labels = small_batch()
    network = small_network()
    before = weights(network)

    attack(0.2, random_start=True, restarts=2)(images, labels, network)

    assert_unchanged(network, before)


def test_as_a_node_of_a_functional_model():
    images, labels = digits(20)
    network, attack = convnet(), PGD(0.1, seed=0, steps=3)
    inputs = tf.keras.Input([8, 8, 1])
    targets = tf.keras.Input([], dtype="int32")
    adversarial = attack(inputs, targets, network)
    model = tf.keras.Model([inputs, targets], [adversarial, network(adversarial)])

    expected = attack(images, labels, network)

    assert adversarial.shape.as_list() == [None, 8, 8, 1]
    for result, logits in (
        model([images, labels]),
        model.predict([images, labels], batch_size=20, verbose=0),
        model([images, labels], training=True),
    ):
        np.testing.assert_allclose(result, expected, atol=1e-6)
        np.testing.assert_allclose(logits, network(expected), atol=1e-4)


def test_an_outer_tape_sees_a_constant():
    images, labels = small_batch()
    network, attack = small_network(), PGD(0.1, seed=0, steps=2)
    kernel = network.trainable_variables[0]

    def gradient(images):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(images)
            adversarial = attack(images, labels, network)
            loss = tf.reduce_sum(adversarial * tf.reduce_sum(kernel))
        return tape.gradient(adversarial, images), tape.gradient(loss, kernel)

    for function in (gradient, tf.function(gradient)):
        through_attack, through_kernel = function(images)

        # d(sum(a) sum(k)) / dk with `a` constant is sum(a) everywhere.
        assert through_attack is None
        total = tf.reduce_sum(attack(images, labels, network))
        np.testing.assert_allclose(
            through_kernel, tf.fill(kernel.shape, total), rtol=1e-5
        )


def test_an_outer_tape_does_not_record_a_compiled_attack():
    images, labels = small_batch()
    network, attack = small_network(), PGD(0.1, steps=2)
    attack(images, labels, network)  # While compiling, tapes see variables being read.

    def watched():
        with tf.GradientTape() as tape:
            attack(images, labels, network)
        return len(tape.watched_variables())

    assert watched() == 0
    assert tf.function(lambda: tf.constant(watched()))() == 0


def branching(images):
    """Returns logits [B, 4]; its Python branch depends on a tensor."""
    flat = tf.reshape(images, [-1, 4])
    if tf.reduce_mean(flat) > 0:
        flat = flat * 2.0
    return flat


class Branching(tf.keras.Model):
    def call(self, images):
        return branching(images)


@pytest.mark.parametrize("make", [Branching, lambda: tf.function(branching)])
def test_victims_may_use_python_control_flow_everywhere(make):
    images, labels = small_batch()
    network, attack = make(), FGSM(0.1)
    inputs = tf.keras.Input([2, 2, 1])
    targets = tf.keras.Input([], dtype="int32")

    eager = attack(images, labels, network)
    compiled = tf.function(lambda i, t: FGSM(0.1)(i, t, network))(images, labels)
    model = tf.keras.Model([inputs, targets], FGSM(0.1)(inputs, targets, network))

    np.testing.assert_array_equal(compiled, eager)
    np.testing.assert_array_equal(model([images, labels]), eager)


def test_victims_may_use_python_control_flow_in_half_precision():
    images, labels = small_batch()
    attack = FGSM(0.1, precision="bfloat16")

    found = attack(images, labels, Branching())

    np.testing.assert_array_equal(found, FGSM(0.1)(images, labels, Branching()))


def test_nothing_of_an_attack_is_converted_in_a_train_step():
    class Documented(CrossEntropy):
        def check_targets(self, targets):
            """A body that AutoGraph loses: it cannot convert this method."""

    images, labels = small_batch()
    objective, said = Documented(small_network()), []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    tf.get_logger().addHandler(handler)
    try:
        tf.function(lambda: FGSM(0.1)(images, labels, objective))()
    finally:
        tf.get_logger().removeHandler(handler)

    assert said == []


def test_replicas_find_what_one_device_finds():
    images, labels = digits(8)
    keys = example_keys(0, 0, tf.range(8))
    mirrored = strategy(2)
    with mirrored.scope():
        network = convnet()
    attack = PGD(0.15, steps=3)
    expected = PGD(0.15, steps=3)(images, labels, convnet(), keys=keys).numpy()

    def on_replica(images, labels, keys):
        return attack(images, labels, network, keys=keys)

    @tf.function
    def run(*batch):
        return mirrored.run(on_replica, batch)

    batches = tf.data.Dataset.from_tensor_slices((images, labels, keys)).batch(8)
    (batch,) = mirrored.experimental_distribute_dataset(batches)
    for result in (run(*batch), run(*batch)):
        found = np.concatenate(mirrored.experimental_local_results(result))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_train_step_on_two_replicas_runs():
    images, labels = digits(60)
    with strategy(2).scope():
        trainer = AdversarialTrainer(convnet(), PGD(0.1, steps=2))
        trainer.compile(optimizer=tf.keras.optimizers.SGD(0.01))

    history = trainer.fit(images, labels, batch_size=20, verbose=0)

    assert np.isfinite(history.history["loss"]).all()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_victims_get_float32_images(policy):
    images, labels = digits(100)
    full = convnet()
    tf.keras.mixed_precision.set_global_policy(policy)
    half = convnet()
    seen = []

    def victim(images):
        seen.append(images.dtype)
        return half(images)

    adversarial, info = PGD(0.15, seed=0)(images, labels, victim, return_info=True)

    assert half.compute_dtype == policy.removeprefix("mixed_")
    assert adversarial.dtype == tf.float32 and set(seen) == {tf.float32}
    assert info.loss.dtype == info.norm.dtype == tf.float32
    change = np.abs(adversarial - images)
    assert change.max() <= 0.15 + 1e-6
    # As strong against the full-precision twin as its own attack, within 5 points.
    own = PGD(0.15, seed=0)(images, labels, full)
    robust = [(full(x).numpy().argmax(1) == labels).mean() for x in (adversarial, own)]
    assert abs(robust[0] - robust[1]) <= 0.05


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_images_of_other_floating_types_give_float32(dtype):
    images, labels = small_batch()

    adversarial = FGSM(0.1)(images.numpy().astype(dtype), labels, small_network())

    assert adversarial.dtype == tf.float32


def test_targets_may_be_any_nest():
    class Towards(Objective):
        """Minus the distance to a picture, weighted per example."""

        def outputs(self, images):
            return images

        def values(self, outputs, targets):
            distance = tf.reduce_sum(tf.abs(outputs - targets["goal"]), [1, 2, 3])
            return -distance * targets["more"][0]

    images, _ = small_batch()
    targets = {"goal": tf.ones_like(images), "more": (tf.ones([4]), np.arange(4))}

    adversarial = FGSM(0.1)(images, targets, Towards())

    np.testing.assert_allclose(adversarial, images + 0.1, atol=1e-6)


def test_a_victim_that_is_not_built_yet_is_built():
    images, labels = small_batch()
    network = tf.keras.Sequential([tf.keras.layers.Flatten(), tf.keras.layers.Dense(3)])

    adversarial = FGSM(0.1)(images, labels, network)

    assert len(network.variables) == 2
    assert np.abs(adversarial - images).max() > 0.09
