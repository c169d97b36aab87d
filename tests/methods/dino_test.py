"""DINO and RoDINO against the original code, and against laws."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.losses.dino import teacher_probabilities
from kerobust.methods import METHODS
from kerobust.methods.dino import DinoConfig
from kerobust.methods.optimisation import PretrainConfig, compile_method
from kerobust.models.weights import named_weights
from tests.goldens.closed_form import checks
from tests.methods.tiny import LENGTH, SHAPE, first_batch, tiny_experiment
from tests.models.filled import formula

GOLDENS = "dino_deacl_losses.json"
SHA256 = "aaf82f03db1e4f8dd8aedf1592978ee9fca95621e5b7693dd69d6e71c3c26277"
GOLDEN = checks(GOLDENS, SHA256)
PROTOTYPES, BATCH = 16, 4


def make(name="dino", views=None, rodino=None, start=None, **dino):
    experiment = tiny_experiment(dino=dino, views=views, rodino=rodino)
    method = METHODS[name].from_experiment(experiment, SHAPE, LENGTH, start)
    compile_method(
        method, PretrainConfig(epochs=10, batch_size=16, warmup_epochs=0.0), 160
    )
    return method


def scripted(method, golden):
    """Returns a batch and lets the student give the golden's outputs for it."""
    logits = formula(golden["inputs"]["student_output"])
    logits = logits.reshape(-1, BATCH, PROTOTYPES)[-len(method.views) :]
    teacher = formula(golden["inputs"]["teacher_output"])
    teacher = teacher.reshape(2, BATCH, PROTOTYPES).swapaxes(0, 1)
    method.centre.assign(formula(golden["inputs"]["center"])[0])
    student = tf.Variable(logits, dtype=tf.float32)
    method._forward = lambda *_: (None, tf.convert_to_tensor(student))
    method._seen = lambda batch: []
    method.observe = lambda batch, tokens: None
    batch = {"teacher_logits": tf.constant(teacher, tf.float32), "keys": None}
    return batch, student


def total(terms):
    return tf.add_n(list(terms.values()))


def test_loss_centre_and_gradient_are_those_of_the_original():
    golden = GOLDEN["D1"]
    method = make(
        views={"local_count": 3},
        prototypes=PROTOTYPES,
        teacher_temperature=0.07,
        first_temperature=0.04,
        temperature_epochs=30,
    )
    # Ten epochs are less than the warm-up of 30, whose slope the golden assumes.
    method._temperature = lambda step: golden["expected"]["teacher_temp"]
    batch, student = scripted(method, golden)

    with tf.GradientTape() as tape:
        loss = total(method.loss_terms(batch, training=True))
    gradient = tape.gradient(loss, student).numpy()
    method.after_update(batch)

    expected = golden["expected"]
    np.testing.assert_allclose(loss, expected["loss"], rtol=1e-6)
    np.testing.assert_allclose(
        np.linalg.norm(gradient), expected["grad_student_l2"], rtol=1e-5
    )
    np.testing.assert_allclose(
        gradient.flatten()[:4], expected["grad_student_first4"], rtol=1e-4, atol=1e-8
    )
    centre = method.centre.numpy()
    np.testing.assert_allclose(
        centre[:4], expected["center_after_first4"], rtol=1e-5, atol=1e-7
    )
    np.testing.assert_allclose(centre.sum(), expected["center_after_sum"], rtol=1e-5)


@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_losses_of_rodino_are_those_of_the_original(variant):
    golden = GOLDEN["R1"]
    method = make("rodino", rodino={"variant": variant}, prototypes=PROTOTYPES)
    batch, _ = scripted(method, golden)

    loss = total(method.loss_terms(batch, training=True))

    np.testing.assert_allclose(loss, golden["expected"][f"{variant}_loss"], rtol=1e-6)


def test_a_copy_of_the_second_crop_gives_the_known_mixture():
    # v2 with the attacked view = g2: [2 H(t1,s2) + H(t2,s1) + H(t2,s2)] / 4.
    method = make("rodino", prototypes=PROTOTYPES)
    batch, student = scripted(method, GOLDEN["R1"])
    student[2].assign(student[1])
    shares = tf.nn.softmax((batch["teacher_logits"] - method.centre) / 0.04)
    log_shares = tf.nn.log_softmax(student / 0.1)
    pairs = -np.einsum("btk,sbk->ts", shares, log_shares) / BATCH

    loss = total(method.loss_terms(batch, training=True))

    expected = (2 * pairs[0, 1] + pairs[1, 0] + pairs[1, 1]) / 4
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_no_gradient_reaches_the_teacher():
    logits = tf.Variable([[1.0, 2.0]])

    with tf.GradientTape() as tape:
        probabilities = teacher_probabilities(logits, tf.zeros([2]), 0.1)

    assert tape.gradient(probabilities, logits) is None


def test_equal_scores_of_all_prototypes_give_the_log_of_their_number():
    method = make(prototypes=PROTOTYPES)
    batch, student = scripted(method, GOLDEN["D1"])
    student.assign(tf.zeros_like(student))

    loss = total(method.loss_terms(batch, training=True))

    np.testing.assert_allclose(loss, np.log(PROTOTYPES), rtol=1e-6)


def test_a_share_for_the_attacked_view_weighs_its_pairs():
    method = make("rodino", rodino={"adversarial_weight": 0.25})

    weights = method._pair_weights()

    # Two natural pairs share 3/4, two attacked pairs 1/4.
    np.testing.assert_allclose(weights, [[0, 0.375, 0.125], [0.375, 0, 0.125]])


@pytest.mark.parametrize(("step", "share"), [(0, 0.1), (50, 0.05), (99, 2.5e-5)])
def test_the_teacher_follows_by_the_schedule_of_its_momentum(step, share):
    method = make(teacher_momentum=0.9)
    method.optimizer.iterations.assign(step)
    teacher, student = (
        named_weights(each) for each in (method.teacher, method.encoder)
    )
    before = {name: each.numpy() for name, each in teacher.items()}
    # Far from each other, so that rounding does not hide the share.
    for each in student.values():
        each.assign_add(tf.ones_like(each))

    method.train_step(first_batch(views=method.view_maker))

    for name, each in teacher.items():
        # A tenth of the distance at first; a cosine brings it to 0 in 100 updates.
        distance = student[name].numpy() - before[name]
        moved = each.numpy() - before[name]
        np.testing.assert_allclose(moved, share * distance, rtol=0.02, atol=1e-6)


def test_a_momentum_of_one_changes_no_bit_of_the_teacher():
    method = make(teacher_momentum=1.0)
    before = [each.numpy() for each in method.teacher.weights]

    method.train_step(first_batch(views=method.view_maker))

    for old, each in zip(before, method.teacher.weights, strict=True):
        np.testing.assert_array_equal(old, each.numpy())


def test_frozen_prototypes_have_neither_updates_nor_moments():
    method = make(frozen_epochs=0.1)  # One of the ten steps of an epoch.
    prototypes = method.head.last.direction
    before, batch = prototypes.numpy(), first_batch(views=method.view_maker)
    optimizer = method.optimizer
    index = optimizer._index_dict[optimizer._var_key(prototypes)]

    method.train_step(batch)

    np.testing.assert_array_equal(prototypes.numpy(), before)
    assert not np.any(optimizer._momentums[index].numpy())
    method.train_step(batch)
    assert np.any(prototypes.numpy() != before)


def test_small_batches_are_refused():
    with pytest.raises(UserError, match="`--pretrain.batch_size` must be at least"):
        make(smallest_batch=1024)


def test_crops_that_do_not_fit_the_patches_are_refused():
    with pytest.raises(UserError, match="`--views.local_size` must be a multiple"):
        make(views={"local_size": 5})


def test_the_student_starts_at_the_weights_of_a_bundle():
    first = make()

    second = make("rodino", start=first.exports)

    theirs = named_weights(second.encoder)
    for name, each in named_weights(first.teacher).items():
        np.testing.assert_array_equal(each.numpy(), theirs[name].numpy())
    np.testing.assert_array_equal(
        first.teacher_head.last.direction.numpy(), second.head.last.direction.numpy()
    )


@pytest.mark.parametrize(
    ("loss", "source"),
    [
        ("embed_mse", "center_crop"),
        ("soft_ce", "global_1"),
        pytest.param("embed_cosine", "center_crop", marks=pytest.mark.slow),
        pytest.param("soft_ce", "center_crop", marks=pytest.mark.slow),
        pytest.param("embed_mse", "global_1", marks=pytest.mark.slow),
        pytest.param("embed_cosine", "global_1", marks=pytest.mark.slow),
    ],
)
def test_the_attack_of_rodino_raises_its_objective_inside_the_ball(loss, source):
    rodino = {"attack_loss": loss, "adversarial_source": source, "epsilon": 0.1}
    method = make("rodino", rodino=rodino)
    batch = first_batch(views=method.view_maker)
    images = batch["images"] if source == "center_crop" else batch["global_views"][:, 0]

    seen = method.perturb(method.guide(batch))["adversarial"]

    assert np.abs(seen - images).max() <= 0.1 + 1e-6
    clean = method.adversarial_tokens(images, batch["keys"])
    moved = method.adversarial_tokens(seen, batch["keys"])
    noise = tf.random.stateless_uniform(images.shape, [1, 2], -0.1, 0.1)
    noisy = tf.clip_by_value(images + noise, 0.0, 1.0)
    drift = method.adversarial_tokens(noisy, batch["keys"])
    if loss != "soft_ce":
        assert np.linalg.norm(moved - clean) > 1.5 * np.linalg.norm(drift - clean)


def test_the_raw_attacked_view_bypasses_the_normalisation():
    method = make("rodino", rodino={"normalisation": "raw_adversarial"})
    images = first_batch()["images"]

    bypassed = method._bypassed(images)

    # The encoder normalises by (x - mean) / std, which must give the pixels back.
    config = method.encoder.get_config()
    np.testing.assert_allclose(
        (bypassed - config["mean"]) / config["std"], images, atol=1e-6
    )


def test_default_monitors_bound_the_entropy_by_that_of_all_prototypes():
    method = make()
    entropy = next(each for each in method.monitors if each.name == "teacher_entropy")

    assert (entropy.low, entropy.high) == (0.05, 0.99 * np.log(12))
    assert DinoConfig().prototypes == 65536
