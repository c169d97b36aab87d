"""Tests of kerobust.models.blocks."""

import math

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.models.blocks import Attention, Block, DropPath, Mlp
from kerobust.randomness import example_keys

TOKENS = np.random.default_rng(0).normal(size=[3, 5, 8]).astype(np.float32)


def softmax(scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def test_attention_equals_a_loop_over_examples_heads_and_queries():
    layer = Attention(8, 2)
    layer(TOKENS)
    layer.set_weights(
        [np.random.default_rng(1).normal(size=w.shape) for w in layer.get_weights()]
    )
    kernel, bias, out_kernel, out_bias = layer.get_weights()
    expected = np.zeros_like(TOKENS)
    for example in range(3):
        # Columns of the kernel: 8 queries, 8 keys, 8 values, each 2 heads of 4.
        queries, keys, values = np.split(TOKENS[example] @ kernel + bias, 3, axis=1)
        for head in (slice(0, 4), slice(4, 8)):
            for query in range(5):
                scores = keys[:, head] @ queries[query, head] / math.sqrt(4)
                mixed = softmax(scores) @ values[:, head]
                expected[example, query, head] = mixed
    expected = expected @ out_kernel + out_bias

    np.testing.assert_allclose(layer(TOKENS), expected, rtol=1e-4, atol=1e-5)


def test_the_mlp_uses_the_exact_gelu():
    layer = Mlp(1, 1)
    layer(np.ones([1, 1, 1], np.float32))
    layer.set_weights([np.eye(1), np.zeros(1), np.eye(1), np.zeros(1)])
    # x Phi(x); at 2 the tanh approximation is 1.95460, the exact one 1.95450.
    expected = 2.0 * 0.5 * (1.0 + math.erf(2.0 / math.sqrt(2.0)))

    np.testing.assert_allclose(layer(tf.fill([1, 1, 1], 2.0)), [[[expected]]], 1e-6)


def test_a_block_adds_attention_then_mlp_of_normalised_tokens():
    block = Block(8, 2, mlp_ratio=2.0)
    block(TOKENS)
    half = TOKENS + block.attention(block.attention_norm(TOKENS))
    expected = half + block.mlp(block.mlp_norm(half))

    np.testing.assert_allclose(block(TOKENS), expected, rtol=1e-6)
    assert block.mlp.expand.units == 16
    assert block.attention_norm.epsilon == block.mlp_norm.epsilon == 1e-6


def test_dense_layers_start_xavier_uniform_with_zero_bias():
    layer = Attention(32, 2)
    layer(np.zeros([1, 1, 32], np.float32))
    kernel, bias = layer.qkv.get_weights()
    # Uniform in +-sqrt(6 / (32 + 96)), whose deviation is that over sqrt(3).
    limit = math.sqrt(6 / 128)

    assert 0.98 * limit < np.abs(kernel).max() <= limit
    np.testing.assert_allclose(kernel.std(), limit / math.sqrt(3), rtol=0.05)
    np.testing.assert_array_equal(bias, 0.0)


def test_scores_are_float32_in_half_precision():
    # q.k = 4 * 200^2 = 160,000 is beyond float16 (65,504): inf, then nan.
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    layer = Attention(4, 1)
    tokens = tf.fill([1, 2, 4], 1.0)
    layer(tokens)
    kernel = np.tile(np.eye(4) * 200.0, [1, 3])
    layer.set_weights([kernel, np.zeros(12), np.eye(4) / 200.0, np.zeros(4)])

    result = layer(tokens)

    assert result.dtype == tf.float16
    np.testing.assert_allclose(result, 1.0, rtol=1e-3)


def test_drop_path_is_the_identity_outside_training():
    branch = tf.ones([4, 2, 3])

    for layer, training in ((DropPath(0.5), False), (DropPath(0.0), True)):
        assert layer(branch, training=training) is branch


def test_drop_path_drops_whole_examples_and_keeps_the_mean():
    keys = example_keys(0, 0, tf.range(4000))

    dropped = DropPath(0.25)(tf.ones([4000, 2, 3]), training=True, keys=keys).numpy()

    # Kept examples are divided by 0.75. Deviation of the mean: sqrt(1/3 / 4000) = .009.
    values = dropped[:, :1, :1]
    np.testing.assert_array_equal(dropped, np.broadcast_to(values, dropped.shape))
    np.testing.assert_allclose(np.unique(values), [0.0, 1 / 0.75], rtol=1e-6)
    np.testing.assert_allclose(values.mean(), 1.0, atol=0.03)


def test_drop_path_follows_the_key_not_the_place_in_the_batch():
    keys = example_keys(0, 0, tf.range(64))
    order = np.random.default_rng(0).permutation(64)[:20]
    layer, branch = DropPath(0.5), tf.ones([64, 1, 1])

    whole = layer(branch, training=True, keys=keys).numpy()
    part = layer(branch[:20], training=True, keys=tf.gather(keys, order))

    np.testing.assert_array_equal(part, whole[order])


def test_streams_of_drop_path_are_unrelated():
    keys, branch = example_keys(0, 0, tf.range(400)), tf.ones([400, 1, 1])
    kept = [
        DropPath(0.5, stream)(branch, training=True, keys=keys).numpy() > 0
        for stream in (0, 1)
    ]

    # Agreement is Binomial(400, 1/2): within 5 deviations of 200.
    assert 150 < np.sum(kept[0] == kept[1]) < 250


def test_drop_path_asks_for_keys():
    with pytest.raises(ValueError, match="`keys` .* must be given when training"):
        DropPath(0.5)(tf.ones([1, 1, 1]), training=True)


def test_a_drop_path_rate_outside_0_and_1_is_refused():
    with pytest.raises(ValueError, match=r"`rate` must lie in \[0, 1\).*rate=1.0"):
        DropPath(1.0)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(UserError, match="`heads` .*--model.heads.*heads=3, width=16"):
        Attention(16, 3)
