"""What attacks refuse, and their words."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import (
    FGSM,
    PGD,
    Attack,
    AttackConfig,
    CrossEntropy,
    FeatureDistance,
    MomentumPGD,
    Objective,
)
from kerobust.config import UserError
from tests.attacks.victims import small_batch, small_network

SLIP = "did you mean 8/255"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: PGD(8),
            rf"`epsilon` must be at most 1.*{SLIP}.*Received: epsilon=8.0",
        ),
        (lambda: PGD(-0.1), r"`epsilon` must be at least 0.*Received: epsilon=-0.1"),
        (lambda: PGD(float("nan")), r"`epsilon` must be at least 0 and finite"),
        (lambda: PGD(norm="l2", epsilon=-1), r"`epsilon` must be at least 0"),
        (lambda: PGD(norm="l3"), r"`norm` must be one of: linf, l2, l1.*norm=l3"),
        (lambda: PGD(steps=0), r"`steps` must be a whole number.*Received: steps=0"),
        (lambda: PGD(steps=1.5), r"`steps` must be a whole number.*steps=1.5"),
        (lambda: PGD(restarts=0), r"`restarts` must be a whole number.*restarts=0"),
        (lambda: PGD(step_size=-1), r"`step_size` must be at least 0.*step_size=-1"),
        (
            lambda: PGD(keep="first"),
            r'`keep` must be None, "last" or "best".*keep=first',
        ),
        (lambda: MomentumPGD(decay=-1), r"`decay` must be at least 0.*decay=-1"),
    ],
)
def test_constructors_refuse(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match="alpha"):
        PGD(alpha=0.1)
    with pytest.raises(TypeError, match="dtype"):
        PGD(dtype="float16")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.full([2, 2, 2, 1], 200, np.uint8), r"floating.*divide by 255.*dtype uint8"),
        (np.full([2, 2, 2, 1], 200.0), r"lie in \[0, 1\]. Divide by 255.*\[200, 200\]"),
        (np.full([2, 2, 2, 1], -1.5), r"lie in \[0, 1\]. Undo the normalisation"),
        (np.full([2, 2, 2, 1], np.nan), r"be numbers.*NaN"),
        (np.full([2, 2, 1], 0.5), r"shape \[B, H, W, C\].*shape \(2, 2, 1\)"),
    ],
)
def test_images_are_refused(images, message):
    with pytest.raises(ValueError, match=f"`images` must.*{message}"):
        FGSM(0.1)(images, tf.zeros([2], tf.int32), small_network())


def test_shape_and_type_of_images_are_checked_in_graphs_too():
    with pytest.raises(ValueError, match="divide by 255"):
        FGSM(0.1)(tf.keras.Input([2, 2, 1], dtype="uint8"), None, small_network())
    with pytest.raises(ValueError, match="known H, W and C"):
        FGSM(0.1)(tf.keras.Input([None, 2, 1]), None, small_network())


@pytest.mark.parametrize(
    ("attack", "options", "message"),
    [
        (PGD(0.1), {"epsilon": 8.0}, rf"`epsilon` must be at most 1,.*linf.*{SLIP}"),
        (PGD(0.1), {"epsilon": -0.1}, r"`epsilon` must be at least 0"),
        (PGD(0.1), {"epsilon": [0.1, np.nan, 0.1, 0.1]}, r"at least 0 and finite"),
        (PGD(0.1), {"epsilon": [0.1, 0.2]}, r"`epsilon` must have one row per image"),
        (PGD(0.1), {"epsilon": np.ones([4, 1])}, r"a number or of shape \[B\]"),
        (PGD(0.1), {"step_size": -0.1}, r"`step_size` must be at least 0"),
        (PGD(0.1), {"keys": tf.zeros([3, 2], tf.int32)}, r"`keys` must have one row"),
        # 2 x 2 x 1 numbers: an l2 change is at most 2, an l1 change at most 4.
        (PGD(2.5, norm="l2"), {}, rf"`epsilon` must be at most 2,.*l2.*{SLIP}"),
        (PGD(4.5, norm="l1"), {}, rf"`epsilon` must be at most 4,.*l1.*{SLIP}"),
    ],
)
def test_arguments_of_a_call_are_refused(attack, options, message):
    images, labels = small_batch()

    with pytest.raises(ValueError, match=message):
        attack(images, labels, small_network(), **options)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (np.eye(3)[[0, 1, 2, 0]], r"integer class indices.*SoftCrossEntropy"),
        (
            np.eye(3, dtype=int)[[0, 1, 2, 0]],
            r"integer class indices.*SoftCrossEntropy",
        ),
        (np.zeros([3], int), r"`targets` must have one row per image.*\(3,\)"),
        (np.array(0), r"`targets` must have one row per image.*\(\)"),
    ],
)
def test_targets_are_refused(targets, message):
    images, _ = small_batch()

    with pytest.raises(ValueError, match=message):
        FGSM(0.1)(images, targets, small_network())


def test_a_list_of_labels_is_taken():
    images, labels = small_batch()
    network = small_network()

    result = FGSM(0.1)(images, [0, 1, 2, 0], network)

    np.testing.assert_array_equal(result, FGSM(0.1)(images, labels, network))


@pytest.mark.parametrize(
    ("victim", "message"),
    [
        (None, r"`victim` must be an Objective or a callable.*victim=None"),
        (lambda x: tf.reduce_sum(x, [1, 2, 3]), r"logits of shape.*subclass"),
    ],
)
def test_victims_are_refused(victim, message):
    images, labels = small_batch()

    with pytest.raises(TypeError, match=message):
        FGSM(0.1)(images, labels, victim)


def test_a_victim_without_gradient_is_refused():
    images, labels = small_batch()

    with pytest.raises(ValueError, match="must be differentiable.*CrossEntropy"):
        FGSM(0.1)(images, labels, lambda images: tf.round(images)[:, 0, 0] * 0)
    with pytest.raises(ValueError, match="must be differentiable.*CrossEntropy"):
        FGSM(0.1)(images, labels, lambda images: tf.zeros([tf.shape(images)[0], 3]))


def test_an_objective_that_sums_over_the_batch_is_refused():
    class Summed(CrossEntropy):
        def values(self, outputs, targets):
            return tf.reduce_mean(super().values(outputs, targets))

    images, labels = small_batch()

    with pytest.raises(ValueError, match="one number per example.*Summed"):
        FGSM(0.1)(images, labels, Summed(small_network()))


def test_what_needs_success_refuses_objectives_without_it():
    images, _ = small_batch()
    network = small_network()

    with pytest.raises(TypeError, match="`skip_misclassified` needs.*FeatureDistance"):
        FGSM(0.1, skip_misclassified=True)(
            images, network(images), FeatureDistance(network)
        )
    with pytest.raises(TypeError, match="`targets` must be given"):
        FGSM(0.1)(images, None, FeatureDistance(network))


def test_bases_leave_the_work_to_subclasses():
    images, labels = small_batch()

    with pytest.raises(NotImplementedError):
        Attack(0.1)(images, labels, small_network())
    with pytest.raises(NotImplementedError):
        FGSM(0.1)(images, labels, Objective())


def test_the_config_refuses_pixel_units_for_linf_only():
    assert AttackConfig(epsilon=3.0, norm="l2").epsilon == 3.0
    assert AttackConfig() == AttackConfig(epsilon=8 / 255, norm="linf")
    message = r"`--attack.epsilon` must be at most 1.*Received: epsilon=8.*8/255"
    with pytest.raises(UserError, match=message):
        AttackConfig(epsilon=8)
    with pytest.raises(
        UserError, match=r"`--attack.norm` must be one of.*linf, l2, l1"
    ):
        AttackConfig(norm="l3")
