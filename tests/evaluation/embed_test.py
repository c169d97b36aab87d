"""The attack on the representation, judged by the classifier behind it."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import AttackConfig, FeatureDistance
from kerobust.config import UserError
from kerobust.evaluation import EvaluateConfig, Evaluator, evaluate
from kerobust.evaluation.probes import linear_probe
from kerobust.models import VisionTransformer
from tests.evaluation.small import (
    digits,
    linear_model,
    relabelled,
    small_split,
)

THREAT = AttackConfig(epsilon=0.1)
EMBED = EvaluateConfig(
    attacks=("embed", "pgd"),
    steps=4,
    restarts=1,
    batch_size=25,
    curve=False,
    diagnose=False,
)
CURVES = EMBED.replace(
    curve=True, curve_attacks=("pgd", "embed"), epsilons=(0.02, 0.1), every_curve=True
)


@pytest.fixture(scope="module")
def probe():
    """Returns a linear probe of the class token of an untrained transformer."""
    tf.keras.utils.set_random_seed(0)
    encoder = VisionTransformer((8, 8), 2, 16, 1, 2)
    return linear_probe(encoder, digits().splits["train"], 10, "cls_mean")


@pytest.fixture(scope="module")
def curves():
    return Evaluator(THREAT, CURVES)


@pytest.fixture(scope="module")
def alone():
    return Evaluator(THREAT, EMBED.replace(attacks=("embed",), batch_size=17))


@pytest.fixture(scope="module")
def found(probe, curves):
    return curves(probe, small_split())


def test_an_attack_blind_to_the_head_harms_less_than_one_that_sees_it(found):
    embed, pgd = found.robust["embed"], found.robust["pgd"]

    assert found.clean.sum() > embed.sum() >= pgd.sum()
    np.testing.assert_array_equal(found.worst, found.clean & embed & pgd)
    assert found.norms["embed"]["max"] == pytest.approx(0.1, rel=1e-5)


def test_both_attacks_have_a_curve_from_clean_through_the_threat(found):
    for name, curve in (("pgd", found.curve), ("embed", found.embed_curve)):
        correct = {point["epsilon"]: point["correct"] for point in curve}
        assert list(correct) == [0.0, 0.02, 0.1, 0.5]
        assert correct[0.0] == found.clean.sum()
        assert correct[0.1] == found.robust[name].sum()
        assert correct[0.02] > correct[0.5]


def test_every_network_gets_a_curve_if_asked(probe, curves):
    found = curves(probe, small_split(10), thorough=False)

    assert len(found.curve) == len(found.embed_curve) == 4


def test_epsilon_0_equals_clean(probe):
    only = EMBED.replace(attacks=("embed",))

    found = evaluate(probe, small_split(), AttackConfig(epsilon=0.0), only)

    np.testing.assert_array_equal(found.robust["embed"], found.clean)


def test_an_attack_with_the_wrong_sign_does_no_harm(probe, found, monkeypatch):
    values = FeatureDistance.values
    monkeypatch.setattr(FeatureDistance, "values", lambda *given: -values(*given))
    only = EMBED.replace(attacks=("embed",), steps=50)

    flipped = evaluate(probe, small_split(), AttackConfig(epsilon=0.02), only)

    # It returns from its random start to within a step: borderline images may change.
    assert flipped.robust["embed"].sum() >= flipped.clean.sum() - 2
    assert flipped.robust["embed"].sum() > found.embed_curve[1]["correct"] + 2


def test_a_probe_of_shuffled_labels_is_at_chance():
    split = digits().splits["train"]
    shuffled = np.random.default_rng(0).permutation(split.labels)
    encoder = VisionTransformer((8, 8), 2, 16, 1, 2)

    probe = linear_probe(encoder, relabelled(split, shuffled), 10)

    images, labels = small_split(300).arrays()
    # .1 with a standard deviation of .017.
    assert np.mean(np.argmax(probe(images), axis=1) == labels) < 0.17


def test_batch_size_and_interruptions_change_nothing(probe, found, alone, tmp_path):
    lines, again = [], []

    def kill(line):
        lines.append(line)
        if len(lines) == 2:  # After the second of four batches.
            raise KeyboardInterrupt

    given = (probe, small_split())
    with pytest.raises(KeyboardInterrupt):
        alone(*given, state_dir=tmp_path, progress=kill)
    resumed = alone(*given, state_dir=tmp_path, progress=again.append)

    np.testing.assert_array_equal(resumed.robust["embed"], found.robust["embed"])
    # Each of the two finished batches has kept its clean pass too.
    assert again[0] == f"continuing with 4 stored batches in {tmp_path}"
    assert len(again) == 1 + 4 - 2


def test_passes_of_the_attack_are_counted(probe, alone, tmp_path):
    alone(probe, small_split(17), state_dir=tmp_path)

    (file,) = tmp_path.glob("embed@*.npz")
    with np.load(file) as kept:
        forwards, backwards, _ = kept["spent"][0]
        standing = np.sum(kept["norms"] > 0)
    # The clean tokens, four steps and the verdict.
    assert (forwards, backwards) == (6 * standing, 4 * standing)


def test_a_model_without_encoder_is_attacked_by_the_rest():
    found = evaluate(linear_model(), small_split(), THREAT, EMBED)

    assert set(found.robust) == {"pgd"}
    assert any("embed was left out" in note for note in found.notes)


def test_a_model_without_encoder_and_embed_alone_are_refused():
    alone = EMBED.replace(attacks=("embed",))

    message = "`--evaluate.attacks` must name another .* attacks=.*embed.* Add pgd"
    with pytest.raises(UserError, match=message):
        evaluate(linear_model(), small_split(), THREAT, alone)
