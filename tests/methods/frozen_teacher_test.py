"""DeACL and FARE against the original code, closed forms and laws."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.methods import METHODS
from kerobust.methods.deacl import DeaclConfig
from kerobust.methods.fare import FareConfig
from kerobust.methods.frozen_teacher import FrozenTeacher
from kerobust.models.projector import DinoHead
from kerobust.models.resnet import ResNet
from kerobust.models.weights import named_weights
from tests.goldens.closed_form import checks
from tests.methods.dino_test import GOLDENS, SHA256
from tests.methods.tiny import LENGTH, SHAPE, first_batch, tiny_experiment
from tests.models.filled import formula


def make(name="deacl", start=None, **deacl):
    experiment = tiny_experiment(deacl=deacl)
    start = experiment.model.build(SHAPE) if start is None else start
    return METHODS[name].from_experiment(experiment, SHAPE, LENGTH, start)


def scripted(method, clean, adversarial):
    """Lets the student embed any batch as `clean` and `adversarial`."""
    both = tf.concat([clean, adversarial], axis=0)
    method.embed = lambda *_: both
    some = tf.zeros([clean.shape[0], 1])
    return {"images": some, "adversarial": some, "keys": tf.zeros([1, 2], tf.int32)}


def test_loss_and_gradients_of_deacl_are_those_of_the_original():
    golden = checks(GOLDENS, SHA256)["A1"]
    method = make()
    clean, adversarial, target = (
        tf.Variable(formula(golden["inputs"][name]), dtype=tf.float32)
        for name in ("s_clean", "s_adv", "teacher")
    )

    with tf.GradientTape(persistent=True) as tape:
        batch = scripted(method, clean, adversarial) | {"target": target}
        terms = method.loss_terms(batch, training=True)
        loss = tf.add_n(list(terms.values()))

    expected = golden["expected"]
    np.testing.assert_allclose(terms["clean"], expected["term1"], rtol=1e-6)
    # The original's second term carries no weight yet.
    np.testing.assert_allclose(terms["adversarial"], expected["term2"], rtol=1e-6)
    np.testing.assert_allclose(loss, expected["loss"], rtol=1e-6)
    to_clean = tape.gradient(loss, clean).numpy()
    np.testing.assert_allclose(
        np.linalg.norm(to_clean), expected["grad_s_clean_l2"], rtol=1e-5
    )
    np.testing.assert_allclose(
        to_clean.flatten()[:4], expected["grad_s_clean_first4"], rtol=1e-4, atol=1e-8
    )
    np.testing.assert_allclose(
        np.linalg.norm(tape.gradient(loss, adversarial)),
        expected["grad_s_adv_l2"],
        rtol=1e-5,
    )


def test_a_perfect_student_has_loss_minus_one_minus_weight():
    method = make(weight=2.0)
    target = tf.random.stateless_normal([6, 8], [1, 2])
    batch = scripted(method, target, target) | {"target": target}

    terms = method.loss_terms(batch, training=True)

    np.testing.assert_allclose(sum(terms.values()), -3.0, rtol=1e-6)


def test_the_loss_of_fare_is_the_sum_of_squares_over_coordinates():
    method = make("fare")
    method.embed = lambda encoder, images, *_: tf.ones([4, 8])
    batch = first_batch(4)
    batch |= {"adversarial": batch["images"], "target": tf.zeros([4, 8])}

    terms = method.loss_terms(batch, training=True)

    assert float(terms["adversarial"]) == 8.0  # 1^2 in each of 8 coordinates.


@pytest.mark.parametrize("name", ["deacl", "fare"])
def test_the_attack_moves_the_student_away_inside_the_ball(name):
    method = make(name)
    batch = method.guide(first_batch())

    seen = method.perturb(batch)["adversarial"]

    change = np.abs(seen - batch["images"])
    assert change.max() <= method.config.epsilon + 1e-6
    target = batch["target"]
    moved = np.linalg.norm(method.embed(method.encoder, seen) - target)
    noise = tf.random.stateless_uniform(seen.shape, [1, 2], -1.0, 1.0)
    noisy = batch["images"] + method.config.epsilon * tf.sign(noise)
    drift = method.embed(method.encoder, tf.clip_by_value(noisy, 0.0, 1.0)) - target
    assert moved > 1.5 * np.linalg.norm(drift)


def cosines(first, second):
    """Returns the cosine of every pair of rows, float64 [...]."""
    first, second = (np.asarray(each, np.float64) for each in (first, second))
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return (first * second).sum(axis=-1) / lengths


def test_every_token_is_compared_by_itself():
    method, batch = make(tokens="dense"), first_batch()
    other = batch["images"][::-1]
    clean, moved = (method.encoder(each) for each in (batch["images"], other))
    ours, theirs = (method.embed(method.encoder, x) for x in (batch["images"], other))

    expected = 0.5 * cosines(clean.cls, moved.cls)
    expected += 0.5 * cosines(clean.patches, moved.patches).mean(axis=1)
    np.testing.assert_allclose(cosines(ours, theirs), expected, rtol=1e-5)
    plain = FrozenTeacher.side_by_side
    gap = plain(method, clean) - plain(method, moved)
    apart = np.square(clean.patches - moved.patches).sum(axis=2).mean(axis=1)
    apart += np.square(clean.cls - moved.cls).sum(axis=1)
    np.testing.assert_allclose(np.square(gap).sum(axis=1), 0.5 * apart, rtol=1e-5)


def test_every_token_and_a_projector_do_not_go_together():
    with pytest.raises(UserError, match="--deacl.tokens.* must not be dense"):
        DeaclConfig(tokens="dense", projector="teacher")


def test_the_attack_on_the_teacher_does_not_ask_the_student():
    method = make(attack_model="teacher")
    batch = method.guide(first_batch())
    before = method.perturb(batch)["adversarial"]
    for variable in method.encoder.trainable_variables:
        variable.assign(tf.zeros_like(variable))

    after = method.perturb(batch)["adversarial"]

    np.testing.assert_array_equal(before, after)


def test_the_teacher_stays_as_it_is():
    method = make()
    method.compile(optimizer=tf.keras.optimizers.SGD(0.1))
    before = [each.numpy() for each in method.teacher.weights]

    method.train_step(first_batch())

    for old, each in zip(before, method.teacher.weights, strict=True):
        np.testing.assert_array_equal(old, each.numpy())


@pytest.mark.parametrize("config", [DeaclConfig, FareConfig])
def test_attacks_without_a_random_start_are_refused(config):
    with pytest.raises(UserError, match="random_start` must be true"):
        config(random_start=False)


def test_a_missing_teacher_is_named():
    experiment = tiny_experiment()

    with pytest.raises(UserError, match="must name the bundle of a teacher"):
        METHODS["deacl"].from_experiment(experiment, SHAPE, LENGTH, None)


def test_a_teacher_for_other_images_is_refused():
    teacher = tiny_experiment().model.build((16, 16, 3))

    with pytest.raises(UserError, match=r"shape \(8, 8, 3\). Received: one for \(16"):
        make(start=teacher)


def test_a_projector_needs_the_head_of_the_teacher():
    with pytest.raises(UserError, match="needs a teacher bundle with a head"):
        make(projector="teacher")


def test_behind_the_projector_loss_and_attack_are_those_of_profeat():
    encoder = tiny_experiment().model.build(SHAPE)
    start = {"encoder": encoder, "head": DinoHead(16, 12, hidden=16, bottleneck=8)}
    method = make(start=start, projector="teacher", projector_weight=0.25, weight=3.0)
    batch = method.guide(first_batch())
    batch = method.perturb(batch)
    clean, moved = (
        method.embed(method.encoder, batch[name]).numpy()
        for name in ("images", "adversarial")
    )
    projector = method.projector.project

    terms = method.loss_terms(batch, training=False)

    def cosine(first, second):
        scale = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        return np.mean(np.sum(first * second, axis=1) / scale)

    def mixed(first, second):
        behind = cosine(projector(first).numpy(), projector(second).numpy())
        return 0.75 * cosine(first, second) + 0.25 * behind

    target = batch["target"].numpy()
    np.testing.assert_allclose(terms["clean"], -mixed(clean, target), rtol=1e-4)
    np.testing.assert_allclose(
        terms["adversarial"], -3 * mixed(moved, clean), rtol=1e-4
    )


def test_convolutional_students_train_on_both_batches_together():
    method = make(start=ResNet(8))
    method.compile(optimizer=tf.keras.optimizers.SGD(0.1))
    teacher = {n: v.numpy() for n, v in named_weights(method.teacher).items()}

    logs = method.train_step(first_batch())

    assert np.isfinite(float(logs["loss"]))
    name = "norm1/moving_mean"
    assert np.any(named_weights(method.encoder)[name].numpy() != teacher[name])
    np.testing.assert_array_equal(
        named_weights(method.teacher)[name].numpy(), teacher[name]
    )
