"""Fine-tuning: what each mode trains on, and what stays untouched."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import AttackConfig
from kerobust.methods.finetune import Finetune, FinetuneConfig, _divergence
from kerobust.methods.optimisation import compile_method
from kerobust.tasks import Classification
from tests.goldens.closed_form import checks
from tests.methods.dino_test import GOLDENS, SHA256
from tests.methods.tiny import first_batch, tiny_classifier
from tests.models.filled import formula

EPSILON = 0.1


def make(total_steps=10, **settings):
    config = FinetuneConfig(**{"drop_path": 0.0, "attack_steps": 2, **settings})
    method = Finetune(
        tiny_classifier(),
        Classification(10, config.label_smoothing),
        config,
        AttackConfig(epsilon=EPSILON),
        total_steps,
    )
    compile_method(method, config.replace(batch_size=16), 160)
    return method


@pytest.mark.parametrize("attack", ["fast", "pgd", "trades"])
def test_the_attack_stays_in_the_ball_and_raises_its_objective(attack):
    method, batch = make(attack=attack), first_batch()

    seen = method.perturb(batch)

    change = np.abs(seen["adversarial"] - batch["images"])
    assert change.max() <= EPSILON + 1e-6
    targets = method._attack_targets(batch)
    clean = np.mean(method.objective(batch["images"], targets))
    assert np.mean(method.objective(seen["adversarial"], targets)) > clean


def test_the_loss_of_trades_is_that_of_the_original():
    golden = checks(GOLDENS, SHA256)["A3"]
    clean, attacked = (
        tf.constant(formula(golden["inputs"][name]), tf.float32)
        for name in ("logits_nat", "logits_adv")
    )
    method = make(attack="trades", trades_beta=6.0, label_smoothing=0.0)
    method._logits = lambda images, *_: images  # The batch holds the logits.
    labels = tf.constant([0, 3, 5, 7, 9])
    batch = {"images": clean, "adversarial": attacked, "labels": labels}

    terms = method.loss_terms(batch, training=True)

    expected = golden["expected"]
    np.testing.assert_allclose(terms["classification"], expected["ce"], rtol=1e-6)
    np.testing.assert_allclose(terms["divergence"] / 6, expected["kl"], rtol=1e-5)
    np.testing.assert_allclose(sum(terms.values()), expected["loss"], rtol=1e-6)


def test_natural_training_perturbs_nothing():
    assert set(make(attack="natural").perturb(first_batch())) == set(first_batch())


def test_the_ramp_grows_epsilon_to_its_full_size():
    """Over half of 10 steps: 1/5, 2/5 ... then 1."""
    method, batch = make(epsilon_ramp=0.5, attack="fast"), first_batch()
    sizes = []
    for step in (0, 1, 4, 9):
        method.optimizer.iterations.assign(step)
        change = np.abs(method.perturb(batch)["adversarial"] - batch["images"])
        sizes.append(change.max())

    np.testing.assert_allclose(sizes, np.array([0.2, 0.4, 1, 1]) * EPSILON, atol=1e-6)


def test_a_frozen_encoder_does_not_move():
    method, batch = (
        make(encoder="frozen", attack="natural", base_rate=1.0),
        first_batch(),
    )
    encoder = [value.copy() for value in method.model.encoder.get_weights()]
    head = [value.copy() for value in method.model.head.get_weights()]
    method.optimizer.iterations.assign(50)

    method.train_step(batch)

    for before, after in zip(encoder, method.model.encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    moved = zip(head, method.model.head.get_weights(), strict=True)
    assert any(np.any(before != after) for before, after in moved)


def test_label_smoothing_matches_its_definition():
    """Reference: 0.9 on the label plus 0.1 / K on every class."""
    logits = np.array([[2.0, 1.0, -1.0]], np.float32)
    log = logits - np.log(np.exp(logits).sum())
    expected = -(0.9 * log[0, 1] + 0.1 * log[0].mean())

    loss = Classification(3, 0.1).loss(tf.constant(logits), tf.constant([1]))

    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_the_trades_divergence_matches_numpy_and_vanishes_on_equal_logits():
    first, second = np.random.default_rng(0).normal(size=[2, 4, 5]).astype(np.float32)
    softmax = lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)  # noqa: E731
    p, q = softmax(first), softmax(second)

    divergence = _divergence(tf.constant(first), tf.constant(second))

    np.testing.assert_allclose(divergence, (p * np.log(p / q)).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(_divergence(first, first), np.zeros(4), atol=1e-7)


def test_trades_trains_on_clean_labels_and_the_divergence():
    method, batch = make(attack="trades", trades_beta=3.0), first_batch()

    seen = method.perturb(batch)
    terms = method.loss_terms(seen, training=False)

    model = method.model
    clean, attacked = model(batch["images"]), model(seen["adversarial"])
    divergence = 3.0 * np.mean(_divergence(clean, attacked))
    np.testing.assert_allclose(terms["divergence"], divergence, rtol=1e-4)
    loss = Classification(10, 0.1).loss(clean, batch["labels"])
    np.testing.assert_allclose(terms["classification"], loss, rtol=1e-5)


def test_layer_decay_slows_the_input_most():
    """Scales 0.65 ** (depth + 1 - id) for depth 2: embedding 0.65 ** 3, head 1."""
    natural = {"attack": "natural", "weight_decay": 0.0, "warmup_epochs": 0.0}
    method = make(layer_decay=0.65, base_rate=1e-2, **natural)
    groups = method.rate_groups()
    before = [[value.numpy() for value in group] for group in groups]

    method.train_step(first_batch())

    moves = [
        np.median(
            np.abs(
                np.concatenate(
                    [
                        (new.numpy() - old).ravel()
                        for new, old in zip(group, olds, strict=True)
                        if np.any(new.numpy() != old)
                    ]
                )
            )
        )
        for group, olds in zip(groups, before, strict=True)
    ]
    # The first AdamW step moves every weight by the rate of its layer.
    np.testing.assert_allclose(
        np.array(moves) / moves[-1], [0.65**3, 0.65**2, 0.65, 1.0], rtol=0.02
    )
