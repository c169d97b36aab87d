"""The attack on tokens: distances by hand, laws, and what it reaches."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import (
    AutoPGD,
    CosineDistance,
    EmbedAttack,
    FeatureDistance,
    TokenDistance,
    TokenMatch,
    whitening_of,
)
from kerobust.models import VisionTransformer
from kerobust.randomness import example_keys
from kerobust.types import Tokens

IMAGES = tf.random.stateless_uniform([3, 8, 8, 3], [1, 2])


@pytest.fixture(scope="module")
def encoder():
    tf.keras.utils.set_random_seed(0)
    return VisionTransformer((8, 8), patch_size=4, width=16, depth=2, heads=2)


def constant(tokens: Tokens):
    """Returns an encoder that answers with given tokens."""
    return lambda images: tokens


@pytest.mark.parametrize(("part", "rows"), [("cls", 1), ("patches", 4), ("both", 5)])
def test_parts_are_what_they_say(encoder, part, rows):
    found = TokenDistance(encoder, part=part).outputs(IMAGES)

    tokens = encoder(IMAGES, training=False)
    every = tf.concat([tokens.cls[:, tf.newaxis], tokens.patches], axis=1)
    first = 1 if part == "patches" else 0
    assert found.shape == [3, rows, 16]
    np.testing.assert_allclose(found, every[:, first : first + rows], atol=1e-6)


def test_distances_by_hand():
    tokens = Tokens(tf.constant([[3.0, 4.0]]), tf.constant([[[1.0, 0.0], [0.0, 2.0]]]))
    victim, images = constant(tokens), tf.zeros([1, 2, 2, 3])
    given = tf.constant([[[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]]])
    matrix = tf.constant([[2.0, 0.0], [0.0, 0.5]])

    mse = TokenDistance(victim, part="both")(images, given)
    cosine = TokenDistance(victim, part="both", distance="cosine")(images, given)
    whitened = TokenDistance(
        victim, part="both", distance="whitened", whitening=matrix
    )(images, given)

    np.testing.assert_allclose(mse, [(16 + 4 + 4) / 6])
    np.testing.assert_allclose(cosine, [(0.4 + 0.0 + 1.0) / 3], rtol=1e-6)
    np.testing.assert_allclose(whitened, [(4 + 16 + 1) / 6], rtol=1e-6)


@pytest.mark.parametrize(
    ("part", "distance"),
    [
        ("patches", "cosine"),
        ("both", "whitened"),
        pytest.param("cls", "mse", marks=pytest.mark.slow),
        pytest.param("both", "mse", marks=pytest.mark.slow),
    ],
)
def test_tokens_move_and_the_image_stays_in_its_ball(encoder, part, distance):
    matrix = tf.eye(16) * 2.0 if distance == "whitened" else None
    objective = TokenDistance(encoder, part=part, distance=distance, whitening=matrix)
    clean, keys = objective.outputs(IMAGES), example_keys(1, 0, np.arange(3))
    attack = EmbedAttack(0.05, steps=5)

    found, info = attack(IMAGES, None, objective, keys=keys, return_info=True)

    np.testing.assert_array_equal(found, attack(IMAGES, clean, objective, keys=keys))
    noise = IMAGES + attack.ball.sample(keys, IMAGES.shape[1:], tf.fill([3], 0.05))
    noise = tf.clip_by_value(noise, 0, 1)
    assert (objective(found, clean) > 1.2 * objective(noise, clean)).numpy().all()
    assert (info.norm.numpy() <= 0.05 + 1e-6).all()
    assert not info.success.numpy().any()  # There is no such thing as success.


def test_an_image_comes_closer_to_the_one_it_shall_be_taken_for(encoder):
    objective = TokenMatch(encoder, part="both")
    distance = TokenDistance(encoder, part="both")
    others = objective.outputs(tf.roll(IMAGES, 1, axis=0))
    keys = example_keys(1, 0, np.arange(3))
    np.testing.assert_array_equal(objective(IMAGES, others), -distance(IMAGES, others))

    found = AutoPGD(0.1, steps=10)(IMAGES, others, objective, keys=keys)

    closer = distance(found, others) < 0.9 * distance(IMAGES, others)
    assert closer.numpy().all()
    with pytest.raises(TypeError, match="Pass `objective.outputs` of other images"):
        AutoPGD(0.1, steps=1)(IMAGES, None, objective, keys=keys)


def test_an_encoder_alone_is_attacked_in_its_class_token(encoder):
    keys = example_keys(1, 0, np.arange(3))
    attack = EmbedAttack(0.05, steps=2)

    np.testing.assert_array_equal(
        attack(IMAGES, None, encoder, keys=keys),
        attack(IMAGES, None, TokenDistance(encoder), keys=keys),
    )


def test_whitened_tokens_have_unit_spread_in_every_direction():
    draws = np.random.default_rng(0)
    tokens = draws.normal(size=[5000, 3]) @ np.diag([10.0, 1.0, 0.1]) + 7.0

    found = tokens @ whitening_of(tokens, shrinkage=1e-9).numpy()

    np.testing.assert_allclose(np.cov(found.T), np.eye(3), atol=0.01)


def test_a_whitened_shift_bounds_every_linear_head():
    draws = np.random.default_rng(1)
    tokens = draws.normal(size=[400, 6]) @ draws.normal(size=[6, 6])
    matrix = whitening_of(tokens, shrinkage=1e-3)
    for _ in range(20):
        head, shift = draws.normal(size=6), draws.normal(size=6)
        spread = np.std(tokens @ head)
        bound = spread * np.linalg.norm(shift @ matrix.numpy())
        # Shrinkage only adds to the covariance, by 1e-3 of its mean eigenvalue.
        slack = np.sqrt(1e-3 * np.trace(np.cov(tokens.T)) / 6) * np.linalg.norm(head)
        slack *= np.linalg.norm(shift @ matrix.numpy())
        assert abs(head @ shift) <= bound + slack + 1e-6


def test_much_shrinkage_is_the_plain_distance_up_to_scale():
    tokens = np.random.default_rng(2).normal(size=[50, 4]) * [5.0, 1.0, 1.0, 0.2]
    matrix = whitening_of(tokens, shrinkage=1e8).numpy()

    np.testing.assert_allclose(matrix / matrix[0, 0], np.eye(4), atol=1e-5)


@pytest.mark.parametrize(
    "targets",
    [[3], [3.0] * 16, np.zeros([1, 1, 16], int), np.zeros([1, 5, 16], np.float32)],
    ids=["labels", "width", "integer", "patches"],
)
@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_labels_and_other_shapes_are_no_reference(encoder, targets, distance):
    # B = 1: all of these would broadcast against [1, 1, 16].
    objective = TokenDistance(encoder, distance=distance)

    with pytest.raises(ValueError, match="reference tokens float.*or None; labels are"):
        objective(IMAGES[:1], tf.constant(targets))


def test_an_attack_on_tokens_refuses_labels(encoder):
    with pytest.raises(
        ValueError, match=r"labels are not used.*\(None,\) and dtype int32"
    ):
        EmbedAttack(0.05, steps=1)(IMAGES[:1], [3], encoder)


@pytest.mark.parametrize("kind", [FeatureDistance, CosineDistance])
def test_features_refuse_labels(kind):
    objective = kind(lambda images: images[:, 0, 0])  # Three features.

    with pytest.raises(ValueError, match="must be reference features.*labels are not"):
        objective(tf.constant(IMAGES), tf.constant([0, 1, 2]))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: TokenDistance(len, part="head"), "`part` must be one of"),
        (lambda: TokenDistance(len, distance="l1"), "`distance` must be one of"),
        (lambda: TokenDistance(len, distance="whitened"), "`whitening` must be given"),
        (lambda: TokenDistance(len, whitening=tf.eye(2)), "`whitening` must be given"),
        (lambda: EmbedAttack(random_start=False), "`random_start` must be true"),
        (lambda: whitening_of(tf.ones([2, 2]), 0.0), "`shrinkage` must be above 0"),
        (
            lambda: EmbedAttack()(IMAGES, None, tf.function(lambda x: x[:, 0, 0])),
            "`victim` must map images to `kerobust.types.Tokens`",
        ),
    ],
)
def test_other_settings_are_refused(make, text):
    with pytest.raises((ValueError, TypeError), match=text):
        make()
