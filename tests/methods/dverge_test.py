"""Tests of kerobust.methods.dverge and ensemble; goldens: V2 and V4 of DVERGE."""

import types

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import AttackConfig, CrossEntropy, MomentumPGD
from kerobust.config import UserError
from kerobust.evaluation.diversity import distilled_losses
from kerobust.methods.dverge import (
    Dverge,
    DvergeConfig,
    LayerMatch,
    TrainingLayerMatch,
)
from kerobust.methods.ensemble import EnsembleConfig
from kerobust.models import ClassifierHead, Ensemble
from tests.goldens.closed_form import checks
from tests.methods.tiny import first_batch, tiny_pretraining
from tests.models.dverge import PHASES, SHA256, resnet20
from tests.models.filled import formula

GOLDEN = checks("dverge.json", SHA256)
CASES = {
    f"layer {case['layer']}, {case['steps']} steps, momentum {case['momentum']}": case
    for case in GOLDEN["V2_distillation"]["cases"]
    if case["bn_mode"] == "eval"
}


def images_of(name, which):
    values = formula(GOLDEN[name]["inputs"][which])
    return tf.constant(np.transpose(values, [0, 2, 3, 1]), tf.float32)


def distillation(case):
    decay = 1.0 if case["momentum"] else 0.0
    return MomentumPGD(0.07, decay=decay, steps=case["steps"], step_size=0.007)


def make(name="dverge", *, step=0, sgd=0.1, **settings):
    tf.keras.utils.set_random_seed(0)
    method = tiny_pretraining(name, **settings)
    method.compile(optimizer=tf.keras.optimizers.SGD(sgd))
    method.optimizer.build(method.trained_variables())
    method.optimizer.iterations.assign(step)
    return method


def batch():
    return first_batch(partners=True)


@pytest.fixture(scope="module")
def network():
    return resnet20()


@pytest.mark.parametrize("name", CASES)
def test_distilled_images_are_those_of_the_original(network, name):
    case = CASES[name]
    source, target = (images_of("V2_distillation", x) for x in ("source", "target"))
    match = LayerMatch(network, case["layer"])
    features = match.references(target)

    found = distillation(case)(source, features, match)

    change = found - source
    # At the last layer, noise of 1e-6 in the features turns the sign of one gradient,
    # and one image then goes another way.
    last = case["layer"] == 20
    near, error = (2e-4, 1e-5) if last else (1e-5, 0)
    np.testing.assert_allclose(np.mean(change), case["delta_mean"], atol=near)
    mean = np.mean(np.abs(change))
    np.testing.assert_allclose(mean, case["delta_absmean"], atol=near)
    np.testing.assert_allclose(np.max(np.abs(change)), case["delta_max"], atol=1e-6)
    first = tf.transpose(found, [0, 3, 1, 2])[0, 0, 0, :6]
    np.testing.assert_allclose(first, case["xadv_first6"], atol=1e-5)
    np.testing.assert_allclose(np.sum(found), case["xadv_sum"], rtol=near)
    for seen, key in ((source, "feat_mse_before"), (found, "feat_mse_after")):
        errors = -np.mean(match(seen, features))
        np.testing.assert_allclose(errors, case[key], rtol=1e-3, atol=error)


def test_batch_norm_in_training_mode_as_in_the_original():
    (case,) = (
        case
        for case in GOLDEN["V2_distillation"]["cases"]
        if case["bn_mode"] == "train"
    )
    source, target = (images_of("V2_distillation", x) for x in ("source", "target"))
    network = resnet20()
    match = TrainingLayerMatch(network, case["layer"])

    found = distillation(case)(source, match.references(target), match)

    # Signs of nearly equal numbers make this chaotic: the original agrees with itself
    # in another precision on 84 % of the pixels.
    change = np.abs(found - source)
    np.testing.assert_allclose(np.mean(change), case["delta_absmean"], atol=1e-3)
    norm = network.encoder.norm1
    mean, variance = norm.moving_mean[:3], norm.moving_variance[:3]
    np.testing.assert_allclose(mean, case["bn1_running_mean_first3"], rtol=1e-3)
    np.testing.assert_allclose(variance, case["bn1_running_var_first3"], rtol=1e-3)


@pytest.fixture(scope="module")
def original():
    """The members of V4, in a method whose layer is 5."""
    ensemble = Ensemble([resnet20(phase) for phase in PHASES])
    config = EnsembleConfig()
    return Dverge(ensemble, config, AttackConfig(), DvergeConfig(layer=5))


def test_the_objective_is_that_of_the_original(original):
    golden = GOLDEN["V4_dverge_objective"]
    given = {
        "images": images_of("V4_dverge_objective", "source"),
        "partners": images_of("V4_dverge_objective", "target"),
        "labels": tf.constant([3, 7]),
        "keys": tf.zeros([2, 2], tf.int32),
    }
    distilled = original.distil(given, 0)

    terms = original.loss_terms({**given, "distilled": distilled}, training=False)

    expected = golden["expected"]["losses"]
    np.testing.assert_allclose(terms["distillation"], np.sum(expected), rtol=1e-5)
    assert float(terms["clean"]) == float(terms["adversarial"]) == 0.0
    for own, member in enumerate(original.members):
        others = [distilled[j] for j in range(3) if j != own]
        losses = [original.member_loss(member, x, given, False) for x in others]
        np.testing.assert_allclose(np.sum(losses), expected[own], rtol=1e-5)


def test_the_losses_of_diversity_are_those_of_the_original(original):
    golden = GOLDEN["V4_dverge_objective"]
    given = (images_of("V4_dverge_objective", name) for name in ("source", "target"))
    judges = [CrossEntropy(member) for member in original.members]
    attack, matches = original.distillation, original.matches[0]

    found = distilled_losses(attack, matches, judges, *given, tf.constant([1, 4]))

    expected = golden["expected"]["loss_matrix"]
    np.testing.assert_allclose(found / 2, expected, rtol=1e-5)


def test_distilled_images_stay_in_the_ball_and_in_range():
    method = make(dverge={"epsilon": 0.3, "step_size": 0.2})

    seen = method.perturb(batch())

    change = np.abs(np.stack(seen["distilled"]) - seen["images"])
    assert change.shape == (3, 16, 8, 8, 3)
    assert 0.29 < change.max() <= 0.3 + 1e-6
    assert np.min(seen["distilled"]) >= 0 and np.max(seen["distilled"]) <= 1


def test_distillation_brings_features_nearer_in_its_own_member():
    method, given = make(dverge={"layer": 2, "steps": 10}), batch()
    distilled = method.distil(given, 0)

    for member in range(3):
        match = method.matches[0][member]
        wanted = match.references(given["partners"])
        before = match(given["images"], wanted)
        after = match(distilled[member], wanted)
        assert np.all(after > before)


def test_a_layer_is_drawn_for_every_epoch_and_all_are_drawn():
    method = make()
    drawn = [int(method.layer_index(tf.constant(step))) for step in range(600)]

    epochs = np.reshape(drawn, [60, 10])  # Ten steps per epoch.
    assert np.all(epochs == epochs[:, :1])
    assert set(drawn) == set(range(5))
    counts = np.bincount(epochs[:, 0], minlength=5)
    assert counts.min() >= 4 and counts.max() <= 24  # Mean 12, deviation 3.1.


def test_a_layer_may_be_drawn_for_every_step_or_be_fixed():
    every = make(dverge={"layer_per": "step"})
    fixed = make(dverge={"layer": 4})

    drawn = [int(every.layer_index(tf.constant(step))) for step in range(10)]
    logs = fixed.train_step(batch())

    assert len(set(drawn)) > 1
    assert float(logs["layer"]) == 4.0


def test_each_member_learns_what_fools_the_others():
    method, given = make(), batch()
    given = method.perturb(given)
    labels = given["labels"]

    terms = method.loss_terms(given, training=True)

    expected = 0.0
    for own, member in enumerate(method.members):
        for other in range(3):
            if other != own:
                logits = member(given["distilled"][other])
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
                expected += np.mean(losses)
    np.testing.assert_allclose(terms["distillation"], expected, rtol=1e-5)


def test_weights_of_the_terms():
    double = make(dverge={"weight": 2.0, "clean_weight": 3.0})
    single = make()
    given = single.perturb(batch())

    found, usual = (
        method.loss_terms(given, training=False) for method in (double, single)
    )

    ratio = found["distillation"] / usual["distillation"]
    np.testing.assert_allclose(ratio, 2.0, rtol=1e-6)
    clean = single.clean_loss(given, False)
    np.testing.assert_allclose(found["clean"], 3.0 * clean, rtol=1e-6)


@pytest.mark.parametrize("attack", ["members", "ensemble"])
def test_the_attacked_images_are_those_of_the_members_or_of_all(attack):
    method, given = make(ensemble={"attack": attack, "attack_steps": 5}), batch()

    seen = method.perturb(given)

    count = 3 if attack == "members" else 1
    assert seen["adversarial"].shape == (16, count, 8, 8, 3)
    change = np.abs(seen["adversarial"] - given["images"][:, tf.newaxis])
    assert 0.09 < change.max() <= 0.1 + 1e-6
    victims = method.members if attack == "members" else [method.ensemble]
    for index, victim in enumerate(victims):
        losses = [
            tf.nn.sparse_softmax_cross_entropy_with_logits(given["labels"], victim(x))
            for x in (given["images"], seen["adversarial"][:, index])
        ]
        assert np.mean(losses[1]) > np.mean(losses[0])
    terms = method.loss_terms(seen, training=False)
    np.testing.assert_allclose(
        terms["adversarial"],
        sum(
            method.task.loss(member(seen["adversarial"][:, index % count]), labels)
            for labels in [given["labels"]]
            for index, member in enumerate(method.members)
        ),
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    "network", ["conv", pytest.param("resnet20", marks=pytest.mark.slow)]
)
def test_the_order_of_members_changes_no_weight(network):
    given = {"ensemble": {"network": network}, "dverge": {"layer": 2}}
    there, back = make(**given), make(**given)
    order = [2, 0, 1]
    members = [there.members[index].get_weights() for index in order]
    for member, weights in zip(back.members, members, strict=True):
        member.set_weights(weights)

    for method in (there, back):
        method.train_step(batch())

    for place, index in enumerate(order):
        found = back.members[place].trainable_variables
        expected = there.members[index].trainable_variables
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_members_of_an_ensemble_train_as_each_alone():
    together = make("ensemble")
    alone = make("ensemble", ensemble={"members": 1})
    alone.members[0].set_weights(together.members[1].get_weights())

    for method in (together, alone):
        method.train_step(batch())

    found, expected = together.members[1].get_weights(), alone.members[0].get_weights()
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "moves"), [("frozen", False), ("train", True)])
def test_attacks_of_training_treat_batch_norm_as_told(mode, moves):
    chosen = {"network": "resnet20", "bn_in_attack": mode, "members": 1}
    method = make("ensemble", ensemble={**chosen, "attack": "members"})
    norm = method.members[0].encoder.norm1
    before = norm.moving_mean.numpy()

    method.perturb(batch())

    assert np.any(before != norm.moving_mean.numpy()) == moves


def test_attacks_leave_batch_norm_alone_unless_told_otherwise():
    changed = []
    for mode in ("frozen", "train"):
        members = {"network": "resnet20", "bn_in_attack": mode, "members": 2}
        method = make(ensemble=members, dverge={"layer": 3, "steps": 1})
        norm = method.members[0].encoder.norm1
        before = norm.moving_mean.numpy()
        method.perturb(batch())
        changed.append(bool(np.any(before != norm.moving_mean.numpy())))

    assert changed == [False, True]


@pytest.mark.parametrize(
    ("network", "layers"),
    [
        ("vit", 2),  # One block and the logits.
        pytest.param("resnet18", 18, marks=pytest.mark.slow),
    ],
)
def test_members_may_be_other_encoders(network, layers):
    chosen = {"network": network, "members": 2}
    method = make(ensemble=chosen, dverge={"layer": 2}, sgd=1e-3)
    given = batch()
    every = make(ensemble=chosen)
    before = method.loss_terms(method.perturb(given), training=False)

    for _ in range(4):
        method.train_step(given)

    assert every.choices == list(range(1, layers + 1))
    after = method.loss_terms(method.perturb(given), training=False)
    assert float(after["distillation"]) < float(before["distillation"])


def test_encoders_that_show_no_layers_are_refused():
    class Opaque(tf.keras.Model):
        width = 2

    class Member:
        encoder, head = Opaque(), ClassifierHead(10, pooling="cls", norm=False)

    ensemble = types.SimpleNamespace(members=[Member(), Member()], combine="logits")
    settings = (EnsembleConfig(), AttackConfig(), DvergeConfig())
    with pytest.raises(UserError, match="show their layers .* Received: Opaque"):
        Dverge(ensemble, *settings)


def test_a_member_alone_is_refused():
    with pytest.raises(UserError, match="`--ensemble.members` must be at least 2"):
        make(ensemble={"members": 1})


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(UserError, match=r"`--dverge.layer` must lie in \[1, 5\]"):
        make(dverge={"layer": 6})
