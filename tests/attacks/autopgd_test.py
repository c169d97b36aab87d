"""Auto-PGD: closed forms, its rules, its phases, and the original's numbers."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import (
    BALLS,
    DLR,
    PGD,
    AutoPGD,
    CrossEntropy,
)
from kerobust.attacks.step_rules import HalvingRule, SparseRule
from kerobust.randomness import example_keys
from tests.attacks.victims import Counting, Linear, convnet, digits


@pytest.fixture(scope="module")
def network():
    return convnet()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize(("shape", "rows"), [((1, 1, 6), 1), ((3, 2, 2), 3)])
def test_reaches_the_closed_form_maximum_of_a_linear_objective(norm, shape, rows):
    weights = np.linspace(-1.0, 2.0, int(np.prod(shape))).astype(np.float32)
    images = tf.fill([rows, *shape], 0.5)
    epsilon = {"linf": 0.1, "l2": 0.2, "l1": 0.3}[norm]

    _, info = AutoPGD(epsilon, norm=norm, steps=40, seed=0)(
        images, tf.zeros([rows]), Linear(weights), return_info=True
    )

    # The rise is epsilon times the dual norm; the box is out of reach.
    dual = {"linf": 1, "l2": 2, "l1": np.inf}[norm]
    expected = 0.5 * weights.sum() + epsilon * np.linalg.norm(weights, dual)
    np.testing.assert_allclose(info.loss, np.full(rows, expected), rtol=1e-3)


def test_the_corrected_rule_is_stronger_where_it_differs(network):
    images, labels = digits()
    options = {"steps": 5, "random_start": False}

    success = [
        AutoPGD(0.2, compat=compat, **options)(
            images, labels, DLR(network), return_info=True
        )[1].success.numpy()
        for compat in (True, False)
    ]

    # Measured before: 56.0 % robust with the original's first window, 54.5 % without.
    assert success[1].mean() > success[0].mean()


def test_checkpoints_stand_where_the_paper_puts_them():
    rule = HalvingRule(BALLS["linf"], 0.75)

    ends = {
        steps: [i + 1 for i, window in enumerate(rule.windows(steps)) if window]
        for steps in (100, 50, 20, 5)
    }

    # Specification: iterations counted from 0 there, the end of the window here.
    assert ends[100] == [22, 41, 57, 70, 80, 87, 93, 99]
    assert ends[50] == [11, 21, 30, 38, 45, 50] or ends[50] == [11, 21, 30, 38, 45]
    assert ends[20][:3] == [4, 7, 9] and ends[20][-1] == 20
    assert ends[5] == [1, 2, 3, 4, 5]
    sparse = [i + 1 for i, each in enumerate(SparseRule(None).windows(100)) if each]
    assert sparse == list(range(4, 101, 4))


def test_a_step_that_overshoots_is_halved_until_it_fits():
    class Peak(Linear):
        """-|x - 0.53| per example: only small steps end near the peak."""

        def values(self, outputs, targets):
            return -tf.abs(outputs - 0.53)

    images = tf.fill([1, 1, 1, 1], 0.5)
    attack = AutoPGD(0.1, steps=100, random_start=False)

    _, info = attack(images, tf.zeros([1]), Peak([1.0]), return_info=True)

    # With steps of 0.2 and momentum, but without halving, it jumps between the borders.
    assert info.loss[0] > -1e-3


def test_every_step_costs_one_forward_and_the_start_one_more(network):
    images, labels = digits(4)
    victim = Counting(CrossEntropy(network))

    AutoPGD(0.1, steps=10)(images, labels, victim)

    # Traced at the start, in the loop and after it.
    assert victim.forwards.numpy() == 11 and victim.traces == 3


def test_phases_end_in_the_true_ball_and_count_only_what_fools_there(network):
    images, labels = digits(100)
    attack = AutoPGD(1.0, norm="l1", steps=20, radii=(3.0, 2.0, 1.0), seed=0)

    adversarial, info = attack(images, labels, network, return_info=True)

    norms = np.abs(adversarial - images).sum(axis=(1, 2, 3))
    assert norms.max() <= 1.0 * (1 + 1e-5)
    wrong = network(adversarial).numpy().argmax(axis=1) != labels
    np.testing.assert_array_equal(info.success, wrong)


def test_each_further_phase_costs_one_forward(network):
    images, labels = digits(4)
    victim = Counting(CrossEntropy(network))

    AutoPGD(0.1, steps=10, radii=(2.0, 1.5, 1.0))(images, labels, victim)

    assert victim.forwards.numpy() == 11 + 2


@pytest.mark.slow
def test_larger_radii_first_do_no_harm_in_l1(network):
    images, labels = digits()
    keys = example_keys(0, 0, tf.range(200))

    success = [
        AutoPGD(0.6, norm="l1", steps=50, radii=radii)(
            images, labels, network, keys=keys, return_info=True
        )[1].success.numpy()
        for radii in ((1.0,), (3.0, 2.0, 1.0))
    ]

    assert success[1].sum() >= success[0].sum() - 2


@pytest.mark.parametrize(
    "radii", [(1.0,), pytest.param((2.0, 1.5, 1.0), marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_leaving_when_fooled_changes_no_success(network, norm, radii):
    images, labels = digits(60)
    epsilon = {"linf": 0.15, "l2": 0.6, "l1": 0.8}[norm]
    keys = example_keys(0, 0, tf.range(60))

    success = [
        AutoPGD(epsilon, norm=norm, steps=20, radii=radii, stop_when_fooled=stop)(
            images, labels, network, keys=keys, return_info=True
        )[1].success.numpy()
        for stop in (False, True)
    ]

    np.testing.assert_array_equal(*success)
    assert 5 < success[0].sum() < 55


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_starts_on_the_border_of_the_ball(norm):
    # With a step of size 0 the first point is also the last.
    images = tf.fill([5, 4, 5, 3], 0.5)
    attack = AutoPGD(0.2, norm=norm, steps=1, step_size=0.0)

    adversarial, info = attack(
        images, tf.zeros([5]), Linear(np.zeros(60)), return_info=True
    )

    np.testing.assert_allclose(info.norm, np.full(5, 0.2), rtol=1e-4)
    change = tf.reshape(adversarial - images, [5, 60]).numpy()
    assert len(np.unique(np.sign(change), axis=0)) == 5


def test_is_no_weaker_than_pgd_with_the_same_budget(network):
    images, labels = digits()
    keys = example_keys(0, 0, tf.range(200))

    robust = [
        np.mean(
            ~attack(images, labels, network, keys=keys, return_info=True)[1].success
        )
        for attack in (PGD(0.2, steps=50, keep="best"), AutoPGD(0.2, steps=50))
    ]

    assert robust[1] <= robust[0] + 0.005


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"keep": "last"}, '`keep` of AutoPGD must be "best".*keep=last'),
        ({"rises": 1.5}, r"`rises` must lie in \[0, 1\].*rises=1.5"),
        ({"steps": 0}, "`steps` must be a whole number.*steps=0"),
        ({"radii": (1.0, 2.0)}, r"`radii`.*falling.*radii=\(1.0, 2.0\)"),
        ({"radii": (3.0, 2.0)}, "`radii`.*end with 1"),
        ({"radii": (4.0, 3.0, 2.0, 1.0)}, "`radii`.*one to three"),
        ({"radii": (2.0, 1.0), "steps": 1}, "`steps`.*steps=1"),
    ],
)
def test_what_it_refuses(options, text):
    with pytest.raises(ValueError, match=text):
        AutoPGD(0.1, **options)
