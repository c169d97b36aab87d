"""What attacks refuse, and their words."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import (
    FGSM,
    PGD,
    Attack,
    AttackConfig,
    AutoPGD,
    Averaged,
    CrossEntropy,
    FeatureDistance,
    MomentumPGD,
    Objective,
    SegPGD,
    Square,
    TargetedMargin,
    Union,
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
        (lambda: PGD("8/255"), r"`epsilon` must be a number, such as 8 / 255.*'8/255'"),
        (lambda: PGD(step_size="2/255"), r"`step_size` must be a number.*'2/255'"),
        (
            lambda: MomentumPGD(restarts=5),
            r"`restarts` above 1 must come with random_start=True.*restarts=5",
        ),
        (lambda: Union([PGD(norm="l2")]), r"`attacks` must have an epsilon.*\[None\]"),
    ],
)
def test_constructors_refuse(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PGD(eps=0.1), r"`eps` must be an argument of PGD.*\"epsilon\"\?$"),
        (lambda: PGD(alpha=0.1), r"`alpha`.*Received: alpha=0.1.*\"step_size\"\?$"),
        (lambda: AutoPGD(step=0.1), r"`step`.*of AutoPGD.*Did you mean \"step_size\""),
        (lambda: SegPGD(nb_iter=5), r"`nb_iter`.*Did you mean \"steps\""),
        (lambda: Square(n_queries=5), r"`n_queries`.*Did you mean \"queries\""),
        (lambda: PGD(targeted=True), r"`targeted`.*TargetedCrossEntropy\(model\)"),
        (lambda: PGD(restart=2), r"`restart`.*Did you mean \"restarts\""),
        (lambda: PGD(zzz=1), r"one of: epsilon, .*trainable. Received: zzz=1.$"),
        (lambda: PGD(dtype="float16"), "`dtype` must be an argument of PGD"),
    ],
)
def test_unknown_arguments_are_refused(make, message):
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 8 / 255), ("l2", None)])
def test_a_radius_is_only_assumed_in_linf(norm, epsilon):
    images, labels = small_batch()
    attack, network = PGD(norm=norm), small_network()

    again = PGD.from_config(attack.get_config())

    assert attack.epsilon == again.epsilon == epsilon
    found = again(images, labels, network, epsilon=0.3)
    assert (attack.ball.norm(found - images) <= 0.3 + 1e-5).numpy().all()
    assert (attack.ball.norm(found - images) > 0.2).numpy().any()


@pytest.mark.parametrize(
    ("arrange", "message"),
    [
        (lambda *given: (given[2], *given[:2]), r"`images` must be a tensor"),
        (lambda *given: (given[0], given[2]), r"`targets` must hold tensors"),
    ],
)
def test_a_model_in_the_wrong_place_is_refused(arrange, message):
    given = arrange(*small_batch(), small_network())

    call = r"attack\(images, targets, victim\).*victim=model.*Received: .*Sequential"
    with pytest.raises(
        TypeError, match=f"{message}.*the model comes last: call {call}"
    ):
        FGSM(0.1)(*given)


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
        (PGD(2.5, norm="l2"), {}, r"at most 2,.*l2.*usual radius.*is 0.5.*=2.5"),
        (PGD(4.5, norm="l1"), {}, r"at most 4,.*l1.*usual radius.*is 12.*=4.5"),
        (PGD(norm="l2"), {}, r"`epsilon` must be given for norm l2: a usual .* 0.5"),
        (FGSM(norm="l1"), {}, r"`epsilon` must be given for norm l1: a usual .* 12"),
        (PGD(0.1), {"epsilon": "0.1"}, r"`epsilon` must be a number.*epsilon='0.1'"),
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
        (np.array([0, 1, 109, 0]), r"indices from 0 to 2,.*value 109. Leave images"),
        (np.array([0, -1, 2, 0]), r"indices from 0 to 2,.*value -1. Leave images"),
        ({"labels": np.zeros(4, int)}, r"classes to reach.*of type dict.*labels"),
    ],
)
def test_targets_are_refused(targets, message):
    images, _ = small_batch()

    with pytest.raises(ValueError, match=message):
        FGSM(0.1)(images, targets, small_network())


def test_classes_out_of_range_are_refused_whatever_holds_them():
    images, labels = small_batch()
    network, labels = small_network(), np.array(labels)
    goals = {"labels": labels, "goals": np.full(4, 3)}

    with pytest.raises(ValueError, match="from 0 to 2.*value 3"):
        FGSM(0.1)(images, goals, TargetedMargin(network))
    with pytest.raises(ValueError, match="from 0 to 2.*value 5"):
        FGSM(0.1)(images, labels + 3, Averaged(CrossEntropy(network), draws=2))


@pytest.mark.parametrize("kind", [int, np.int64])
def test_a_list_of_labels_is_taken(kind):
    images, labels = small_batch()
    network = small_network()

    result = FGSM(0.1)(images, [kind(each) for each in (0, 1, 2, 0)], network)

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
    message = r"`--attack.epsilon` must be given for norm l2.*usual radius.*0.5 in l2"
    with pytest.raises(UserError, match=message):
        AttackConfig(norm="l2")
