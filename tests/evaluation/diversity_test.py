"""Tests of kerobust.evaluation.diversity."""

import json

import numpy as np
import pytest
import tensorflow as tf

from kerobust.evaluation import (
    Diversity,
    DiversityConfig,
    VulnerabilityDiversity,
    vulnerability_diversity,
)
from kerobust.models import Classifier, ClassifierHead, ConvNet, Ensemble
from tests.evaluation.small import digits, relabelled, small_split

IMAGES = np.random.default_rng(0).uniform(0.3, 0.7, [40, 2, 2, 1]).astype(np.float32)
LABELS = np.arange(40) % 2
QUICK = DiversityConfig(
    epsilon=0.1, steps=5, restarts=2, limit=30, distil_epsilon=0.2, distil_steps=3
)


class Column(tf.keras.Model):
    """Two classes, told apart by the mean of one column of the image."""

    layer_count = 1

    def __init__(self, column):
        super().__init__()
        self.column = column

    def call(self, images, training=None, keys=None):
        score = 10.0 * (tf.reduce_mean(images[:, :, self.column], [1, 2]) - 0.5)
        return tf.stack([-score, score], axis=1)

    def layer(self, images, number, training=None, keys=None):
        assert number == 1
        return self(images)


def losses_on(member, images, labels):
    logits = member(images)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits).numpy()


@pytest.fixture(scope="module")
def trained():
    """An ensemble of two that knows the digits a little, and one of others."""
    images, labels = digits().splits["train"].arrays()
    return [fitted(seed, images[:600], labels[:600]) for seed in (0, 2)]


def fitted(seed, images, labels):
    tf.keras.utils.set_random_seed(seed)
    ensemble = Ensemble([small_member(), small_member()], combine="logits")
    ensemble.compile(
        tf.keras.optimizers.Adam(1e-2),
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    ensemble.fit(images, labels, 50, epochs=10, verbose=0)
    return Ensemble(ensemble.members)


def small_member():
    encoder = ConvNet((8, 8), widths=(8,), hidden=(16,), kernel_size=3, padding="same")
    return Classifier(encoder, ClassifierHead(10, pooling="cls", norm=False))


@pytest.fixture(scope="module")
def found(trained):
    ensemble, other = trained
    return Diversity(QUICK, {"other": other})(ensemble, small_split(60))


def test_what_one_member_does_not_see_moves_the_other_not_at_all():
    members = [Column(0), Column(1)]
    others = np.random.default_rng(0).permutation(40)
    for index, member in enumerate(members):
        labels = np.argmax(member(IMAGES), 1)

        losses = vulnerability_diversity(members, IMAGES, labels, epsilon=0.2).losses

        unmoved = losses_on(member, IMAGES, labels[others]).mean()
        np.testing.assert_allclose(losses[1 - index, index], unmoved, rtol=1e-5)
        assert losses[index, index] < unmoved - 0.2


def test_nothing_is_drawn_from_the_global_generator():
    # With deterministic operations TensorFlow refuses such draws until a seed is set.
    members = [Column(0), Column(1)]
    tf.random.set_seed(1)
    expected = tf.random.uniform([4])
    tf.random.set_seed(1)

    vulnerability_diversity(members, IMAGES, LABELS, steps=2)

    np.testing.assert_array_equal(tf.random.uniform([4]), expected)


def test_equal_members_share_everything():
    losses = vulnerability_diversity([Column(0), Column(0)], IMAGES, LABELS).losses

    np.testing.assert_allclose(losses, losses[0, 0], rtol=1e-6)


def test_the_mean_is_over_unordered_pairs():
    diversity = VulnerabilityDiversity(np.array([[9.0, 1, 2], [3, 9, 4], [6, 8, 9]]))

    np.testing.assert_array_equal(diversity.pairs[0], [9.0, 2.0, 4.0])
    assert diversity.mean == (2.0 + 4.0 + 6.0) / 3


def test_a_layer_is_drawn_for_every_batch(monkeypatch, trained):
    drawn = []
    usual = Classifier.layer

    def layer(self, images, number, **given):
        drawn.append(number)
        return usual(self, images, number, **given)

    monkeypatch.setattr(Classifier, "layer", layer)
    images, labels = small_split(40).arrays()

    vulnerability_diversity(trained[0].members, images, labels, batch_size=4, steps=1)

    assert set(drawn) == {1, 2, 3}


def test_layers_that_a_member_lacks_are_not_drawn():
    deep = Column(0)
    deep.layer_count = 9

    for members in ([deep, Column(1)], [Column(1), deep]):
        found = vulnerability_diversity(members, IMAGES, LABELS, batch_size=4, steps=1)
        assert np.isfinite(found.mean)


def test_images_are_such_as_every_member_has_right(found, trained):
    images, labels = small_split(60).arrays()
    right = [np.argmax(each(images), 1) == labels for each in trained[0].members]

    assert found["images"] == min(30, np.sum(right[0] & right[1]))
    natural = found["transfer"]["natural"]
    assert natural["member 1"]["accuracy"] == natural["member 2"]["accuracy"] == 1.0


def test_attacks_are_carried_to_the_others_and_to_the_ensemble(found):
    success = found["transfer"]["success"]

    assert list(success) == ["member 1", "member 2"]
    assert list(success["member 1"]) == ["member 1", "member 2", "ensemble"]
    for own, other in (("member 1", "member 2"), ("member 2", "member 1")):
        assert success[own][own] > success[own][other]
    assert json.loads(json.dumps(found)) == found


def test_surrogates_are_attacked_for_the_ensemble(found, trained):
    black_box = found["black_box"]
    attacks = [key for key in black_box if key not in ("clean", "all")]

    assert attacks == [
        f"other, {loss}, {kind}"
        for kind in ("momentum", "diverse")
        for loss in ("CE", "margin")
    ]
    rates = [black_box[key]["accuracy"] for key in attacks]
    assert black_box["all"]["accuracy"] <= min(rates)
    assert max(rates) <= black_box["clean"]["accuracy"]
    images, labels = small_split(60).thinned(30).arrays()
    right = np.sum(np.argmax(trained[0](images), 1) == labels)
    assert black_box["clean"]["correct"] == right


def test_without_surrogates_there_is_no_black_box(trained):
    config = QUICK.replace(restarts=1, steps=1, distil_steps=1)

    assert Diversity(config)(trained[0], small_split(20))["black_box"] is None


def test_members_that_share_no_right_answer_are_not_examined():
    ensemble = Ensemble([Column(0), Column(1)])
    images = np.full([4, 8, 8, 3], 0.9, np.float32)
    split = relabelled(small_split(4), [0, 0, 0, 0], images)

    assert Diversity(QUICK)(ensemble, split) is None


@pytest.mark.parametrize(
    ("given", "name"),
    [(([Column(0)], IMAGES, LABELS), "members"), (([1, 2], IMAGES[:1], [0]), "images")],
)
def test_fewer_than_two_are_refused(given, name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least two"):
        vulnerability_diversity(*given)
