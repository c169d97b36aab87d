"""Attacks on segmentations and depth maps: closed forms, a slow reference, laws."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import (
    PGD,
    DepthError,
    DepthPGD,
    PixelCrossEntropy,
    SegPGD,
)
from kerobust.losses.depth import gradient_loss, sig_loss
from kerobust.losses.pixels import pixel_cross_entropy
from kerobust.randomness import example_keys

KERNEL = np.array([[2.0, -1.0, 0.5], [-1.0, 1.5, 0.5]], np.float32)  # [C, K]
BIAS = np.array([0.0, 0.2, -0.1], np.float32)
IMAGES = tf.random.stateless_uniform([3, 4, 5, 2], [3, 4], 0.3, 0.7)
EPSILON = 0.1


@tf.function
def segment(images):
    """Logits of every pixel from its own two channels."""
    return tf.tensordot(images, KERNEL, 1) + BIAS


@tf.function
def depth_of(images):
    return 1.0 + 4.0 * images[..., 0] + images[..., 1]


def half_right() -> np.ndarray:
    """Labels of which every second column is right, and the last row unknown."""
    labels = segment(IMAGES).numpy().argmax(-1)
    labels[:, :, ::2] = (labels[:, :, ::2] + 1) % 3
    labels[:, -1] = -1
    return labels


def keys(count=3):
    return example_keys(5, 0, np.arange(count))


def test_the_first_step_moves_the_pixels_that_are_right_and_no_others():
    labels = half_right()

    found = SegPGD(EPSILON, steps=1, random_start=False)(IMAGES, labels, segment)

    moved = np.abs(found - IMAGES).max(-1) > 0
    np.testing.assert_array_equal(moved, (labels >= 0) & (np.arange(5) % 2 == 1))


def test_later_steps_move_all_labelled_pixels():
    labels = half_right()

    found = SegPGD(EPSILON, steps=2, random_start=False)(IMAGES, labels, segment)

    np.testing.assert_array_equal(np.abs(found - IMAGES).max(-1) > 0, labels >= 0)


@pytest.mark.parametrize("step", [0, 3, 9])
def test_the_share_of_wrong_pixels_grows_to_almost_a_half(step):
    labels = tf.constant(half_right(), tf.int32)
    objective = PixelCrossEntropy(segment)
    given = (tf.constant(step), IMAGES, labels, objective)

    gradient, _ = SegPGD(EPSILON, steps=10)._differentiated(*given)

    share = tf.fill([3], step / 20)
    with tf.GradientTape() as tape:
        tape.watch(IMAGES)
        value = objective(IMAGES, {"labels": labels, "wrong_share": share})
    np.testing.assert_allclose(gradient, tape.gradient(value, IMAGES), atol=1e-8)


def slow_seg_pgd(image, labels, steps: int, step_size: float) -> np.ndarray:
    """One image, pixel by pixel: the sum of the paper, differentiated by hand."""
    here = image.copy()
    for step in range(steps):
        share = step / (2 * steps)
        for row, column in np.argwhere(labels >= 0):
            logits = here[row, column] @ KERNEL + BIAS
            chances = np.exp(logits - logits.max())
            chances /= chances.sum()
            own = np.eye(3)[labels[row, column]]
            right = logits.argmax() == labels[row, column]
            gradient = (1 - share if right else share) * (KERNEL @ (chances - own))
            moved = here[row, column] + step_size * np.sign(gradient)
            near = image[row, column]
            moved = np.clip(moved, near - EPSILON, near + EPSILON)
            here[row, column] = np.clip(moved, 0, 1)
    return here


def test_a_slow_reference_agrees():
    labels = half_right()
    attack = SegPGD(EPSILON, steps=6, step_size=0.04, random_start=False)

    found = attack(IMAGES, labels, segment)

    for image, mask, result in zip(IMAGES.numpy(), labels, found, strict=True):
        expected = slow_seg_pgd(image, mask, 6, 0.04)
        np.testing.assert_allclose(result, expected, atol=1e-6)


def test_values_are_plain_and_gradients_weighted():
    labels = tf.constant(half_right(), tf.int32)
    objective, share = PixelCrossEntropy(segment), tf.constant([0.0, 0.25, 0.5])
    plain = pixel_cross_entropy(segment(IMAGES), labels)

    found = objective(IMAGES, {"labels": labels, "wrong_share": share})

    np.testing.assert_allclose(found, plain, rtol=1e-6)
    with tf.GradientTape() as tape:
        tape.watch(IMAGES)
        value = objective(IMAGES, {"labels": labels, "wrong_share": share})
    gradient = tape.gradient(value, IMAGES)
    with tf.GradientTape() as tape:
        tape.watch(IMAGES)
        value = objective(IMAGES, labels)
    usual = tape.gradient(value, IMAGES)
    right = (segment(IMAGES).numpy().argmax(-1) == labels.numpy())[..., np.newaxis]
    factor = np.where(right, 1 - share[:, None, None, None], share[:, None, None, None])
    np.testing.assert_allclose(gradient, factor * usual, atol=1e-7)


def test_separate_means_do_not_depend_on_how_many_pixels_are_right():
    labels = tf.constant(half_right(), tf.int32)
    share = tf.constant([0.5] * 3)
    given = {"labels": labels, "wrong_share": share}
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(IMAGES)
        logits = segment(IMAGES)
        value = PixelCrossEntropy(lambda seen: segment(seen), separate_means=True)(
            IMAGES, given
        )
        right = tf.cast(tf.argmax(logits, -1, tf.int32) == labels, tf.float32)
        wrong = tf.cast(labels >= 0, tf.float32) - right
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            tf.maximum(labels, 0), logits
        )
        means = [
            tf.reduce_sum(part * losses, [1, 2]) / tf.reduce_sum(part, [1, 2])
            for part in (right, wrong)
        ]
        expected = 0.5 * means[0] + 0.5 * means[1]

    np.testing.assert_allclose(
        tape.gradient(value, IMAGES), tape.gradient(expected, IMAGES), atol=1e-7
    )


@pytest.mark.parametrize(
    ("attack", "victim", "targets"),
    [
        (SegPGD(EPSILON, steps=3, restarts=2), segment, half_right()),
        (SegPGD(1.0, norm="l2", steps=3), segment, half_right()),
        (DepthPGD(EPSILON, steps=3), depth_of, depth_of(IMAGES).numpy()),
    ],
    ids=["segmentation", "segmentation, l2", "depth"],
)
def test_results_stay_legal_and_images_do_not_meet(attack, victim, targets):
    found, info = attack(IMAGES, targets, victim, keys=keys(), return_info=True)
    alone = attack(IMAGES[1:2], targets[1:2], victim, keys=keys()[1:2])

    np.testing.assert_allclose(found[1:2], alone, atol=1e-6)
    assert found.numpy().min() >= 0 and found.numpy().max() <= 1
    assert (info.norm.numpy() <= attack.epsilon * (1 + 1e-5)).all()
    objective = attack.default_objective(victim)
    before, after = (objective(seen, targets) for seen in (IMAGES, found))
    assert (after.numpy() > before.numpy()).all()
    np.testing.assert_allclose(info.loss, after, rtol=1e-4)
    copy = type(attack).from_config(attack.get_config())
    again = copy(IMAGES, targets, victim, keys=keys())
    np.testing.assert_array_equal(found, again)


def test_without_targets_the_prediction_is_attacked():
    seen = segment(IMAGES).numpy().argmax(-1)
    attack = SegPGD(EPSILON, steps=2)

    none = attack(IMAGES, None, segment, keys=keys())

    np.testing.assert_array_equal(none, attack(IMAGES, seen, segment, keys=keys()))


@pytest.mark.parametrize("attack", [SegPGD(EPSILON, steps=2), PGD(EPSILON, steps=2)])
def test_images_without_a_label_have_finite_results(attack):
    labels = half_right()
    labels[0] = -1

    found = attack(IMAGES, labels, PixelCrossEntropy(segment), keys=keys())

    assert np.isfinite(found).all()


def test_depth_error_is_the_sum_of_its_losses():
    truth = depth_of(IMAGES) * 1.3
    given = (depth_of(IMAGES), truth)

    found = DepthError(depth_of, gradient_weight=0.25)(IMAGES, truth)
    warm = DepthError(depth_of, gradient_weight=0.0, warm_up=True)(IMAGES, truth)

    expected = sig_loss(*given) + 0.25 * gradient_loss(*given)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(warm, sig_loss(*given, warm_up=True), rtol=1e-6)


def labelled(value) -> np.ndarray:
    """Masks with one pixel of a value."""
    masks = half_right()
    masks[1, 2, 3] = value
    return masks


def measured(value) -> np.ndarray:
    """Depths with one pixel of a value."""
    depths = np.ones([3, 4, 5], np.float32)
    depths[1, 2, 3] = value
    return depths


@pytest.mark.parametrize(
    ("attack", "targets", "victim", "text"),
    [
        (SegPGD(), np.zeros([3, 4, 5], np.int32), depth_of, r"logits of shape \[B, H"),
        (DepthPGD(), np.ones([3, 4, 5], np.float32), segment, r"depths of shape \[B"),
        (SegPGD(), np.zeros([3, 4, 5], np.float32), segment, "integer masks"),
        (SegPGD(), np.zeros([3], np.int32), segment, "integer masks"),
        (SegPGD(), np.zeros([3, 4, 1], np.int32), segment, "size of the victim's log"),
        (SegPGD(), labelled(255), segment, r"0 to 2, -1.*value 255.*== 255, -1, masks"),
        (SegPGD(), labelled(3), segment, "from 0 to 2, -1.*value 3 for logits of 3"),
        (SegPGD(), labelled(-2), segment, "from 0 to 2, -1.*value -2"),
        (DepthPGD(), measured(np.nan), depth_of, "at least 0 and finite.*value NaN"),
        (
            DepthPGD(),
            measured(-1.0),
            depth_of,
            "depths in metres, at least 0.*value -1",
        ),
        (DepthPGD(), measured(np.inf), depth_of, "at least 0 and finite.*infinity"),
        (DepthPGD(), measured(1.0)[..., None], depth_of, r"depths in.*\(None, 4, 5, 1"),
        (DepthPGD(), measured(1.0)[:, :, :1], depth_of, r"depths in.*\(None, 4, 1\)"),
    ],
)
def test_what_is_no_dense_problem_is_refused(attack, targets, victim, text):
    with pytest.raises((TypeError, ValueError), match=text):
        attack(IMAGES, targets, victim)
