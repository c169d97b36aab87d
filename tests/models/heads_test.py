"""Tests of kerobust.models.heads."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.models.heads import Classifier, ClassifierHead
from kerobust.models.resnet import ResNet
from kerobust.models.vit import VisionTransformer
from kerobust.randomness import example_keys
from kerobust.types import Tokens

IMAGES = np.random.default_rng(0).uniform(size=[3, 4, 4, 3]).astype(np.float32)
TOKENS = Tokens(tf.constant([[9.0, 9.0]]), tf.constant([[[1.0, 4.0], [3.0, 8.0]]]))


def small(**options):
    encoder = VisionTransformer(
        (4, 4), 2, 16, 2, 2, final_norm=False, train_positions=True, **options
    )
    return Classifier(encoder, ClassifierHead(10))


@pytest.mark.parametrize(
    ("pooling", "pooled"), [("mean", [[2.0, 6.0]]), ("cls", [[9.0, 9.0]])]
)
def test_the_head_reads_the_mean_patch_or_the_class_token(pooling, pooled):
    head = ClassifierHead(2, pooling=pooling, norm=False)
    head(TOKENS)
    head.set_weights([np.eye(2), np.array([0.0, 1.0])])

    np.testing.assert_allclose(head(TOKENS), np.add(pooled, [[0.0, 1.0]]))


def test_a_head_joins_class_and_mean_token_in_turns():
    tokens = Tokens(tf.constant([[5.0, 7.0]]), TOKENS.patches)

    # DINO's heads: [c0, p0, c1, p1, ...]; the mean patch is (2, 6).
    expected = [[5.0, 2.0, 7.0, 6.0]]
    np.testing.assert_allclose(
        ClassifierHead(2, pooling="cls_mean").pool(tokens), expected
    )


def test_a_head_puts_the_class_tokens_of_four_blocks_side_by_side():
    blocks = [Tokens(tf.fill([1, 2], float(k)), TOKENS.patches) for k in range(4)]
    head = ClassifierHead(2, pooling="last4_cls")

    assert head.blocks == 4
    np.testing.assert_allclose(head.pool(blocks), [[0, 0, 1, 1, 2, 2, 3, 3]])


@pytest.mark.parametrize(
    ("encoder", "what"),
    [
        (ResNet(8), "a ResNet that gives 1"),
        (VisionTransformer((4, 4), 2, 16, 3, 2), "a VisionTransformer that gives 3"),
    ],
)
def test_an_encoder_without_the_blocks_of_the_head_is_refused(encoder, what):
    head = ClassifierHead(10, pooling="last4_cls")

    with pytest.raises(UserError, match=f"last 4 blocks. Received: .*, {what}. Choose"):
        Classifier(encoder, head)


@pytest.mark.parametrize("pooling", ["mean", "cls", "cls_mean", "last4_cls"])
def test_logits_are_the_dense_layer_of_the_features(pooling):
    encoder = VisionTransformer((4, 4), 2, 16, 4, 2)
    model = Classifier(encoder, ClassifierHead(3, pooling=pooling, norm=False))
    again = Classifier.from_config(model.get_config())

    features = model.features(IMAGES)

    kernel, bias = model.head.dense.get_weights()
    assert kernel.shape[0] == features.shape[1]
    np.testing.assert_allclose(model(IMAGES), features @ kernel + bias, atol=1e-5)
    assert again.head.pooling == pooling


def test_the_head_normalises_after_pooling():
    head = ClassifierHead(2)
    head(TOKENS)
    head.dense.set_weights([np.eye(2), np.zeros(2)])

    # Mean patch (2, 6): mean 4, deviation 2.
    np.testing.assert_allclose(head(TOKENS), [[-1.0, 1.0]], rtol=1e-5)
    assert head.norm.epsilon == 1e-6


def test_the_kernel_starts_with_the_given_spread():
    tokens = Tokens(tf.zeros([1, 100]), tf.zeros([1, 1, 100]))
    head = ClassifierHead(100, kernel_stddev=0.5)
    head(tokens)

    # Cut at two deviations, so the deviation that is left is 0.88 of the given one.
    kernel, bias = head.dense.get_weights()
    assert np.abs(kernel).max() <= 1.0
    np.testing.assert_allclose(kernel.std(), 0.44, rtol=0.05)
    np.testing.assert_array_equal(bias, 0.0)


def test_an_unknown_pooling_is_refused():
    with pytest.raises(UserError, match="`pooling` must be one of: mean, cls"):
        ClassifierHead(10, pooling="max")


def test_the_classifier_is_the_head_of_the_encoder():
    model = small()

    np.testing.assert_allclose(
        model(IMAGES), model.head(model.encoder(IMAGES)), atol=1e-6
    )


def test_the_classifier_has_all_variables_after_construction():
    model = small()
    before = len(model.weights)

    model(IMAGES)

    # Encoder: class token, positions, embedding 2, two blocks of 12. Head: 4.
    assert before == len(model.weights) == 32


def test_keys_and_training_reach_the_encoder():
    model, keys = small(drop_path=0.9), example_keys(0, 0, [1, 2, 3])

    trained = model(IMAGES, training=True, keys=keys)

    assert np.abs(trained - model(IMAGES)).max() > 1e-4
    np.testing.assert_allclose(
        trained, model.head(model.encoder(IMAGES, training=True, keys=keys)), atol=1e-6
    )
    with pytest.raises(ValueError, match="`keys` .* must be given"):
        model(IMAGES, training=True)


def test_the_head_is_in_the_last_layer_group():
    model = small()

    groups = model.layer_groups()

    assert [len(group) for group in groups] == [4, 12, 12, 4]
    assert {id(each) for each in groups[-1]} == {
        id(each) for each in model.head.trainable_variables
    }
    assert sum(map(len, groups)) == len(model.trainable_variables)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_logits_are_float32_and_train(policy):
    exact = small()
    tf.keras.mixed_precision.set_global_policy(policy)
    rough = Classifier.from_config(exact.get_config())
    rough.set_weights(exact.get_weights())

    with tf.GradientTape() as tape:
        logits = rough(IMAGES)
        loss = tf.reduce_sum(tf.square(logits))
    gradients = tape.gradient(loss, rough.trainable_variables)

    assert logits.dtype == tf.float32
    assert {each.dtype for each in gradients} == {tf.float32}
    np.testing.assert_allclose(logits, exact(IMAGES), atol=0.02)


def test_a_saved_classifier_reloads_exactly(tmp_path):
    model = small(drop_path=0.1)
    model.save(tmp_path / "model.keras")

    loaded = tf.keras.models.load_model(tmp_path / "model.keras")

    np.testing.assert_array_equal(loaded(IMAGES), model(IMAGES))
    assert loaded.encoder.drop_path == 0.1


def test_the_classifier_is_a_node_of_a_functional_model():
    model = small()
    inputs = tf.keras.Input([4, 4, 3])

    functional = tf.keras.Model(inputs, model(inputs))

    np.testing.assert_allclose(functional(IMAGES), model(IMAGES), atol=1e-6)
