"""The attack on representations: distances, neighbours, and the normalisation."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import AttackConfig, FeatureDistance
from kerobust.config import UserError
from kerobust.evaluation import EvaluateConfig, Evaluator, RepresentConfig
from kerobust.evaluation.drift import cosine_distances, drift
from kerobust.evaluation.probes import linear_probe
from kerobust.evaluation.representation import Representation
from kerobust.models import Classifier, ClassifierHead, ResNet, VisionTransformer
from tests.evaluation.small import digits, linear_model, small_split

THREAT = AttackConfig(epsilon=0.1)
SETTINGS = EvaluateConfig(
    attacks=("embed",), steps=4, batch_size=25, curve=False, diagnose=False
)
CONFIG = RepresentConfig(
    epsilons=(0.0, 0.02), l2_epsilons=(0.5,), neighbours=(5, 20, 5000), maps=2
)
BANK = digits().splits["train"].subset(np.arange(100))


def make_probe(**options) -> Classifier:
    """Returns a linear probe of the class token of an untrained transformer."""
    tf.keras.utils.set_random_seed(0)
    encoder = VisionTransformer((8, 8), 2, 16, 1, 2, **options)
    return linear_probe(encoder, digits().splits["train"], 10, "cls_mean")


@pytest.fixture(scope="module")
def probe():
    return make_probe()


@pytest.fixture(scope="module")
def examine():
    return Representation(THREAT, SETTINGS, CONFIG)


@pytest.fixture(scope="module")
def found(probe, examine, tmp_path_factory):
    return examine(probe, BANK, small_split(), state_dir=tmp_path_factory.mktemp("s"))


def by_radius(entries: list[dict]) -> dict[tuple, dict]:
    return {(entry["norm"], entry["epsilon"]): entry for entry in entries}


def test_cosine_distance_is_one_minus_the_cosine():
    first = np.array([[1.0, 0.0], [3.0, 0.0], [1.0, 1.0], [1e-3, 2e-3], [0.0, 0.0]])
    second = np.array([[0.0, 2.0], [-1.0, 0.0], [2.0, 0.0], [1e-3, 2e-3], [1.0, 0.0]])

    # Right angle, opposite, 45 degrees, the same, and no direction at all.
    expected = [1.0, 2.0, 1 - 0.5**0.5, 0.0, 1.0]
    found = cosine_distances(first, second)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found[3] == 0.0


def test_drift_sums_up_both_metrics_and_the_judgement():
    after = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [-3.0, 0.0]])
    clean = {
        "features": np.tile([1.0, 0.0], [5, 1]),
        "labels": np.array([0, 1, 2, 3, 4]),
        "predictions": np.array([0, 1, 2, 0, 0]),
    }
    attacked = {"features": after, "predictions": np.array([0, 0, 2, 3, 0])}

    found = drift(clean, attacked, "linf", 0.1)

    # 1 - cosine: 0, 1, 0, 0, 2; distances: 0, sqrt 2, 0, 0, 4; right under both: 0, 2.
    # The .9 quantile lies at .9 * 4 = 3.6: .6 of the way from the fourth to the fifth.
    assert found["cosine"] == pytest.approx({"mean": 0.6, "median": 0.0, "q90": 1.6})
    root = 2**0.5
    expected = {
        "mean": (root + 4) / 5,
        "median": 0.0,
        "q90": root + 0.6 * (4 - root),
    }
    assert found["distance"] == pytest.approx(expected)
    assert found["correct"]["correct"] == 2
    assert found["values"] == [0.0, 1.0, 0.0, 0.0, 2.0]


def test_epsilon_0_moves_nothing_and_larger_radii_move_more(found):
    moved = by_radius(found["drift"])

    assert list(moved) == [("l2", 0.5), ("linf", 0.0), ("linf", 0.02), ("linf", 0.1)]
    none, small, large = (moved["linf", radius] for radius in (0.0, 0.02, 0.1))
    assert set(none["values"]) == {0.0} and none["distance"]["q90"] == 0.0
    assert none["correct"] == found["normalisation"]["with"]
    for metric in ("cosine", "distance"):
        for part in ("mean", "median", "q90"):
            assert 0 < small[metric][part] < large[metric][part]
    # The l2 ball of .5 holds the box of .02: its corners are .02 * sqrt 192 = .28 away.
    assert small["cosine"]["mean"] < moved["l2", 0.5]["cosine"]["mean"]


def test_its_images_are_those_of_the_attack_embed(found, probe):
    evaluation = Evaluator(THREAT, SETTINGS)(probe, small_split())

    judged = by_radius(found["drift"])["linf", 0.1]["correct"]
    assert judged["correct"] == evaluation.robust["embed"].sum()
    assert found["normalisation"]["with"]["correct"] == evaluation.clean.sum()


def test_neighbours_vote_at_every_radius_with_at_most_the_bank(found):
    entries = found["knn"]

    assert [entry["k"] for entry in entries] == [5] * 4 + [20] * 4 + [100] * 4
    for entry in entries:
        clean, robust = entry["clean"]["correct"], entry["robust"]["correct"]
        assert robust == clean if entry["epsilon"] == 0 else robust <= clean
    large = [entry for entry in entries if entry["epsilon"] == 0.1]
    assert all(e["robust"]["correct"] < e["clean"]["correct"] - 5 for e in large[:2])


def test_an_attack_with_the_wrong_sign_moves_less(found, probe, monkeypatch):
    values = FeatureDistance.values
    monkeypatch.setattr(FeatureDistance, "values", lambda *given: -values(*given))
    config = CONFIG.replace(epsilons=(0.02,), l2_epsilons=())

    flipped = Representation(THREAT, SETTINGS.replace(steps=20), config)(
        probe, BANK, small_split()
    )

    small = by_radius(flipped["drift"])["linf", 0.02]
    assert (
        small["cosine"]["q90"]
        < by_radius(found["drift"])["linf", 0.02]["cosine"]["median"]
    )


def test_an_interrupted_examination_continues(found, probe, examine, tmp_path):
    lines, again = [], []

    def kill(line):
        lines.append(line)
        if len(lines) == 6:  # In the second of three batches, four radii each.
            raise KeyboardInterrupt

    given = (probe, BANK, small_split())
    with pytest.raises(KeyboardInterrupt):
        examine(*given, state_dir=tmp_path, progress=kill)
    resumed = examine(*given, state_dir=tmp_path, progress=again.append)

    assert again[0] == f"continuing with 8 stored batches in {tmp_path}"
    assert len(again) == 1 + 12 - 6
    np.testing.assert_array_equal(resumed.pop("attention"), found["attention"])
    assert resumed == {key: found[key] for key in resumed}


@pytest.mark.slow
def test_undoing_the_normalisation_shows_what_depends_on_it(examine):
    inside = make_probe(mean=(0.3,), std=(0.25,))
    plain = VisionTransformer((8, 8), 2, 16, 1, 2)
    plain.set_weights(inside.encoder.get_weights())
    head = ClassifierHead(10, pooling="cls_mean", norm=False)
    unaware = Classifier(plain, head)
    unaware.head.dense.set_weights(inside.head.dense.get_weights())

    found = examine(inside, BANK, small_split(20))["normalisation"]

    # Without normalisation the encoder sees what one without it would see.
    images, labels = small_split(20).arrays()
    expected = np.sum(np.argmax(unaware(images), axis=1) == labels)
    assert found["inside"]
    assert found["without"]["correct"] == expected
    assert found["without"]["correct"] < found["with"]["correct"]


def test_without_normalisation_there_is_nothing_to_undo(found):
    control = found["normalisation"]

    assert not control["inside"] and control["with"] == control["without"]


def test_a_residual_network_is_examined_without_attention_maps():
    config = CONFIG.replace(epsilons=(0.1,), l2_epsilons=())
    probe = linear_probe(ResNet(8), BANK, 10)

    found = Representation(THREAT, SETTINGS.replace(steps=1), config)(
        probe, BANK, small_split(10)
    )

    assert found["attention"] is None
    assert found["drift"][0]["cosine"]["mean"] > 0


def test_a_model_without_encoder_is_refused(examine):
    with pytest.raises(UserError, match="`model` must.*encoder.* Received: model=Seq"):
        examine(linear_model(), BANK, small_split())


def test_a_radius_beyond_the_images_is_refused(probe):
    config = RepresentConfig(epsilons=(8.0,))

    with pytest.raises(UserError, match="`--represent.epsilons`.*epsilon=8.0.*8/255"):
        Representation(THREAT, SETTINGS, config)(probe, BANK, small_split())
