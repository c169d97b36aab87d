"""Evaluation: exact counts, laws, and what it refuses."""

import json

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import ATTACKS, FGSM, AttackConfig
from kerobust.config import UserError
from kerobust.evaluation import EvaluateConfig, Evaluator, evaluate
from kerobust.evaluation.results import doubts
from tests.evaluation.small import (
    ONE,
    QUICK,
    THREAT,
    Noise,
    assert_same,
    linear_model,
    relabelled,
    small_split,
)


@pytest.fixture(scope="module")
def reference(model):
    """Returns an undisturbed evaluation, 60 images in batches of 25."""
    return evaluate(model, small_split(), THREAT, QUICK)


def test_flags_match_the_closed_form_of_a_linear_classifier():
    weights = np.random.default_rng(0).normal(size=[192]).astype(np.float32)
    images = 0.3 + 0.4 * small_split().arrays()[0]  # The box never binds.
    margin = (images.reshape(60, -1) - 0.5) @ weights
    labels = np.where(np.arange(60) % 5 == 0, margin < 0, margin > 0)

    def victim(images):
        score = tf.linalg.matvec(tf.reshape(images, [-1, 192]) - 0.5, weights)
        return tf.stack([-score, score], axis=1)

    split = relabelled(small_split(), labels, images)
    found = evaluate(victim, split, AttackConfig(epsilon=0.01), QUICK)

    # An attack takes at most epsilon * |w|_1 from the margin, and one step takes it.
    clean = np.arange(60) % 5 != 0
    robust = clean & (np.abs(margin) > 0.01 * np.abs(weights).sum())
    assert 0 < robust.sum() < clean.sum()
    np.testing.assert_array_equal(found.clean, clean)
    for flags in found.robust.values():
        np.testing.assert_array_equal(flags, robust)


def test_worst_case_is_correct_clean_and_under_every_attack(reference):
    expected = reference.clean.copy()
    for flags in reference.robust.values():
        assert not np.any(flags & ~reference.clean)
        expected &= flags

    np.testing.assert_array_equal(reference.worst, expected)
    assert 0 < reference.worst.sum() < reference.clean.sum()


def test_batch_size_and_padding_change_nothing(model, reference):
    found = evaluate(model, small_split(), THREAT, QUICK.replace(batch_size=17))

    assert_same(found, reference)
    assert len(found.clean) == 60


@pytest.mark.usefixtures("noise_for_attacks")
def test_order_of_the_examples_changes_nothing(model):
    order = np.random.default_rng(0).permutation(60)
    reference = evaluate(model, small_split(), THREAT, QUICK)

    found = evaluate(model, small_split().subset(order), THREAT, QUICK)

    np.testing.assert_array_equal(found.ids, reference.ids[order])
    np.testing.assert_array_equal(found.clean, reference.clean[order])
    np.testing.assert_array_equal(found.worst, reference.worst[order])


@pytest.mark.usefixtures("noise_for_attacks")
def test_shuffled_labels_drop_accuracy_to_chance(model):
    split = small_split(300)
    labels = np.random.default_rng(0).permutation(split.labels)

    found = evaluate(model, relabelled(split, labels), THREAT, QUICK)

    # .1 with a standard deviation of .017.
    assert 0.03 < found.clean.mean() < 0.17


def test_epsilon_0_equals_clean(model):
    found = evaluate(model, small_split(), AttackConfig(epsilon=0.0), ONE)

    for flags in found.robust.values():
        np.testing.assert_array_equal(flags, found.clean)
    assert all(stats["max"] == 0.0 for stats in found.norms.values())


def test_curve_runs_from_clean_through_the_named_attack_to_the_grey_image(reference):
    first, middle, last = reference.curve

    assert (first["epsilon"], middle["epsilon"], last["epsilon"]) == (0.0, 0.05, 0.5)
    assert first["correct"] == reference.clean.sum()
    assert middle["correct"] == reference.robust["pgd"].sum()
    assert last["robust_accuracy"] == 0.0
    low, high = middle["interval"]
    assert low < middle["robust_accuracy"] < high
    assert reference.notes == []


@pytest.mark.parametrize(
    "norm, grey",
    [("l2", 0.5 * 192**0.5), pytest.param("l1", 96.0, marks=pytest.mark.slow)],
)
def test_other_norms_stay_in_their_ball(model, norm, grey):
    threat = AttackConfig(epsilon=0.5, norm=norm)
    config = ONE.replace(epsilons=())

    found = evaluate(model, small_split(), threat, config)

    assert 0.4 < found.norms["pgd"]["max"] <= 0.5 * (1 + 1e-4)
    epsilons = [point["epsilon"] for point in found.curve]
    np.testing.assert_allclose(epsilons, [0, 0.125, 0.25, 0.5, 1.0, grey], rtol=1e-6)


def test_more_radii_do_not_compile_more(model):
    traces = []

    def victim(images):
        traces.append(1)
        return model(images, training=False)

    def count(epsilons):
        traces.clear()
        evaluate(victim, small_split(), THREAT, ONE.replace(epsilons=epsilons))
        return len(traces)

    assert count((0.01,)) == count((0.01, 0.02, 0.03, 0.04))


def test_new_weights_do_not_compile_more(model):
    traces = []

    class Counted(tf.keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = linear_model()

        def call(self, images, training=False):
            traces.append(1)
            return self.inner(images, training=training)

    counted, evaluator = Counted(), Evaluator(THREAT, ONE)
    first = evaluator(counted, small_split(), thorough=False)
    before = len(traces)
    counted.set_weights([-weight for weight in counted.get_weights()])
    second = evaluator(counted, small_split(), thorough=False)

    assert len(traces) == before
    assert second.clean.sum() < first.clean.sum()
    assert first.curve == second.curve == []


def test_restarts_go_on_with_what_still_stands(model, monkeypatch):
    attacked = []

    class Recorder(Noise):
        def __call__(self, images, labels, victim, *, epsilon, keys):
            attacked.append((len(images), keys.numpy().tolist()))
            return super().__call__(images, labels, victim, epsilon=epsilon, keys=keys)

    monkeypatch.setitem(ATTACKS, "pgd", Recorder)
    config = ONE.replace(restarts=3, batch_size=60, curve=False)
    found = evaluate(model, small_split(), AttackConfig(epsilon=0.2), config)

    sizes = [size for size, _ in attacked]
    keys = [key for _, rows in attacked for key in map(tuple, rows)]
    assert len(sizes) == 3
    assert sizes[0] == found.clean.sum() < 60
    assert sizes[0] > sizes[1] >= sizes[2] >= found.robust["pgd"].sum() > 0
    assert len(set(keys)) == len(keys)  # Every try has noise of its own.


@pytest.mark.usefixtures("noise_for_attacks")
def test_limit_takes_examples_evenly_from_the_whole_split(model):
    split = small_split(60)

    found = evaluate(model, split, THREAT, QUICK.replace(limit=4))

    np.testing.assert_array_equal(found.ids, np.asarray(split.ids)[[0, 15, 30, 45]])


def test_pictures_show_fooled_examples_first(reference):
    pictures = reference.pictures

    assert pictures["clean"].shape == pictures["adversarial"].shape == (8, 8, 8, 3)
    fooled = pictures["labels"] != pictures["adversarial_predictions"]
    right = pictures["labels"] == pictures["clean_predictions"]
    assert (fooled & right)[0]
    change = np.abs(pictures["adversarial"] - pictures["clean"])
    assert change.max() <= 0.05 + 1e-6


def test_result_is_json(reference):
    found = json.loads(json.dumps(reference.to_dict(), allow_nan=False))

    assert found["worst"]["correct"] == sum(found["examples"]["worst"])
    assert found["natural"]["total"] == len(found["examples"]["ids"]) == 60


def test_saturated_logits_are_noticed_as_masking():
    # In float32 the softmax of huge logits is exactly one-hot: its gradient is zero.
    found = evaluate(linear_model(scale=1e5), small_split(), THREAT, ONE)

    assert any("Gradients may be masked" in note for note in found.notes)


def test_a_rising_curve_and_a_strong_single_step_are_noticed():
    less, more = np.arange(20) < 5, np.arange(20) < 9
    none = np.zeros(20, bool)

    notes = doubts([(0.1, less), (0.2, more), (0.5, none)], {"fgsm": less, "pgd": more})

    # 4 discordant pairs, all on one side: p = 2 / 2^4 = .125.
    assert len(notes) == 2
    assert "rises from 25.0% at 0.1 to 45.0% at 0.2 (within chance" in notes[0]
    assert "p = 0.12)" in notes[0]
    assert "FGSM does more harm than PGD (25.0% against 45.0%" in notes[1]


def test_an_attack_that_leaves_its_ball_is_an_error(model, monkeypatch):
    class Cheat(FGSM):
        def __call__(self, images, *arguments, **options):
            return tf.clip_by_value(images + 0.1, 0.0, 1.0)

    monkeypatch.setitem(ATTACKS, "fgsm", Cheat)

    with pytest.raises(
        RuntimeError, match=r"`fgsm` must stay.*norm 0.1 with epsilon=0"
    ):
        evaluate(model, small_split(), THREAT, QUICK)


@pytest.mark.usefixtures("noise_for_attacks")
@pytest.mark.parametrize(
    "victim, message",
    [
        (lambda images: tf.reduce_sum(images, axis=[1, 2, 3]), "output of shape"),
        (lambda images: images[:, 0, :, 0] / 0.0, "Received: NaN or infinity"),
    ],
)
def test_models_without_usable_logits_are_refused(victim, message):
    with pytest.raises(UserError, match=message):
        evaluate(victim, small_split(), THREAT, QUICK)


def test_unlabelled_examples_are_refused(model):
    split = relabelled(small_split(), np.full([60], -1))

    with pytest.raises(UserError, match="60 examples, 60 of them without a label"):
        evaluate(model, split, THREAT, QUICK)


def test_radii_beyond_all_images_are_refused(model):
    with pytest.raises(UserError, match=r"--evaluate.epsilons.*at most 1.*\(8.0,\)"):
        evaluate(model, small_split(), THREAT, QUICK.replace(epsilons=(8.0,)))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"attacks": ()}, "must name at least one attack"),
        ({"attacks": ("pgd", "pgd")}, "each only once"),
        ({"attacks": ("pdg",)}, 'Received: pdg. Did you mean "pgd"?'),
        ({"steps": 0}, "`--evaluate.steps` must be at least 1. Received: steps=0"),
        ({"limit": 0}, "Received: limit=0"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(UserError) as error:
        EvaluateConfig(**change)

    assert message in str(error.value)
