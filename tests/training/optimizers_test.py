"""Tests of AdamW against a slow oracle, and of the rate per variable."""

import hashlib
import json
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized
from tensorflow import keras

from kerobust.distribute import strategy
from kerobust.training.optimizers import AdamW, MomentumSGD, layer_rate_scales
from kerobust.training.schedules import WarmupCosine

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
GOLDEN = GOLDENS / "mimir_dense_diffattack.json"
SHA256 = "841065bda02673aec62e78177271a9bada832a636becb22b2c3095e0270b9c5e"
RATES = [0.0, 0.1, 0.2, 0.15, 0.05]


class Rates(keras.optimizers.schedules.LearningRateSchedule):
    """The numbers of `RATES`, one per step."""

    def __call__(self, step):
        return tf.gather(RATES, step)


def oracle(weight, gradients, decay, scale, beta_1=0.9, beta_2=0.999, epsilon=1e-8):
    """Returns the weight after all updates, number by number, in double precision."""
    result = np.array(weight, np.float64)
    for place in np.ndindex(result.shape):
        value, first, second = result[place], 0.0, 0.0
        for update, gradient in enumerate(gradients, start=1):
            slope = float(gradient[place])
            rate = RATES[update - 1] * scale
            value -= rate * decay * value
            first = beta_1 * first + (1 - beta_1) * slope
            second = beta_2 * second + (1 - beta_2) * slope**2
            mean = first / (1 - beta_1**update)
            size = (second / (1 - beta_2**update)) ** 0.5
            value -= rate * mean / (size + epsilon)
        result[place] = value
    return result


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def optimize(optimizer, variables, gradients, devices=1):
    """Applies one list of gradients per step, shared out equally over the devices."""

    def step(*gradient):
        pairs = [
            (item / devices, v) for item, v in zip(gradient, variables, strict=True)
        ]
        optimizer.apply_gradients(pairs)

    @tf.function
    def everywhere(*gradient):
        strategy(devices).run(step, args=gradient)

    for gradient in zip(*gradients, strict=True):
        everywhere(*map(tf.constant, gradient))


class AdamWTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(devices=(1, 2), scale=(1.0, 0.25))
    def test_five_updates_equal_the_oracle(self, devices, scale):
        start, gradients = draw(3, 2), draw(5, 3, 2)
        with strategy(devices).scope():
            kernel = tf.Variable(start, name="kernel")
            optimizer = AdamW(Rates(), weight_decay=0.3)
            optimizer.set_rate_scales([kernel], [scale])
            optimizer.build([kernel])

        optimize(optimizer, [kernel], [gradients], devices)

        expected = oracle(start, gradients, decay=0.3, scale=scale)
        self.assertAllClose(kernel.numpy(), expected, rtol=2e-6, atol=1e-6)
        for copy in strategy(devices).experimental_local_results(kernel):
            self.assertAllEqual(copy.numpy(), kernel.numpy())

    def test_pytorch_betas_and_epsilon_equal_the_oracle(self):
        start, gradients = draw(2, 2), 1e-7 * draw(5, 2, 2)
        kernel = tf.Variable(start, name="kernel")
        optimizer = AdamW(Rates(), 0.05, 0.9, 0.95, 1e-6)
        optimizer.build([kernel])

        optimize(optimizer, [kernel], [gradients])

        # Gradients below epsilon: its place in the formula decides the result.
        expected = oracle(start, gradients, 0.05, 1.0, 0.9, 0.95, 1e-6)
        self.assertAllClose(kernel.numpy(), expected, rtol=2e-6, atol=1e-7)

    @parameterized.parameters(1, 2)
    def test_factor_zero_leaves_a_variable_as_it_is(self, devices):
        start = draw(2, 3)
        with strategy(devices).scope():
            frozen, moving = tf.Variable(start), tf.Variable(start)
            optimizer = AdamW(0.1, weight_decay=0.5)
            optimizer.set_rate_scales([frozen], [0.0])
            optimizer.build([frozen, moving])

        optimize(optimizer, [frozen, moving], [draw(3, 2, 3)] * 2, devices)

        self.assertAllEqual(frozen.numpy(), start)
        self.assertNotAllClose(moving.numpy(), start, atol=0.1)

    @parameterized.parameters(1, 2)
    def test_only_named_variables_and_vectors_do_not_decay(self, devices):
        with strategy(devices).scope():
            kernel = tf.Variable(tf.ones([2, 2]), name="dense/kernel")
            vector = tf.Variable(tf.ones([2]), name="norm/gamma")
            token = tf.Variable(tf.ones([1, 2]), name="vit/cls_token")
            biased = tf.Variable(tf.ones([2, 2]), name="bias_table/kernel")
            optimizer = AdamW(0.1, weight_decay=0.5, no_decay=("bias", "cls_token"))
            variables = [kernel, vector, token, biased]
            optimizer.build(variables)

        zeros = [np.zeros([1, *v.shape], np.float32) for v in variables]
        optimize(optimizer, variables, zeros, devices)

        # Without gradients only the decay moves a weight: 1 - 0.1 * 0.5.
        self.assertAllClose(kernel.numpy(), np.full([2, 2], 0.95))
        self.assertAllClose(biased.numpy(), np.full([2, 2], 0.95))
        self.assertAllEqual(vector.numpy(), np.ones([2]))
        self.assertAllEqual(token.numpy(), np.ones([1, 2]))

    def test_sparse_gradients_are_dense_gradients_with_zeros(self):
        table, dense = tf.Variable(draw(3, 2)), tf.Variable(draw(3, 2))
        optimizer = AdamW(0.1)
        optimizer.build([table, dense])

        values = tf.ones([1, 2])
        sparse = tf.IndexedSlices(values, tf.constant([1]), tf.constant([3, 2]))
        full = tf.constant([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
        for _ in range(2):
            optimizer.apply_gradients([(sparse, table), (full, dense)])

        self.assertAllEqual(table.numpy(), dense.numpy())

    def test_checkpoint_continues_bit_for_bit(self):
        start, gradients = draw(3, 2), draw(5, 3, 2)
        prefix = os.path.join(self.get_temp_dir(), "state")

        def make():
            kernel = tf.Variable(start, name="kernel")
            optimizer = AdamW(WarmupCosine(0.1, 2, 5), weight_decay=0.3)
            optimizer.set_rate_scales([kernel], [0.5])
            optimizer.build([kernel])
            checkpoint = tf.train.Checkpoint(kernel=kernel, optimizer=optimizer)
            return kernel, optimizer, checkpoint

        whole, optimizer, _ = make()
        optimize(optimizer, [whole], [gradients])
        first, optimizer, checkpoint = make()
        optimize(optimizer, [first], [gradients[:2]])
        checkpoint.write(prefix)
        second, optimizer, checkpoint = make()
        checkpoint.read(prefix).assert_consumed()
        optimize(optimizer, [second], [gradients[2:]])

        self.assertAllEqual(second.numpy(), whole.numpy())

    def test_survives_serialisation(self):
        optimizer = AdamW(
            WarmupCosine(0.1, 2, 5),
            weight_decay=0.3,
            beta_2=0.95,
            no_decay=("bias", "cls_token"),
            global_clipnorm=1.0,
        )

        copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))

        self.assertIsInstance(copy, AdamW)
        self.assertEqual(copy.get_config(), optimizer.get_config())
        self.assertEqual(copy.get_config()["weight_decay"], 0.3)

    def test_works_inside_a_loss_scale_optimizer(self):
        start = draw(2, 2)
        plain, scaled = tf.Variable(start), tf.Variable(start)
        inner = AdamW(0.1)
        inner.set_rate_scales([scaled], [0.5])
        wrapped = keras.mixed_precision.LossScaleOptimizer(inner)
        single = AdamW(0.05)

        for optimizer, variable in ((wrapped, scaled), (single, plain)):
            optimizer.build([variable])
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(variable**2)
            optimizer.minimize(loss, [variable], tape=tape)

        self.assertAllClose(scaled.numpy(), plain.numpy(), rtol=1e-6)

    @parameterized.parameters(1, 2)
    def test_a_late_variable_counts_its_updates_from_its_first_step(self, devices):
        start, gradients = draw(3, 2), draw(5, 3, 2)
        with strategy(devices).scope():
            late = tf.Variable(start, name="kernel")
            optimizer = AdamW(Rates(), weight_decay=0.3)
            optimizer.start_at([late], 2)
            optimizer.build([late])

        optimize(optimizer, [late], [gradients], devices)

        # The oracle's updates 3 to 5 with the moments of a new optimizer.
        value, first, second = start.astype(np.float64), 0.0, 0.0
        for update in (1, 2, 3):
            rate, slope = RATES[update + 1], gradients[update + 1]
            value = value - rate * 0.3 * value
            first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 1e-3 * slope**2
            size = (second / (1 - 0.999**update)) ** 0.5 + 1e-8
            value = value - rate * first / (1 - 0.9**update) / size
        self.assertAllClose(late.numpy(), value, rtol=2e-6, atol=1e-6)

    def test_a_decay_may_change_with_the_step(self):
        kernel = tf.Variable(tf.ones([2, 2]), name="kernel")
        optimizer = AdamW(0.1, weight_decay=WarmupCosine(0.5, 0, 2, 1.0))
        optimizer.build([kernel])

        optimize(optimizer, [kernel], [np.zeros([2, 2, 2], np.float32)])

        # Decay 0.5, then (0.5 + 1) / 2: (1 - 0.05) (1 - 0.075).
        self.assertAllClose(kernel.numpy(), np.full([2, 2], 0.95 * 0.925))
        copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
        self.assertEqual(copy.get_config(), optimizer.get_config())

    @parameterized.parameters(1, 2)
    def test_each_tensor_is_clipped_by_its_own_norm(self, devices):
        with strategy(devices).scope():
            large, small = tf.Variable(tf.zeros([4])), tf.Variable(tf.zeros([4]))
            optimizer = MomentumSGD(1.0, 0.0, clipnorm=3.0)
            optimizer.build([large, small])
        steep, flat = np.full([1, 4], 5.0), np.full([1, 4], 1.0)

        optimize(optimizer, [large, small], np.float32([steep, flat]), devices)

        # Norms 10 and 2: the first shrinks to 3, the second stays.
        self.assertAllClose(large.numpy(), np.full([4], -1.5), rtol=1e-5)
        self.assertAllClose(small.numpy(), np.full([4], -1.0), rtol=1e-5)

    @parameterized.parameters(1, 2)
    def test_momentum_and_coupled_decay_equal_the_oracle(self, devices):
        start, gradients = draw(3, 2), draw(5, 3, 2)
        with strategy(devices).scope():
            kernel = tf.Variable(start, name="bias")
            optimizer = MomentumSGD(Rates(), 0.9, weight_decay=0.3)
            optimizer.build([kernel])

        optimize(optimizer, [kernel], [gradients], devices)

        value, buffer = start.astype(np.float64), 0.0
        for rate, gradient in zip(RATES, gradients, strict=True):
            buffer = 0.9 * buffer + gradient + 0.3 * value
            value = value - rate * buffer
        self.assertAllClose(kernel.numpy(), value, rtol=2e-6, atol=1e-6)

    def test_sgd_survives_serialisation(self):
        optimizer = MomentumSGD(WarmupCosine(0.1, 2, 5), 0.5, 0.3, clipnorm=3.0)

        copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))

        self.assertEqual(copy.get_config(), optimizer.get_config())

    def test_sgd_refuses_impossible_settings(self):
        with self.assertRaisesRegex(ValueError, "`momentum` must lie in"):
            MomentumSGD(momentum=1.0)
        with self.assertRaisesRegex(ValueError, "`weight_decay` must be at least 0"):
            MomentumSGD(weight_decay=-1.0)

    def test_wrong_arguments_are_refused(self):
        kernel = tf.Variable(draw(2, 2))
        with self.assertRaisesRegex(ValueError, "`amsgrad` must be False"):
            AdamW(amsgrad=True)
        with self.assertRaisesRegex(ValueError, "`weight_decay` .* weight_decay=-1"):
            AdamW(weight_decay=-1)
        with self.assertRaisesRegex(ValueError, "1 variables, 2 scales"):
            AdamW().set_rate_scales([kernel], [1.0, 2.0])
        with self.assertRaisesRegex(ValueError, "`scales` must be at least 0"):
            AdamW().set_rate_scales([kernel], [-1.0])
        with self.assertRaisesRegex(ValueError, "must not name a variable twice"):
            AdamW().set_rate_scales([kernel, kernel], [1.0, 1.0])
        built = AdamW()
        built.build([kernel])
        with self.assertRaisesRegex(ValueError, "must be called before `build`"):
            built.set_rate_scales([kernel], [1.0])

    def test_build_outside_of_the_strategy_is_refused(self):
        with strategy(2).scope():
            kernel, optimizer = tf.Variable(draw(2, 2)), AdamW()

        with self.assertRaisesRegex(ValueError, "inside the strategy's scope"):
            optimizer.build([kernel])


def test_layer_scales_are_those_of_the_reference():
    data = GOLDEN.read_bytes()
    assert hashlib.sha256(data).hexdigest() == SHA256
    expected = json.loads(data)["checks"]["schedules"]["expected"][
        "layer_decay0.65_scales_ids0..13"
    ]
    one = tf.Variable(0.0)

    scales = layer_rate_scales([[one]] * 14, 0.65)

    np.testing.assert_allclose(scales, expected, rtol=1e-12)


def test_layer_scales_follow_the_flattened_variables():
    one = tf.Variable(0.0)

    scales = layer_rate_scales([[one], [], [one, one], [one]], 0.5)

    # Layers 0, 2, 2, 3 of 0..3: 0.5^3, 0.5, 0.5, 1.
    assert scales == [0.125, 0.5, 0.5, 1.0]


def test_layer_decay_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"`decay` must lie in \[0, 1\].*decay=1.5"):
        layer_rate_scales([[]], 1.5)
