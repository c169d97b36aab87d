"""Whitened distances: by hand, laws, and that `multi` trains and attacks by them."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import TokenDistance, whitening_of
from kerobust.data import datasets
from kerobust.evaluation.clean_tokens import clean_tokens
from kerobust.methods import METHODS
from kerobust.methods.adversaries import TokenShift, token_distances
from kerobust.methods.whitening import IMAGES, Whitening
from kerobust.models.bundle import save_bundle
from kerobust.types import Tokens
from kerobust.workflows.preparing import Experiment
from kerobust.workflows.training import StoppedError, pretrain
from tests.methods.tiny import LENGTH, SHAPE, first_batch, tiny_experiment

WIDTH = 4
SPLIT = datasets.load(datasets.DataConfig(name="digits")).splits["train"]
MIX = np.random.default_rng(3).normal(size=(WIDTH, WIDTH)).astype(np.float32)


def plain(images):
    """An encoder: the middles of rows are the patches, one of them the class token."""
    rows = images[:, :, 2:6, 0]
    return Tokens(rows[:, 3], rows)


def mixed(images):
    """The same encoder, its tokens mixed and moved."""
    return Tokens(*(tf.linalg.matmul(each, MIX) + 5.0 for each in plain(images)))


def fitted(encoder, shrinkage=0.1):
    whitening = Whitening(WIDTH, shrinkage)
    whitening.fit(encoder, SPLIT)
    return whitening


def looked_at():
    """Returns the tokens of which the spread is taken."""
    return clean_tokens(plain, SPLIT, IMAGES)


def two_batches(encoder):
    images = tf.constant(SPLIT.arrays()[0])
    return encoder(images[:5]), encoder(images[5:10])


def test_all_places_of_the_grid_count():
    def encoder(images):
        places = tf.tile(tf.range(49.0)[tf.newaxis, :, tf.newaxis], [len(images), 1, 1])
        return Tokens(tf.zeros([len(images), 1]), places)

    tokens = clean_tokens(encoder, SPLIT, limit=70, batch_size=32)

    assert tokens.cls.shape == (70, 1)
    places, counts = np.unique(tokens.patches, return_counts=True)
    np.testing.assert_array_equal(places, np.arange(49))
    assert set(counts) == {10}


def test_the_distance_is_that_of_mahalanobis():
    first, second = two_batches(plain)

    found = token_distances(first, second, fitted(plain))

    for kind, every in looked_at()._asdict().items():
        spread = np.cov(every, rowvar=False, bias=True)
        spread += 0.1 * np.trace(spread) / WIDTH * np.eye(WIDTH)
        change = np.array(getattr(first, kind) - getattr(second, kind))
        squares = (change @ np.linalg.inv(spread) * change).sum(-1) / WIDTH
        expected = squares if kind == "cls" else squares.mean(1)
        np.testing.assert_allclose(found[kind], expected, rtol=2e-3)


def test_clean_tokens_have_a_mean_square_of_one():
    cls, patches = looked_at()
    tokens = Tokens(cls, patches[:, np.newaxis])

    found = token_distances(tokens, None, fitted(plain, 1e-5))

    assert np.mean(found["cls"]) == pytest.approx(1.0, abs=0.01)
    assert np.mean(found["patches"]) == pytest.approx(1.0, abs=0.01)


def test_how_an_encoder_mixes_its_coordinates_does_not_matter():
    one, other = (
        token_distances(*two_batches(encoder), fitted(encoder, 1e-6))
        for encoder in (plain, mixed)
    )

    for kind in Tokens._fields:
        np.testing.assert_allclose(one[kind], other[kind], rtol=1e-2)


def test_with_much_shrinkage_it_is_the_plain_distance_up_to_scale():
    both = two_batches(plain)
    whitened, mse = token_distances(*both, fitted(plain, 1e4)), token_distances(*both)

    for kind in Tokens._fields:
        ratios = whitened[kind] / mse[kind]
        np.testing.assert_allclose(ratios / ratios[0], np.ones(5), rtol=1e-3)


def test_the_attack_climbs_what_the_attack_on_embeddings_calls_whitened():
    images = tf.constant(SPLIT.arrays()[0])
    whitening = fitted(plain)
    given = {"distance": "whitened", "whitening": whitening_of(looked_at().patches)}
    theirs = TokenDistance(plain, part="patches", **given)

    values = TokenShift(plain, "patches", whitening)(images[:3], plain(images[3:6]))

    expected = theirs(images[:3], theirs.outputs(images[3:6]))
    np.testing.assert_allclose(values, expected, rtol=1e-3)


def make(**multi):
    tf.keras.utils.set_random_seed(1)
    experiment = tiny_experiment(multi={"distance": "whitened", **multi})
    start = experiment.model.build(SHAPE)
    method = METHODS["multi"].from_experiment(experiment, SHAPE, LENGTH, start)
    method.compile(optimizer=tf.keras.optimizers.SGD(0.1))
    return method


def studied(**multi):
    """Returns a method whose student is away from its teacher."""
    method = make(**multi)
    method.study(SPLIT)
    for index, variable in enumerate(method.encoder.trainable_variables):
        noise = tf.random.stateless_normal(variable.shape, [index, 7])
        variable.assign_add(0.05 * noise)
    return method


def test_attacks_and_their_judge_see_whitened_distances():
    method = studied(combine="maximum")
    images = first_batch()["images"]
    targets = method.teacher(images)
    found = token_distances(method.encoder(images), targets, method.whitening)

    both = 0.5 * (found["cls"] + found["patches"])
    shifts = {each.objective.part: each.objective for each in method.attack.members}
    judges = {**shifts, "judge": method.attack.judge}
    for part, expected in {**found, "both": both, "judge": both}.items():
        values = judges[part](images, targets)
        np.testing.assert_allclose(values, expected, rtol=1e-4)


def test_margins_are_whitened():
    method = studied(constraint="scalar", rho_cls=0.5, rho_patches=0.5)
    batch = method.guide(first_batch())
    targets = method.teacher(batch["images"])
    drifts, squares = (
        token_distances(*tokens, whitening=method.whitening)
        for tokens in ((method.encoder(batch["images"]), targets), (targets,))
    )

    slacks = method._slacks_now(batch)

    for index, kind in enumerate(Tokens._fields):
        expected = drifts[kind] - 0.5 * squares[kind]
        np.testing.assert_allclose(slacks[:, index], expected, rtol=1e-3, atol=1e-5)


def test_losses_and_constraints_are_whitened():
    method = studied(constraint="fixed", weight=2.0, warmup_share=0.0)
    batch = method.perturb(method.guide(first_batch()))

    terms = method.loss_terms(batch, training=False)

    def apart(images):
        tokens = (method.encoder(images), method.teacher(batch["images"]))
        found = token_distances(*tokens, method.whitening)
        return {kind: float(tf.reduce_mean(each)) for kind, each in found.items()}

    far, drift = apart(batch["adversarial"][:, 0]), apart(batch["images"])
    mean = 0.5 * (far["cls"] + far["patches"])
    assert float(terms["adversarial"]) == pytest.approx(mean, rel=1e-4)
    for kind, value in drift.items():
        found = float(terms[f"{kind}_constraint"])
        assert found == pytest.approx(2.0 * value, rel=1e-4)


def test_nothing_is_trained_before_the_clean_tokens_were_looked_at():
    method = make()
    batch = method.perturb(method.guide(first_batch()))

    assert np.isnan(method.loss_terms(batch, training=True)["adversarial"])


def test_the_spread_is_that_of_the_teacher_and_part_of_the_checkpoint(
    tmp_path, monkeypatch
):
    source = datasets.load(datasets.DataConfig(name="digits"))
    given = {"distance": "whitened", "student": "scratch"}
    config = tiny_experiment(multi=given)
    save_bundle({"encoder": config.model.build(SHAPE)}, tmp_path / "teacher", {})
    run = dataclasses.replace(config.run, init_from=str(tmp_path / "teacher"))
    config = dataclasses.replace(config, method="multi", run=run)
    trained = []

    def stop(experiment, method, *given):
        trained.append(method)
        raise StoppedError

    monkeypatch.setattr("kerobust.workflows.training._train", stop)
    with pytest.raises(StoppedError):
        pretrain(Experiment(config, source, tmp_path / "run"))
    (method,) = trained

    expected = Whitening(method.teacher.width, 0.1)
    expected.fit(method.teacher, source.splits["train"])
    named = {each.name: each.numpy() for each in method.whitening.weights}
    assert len(named) == 4
    for each in expected.weights:
        np.testing.assert_array_equal(named[each.name], each.numpy())

    path = tf.train.Checkpoint(method=method).save(str(tmp_path / "checkpoint"))
    other = make()
    tf.train.Checkpoint(method=other).restore(path).expect_partial()
    for one, two in zip(method.whitening.weights, other.whitening.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), two.numpy())
