"""One row per training method: what all of them must do."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.methods import METHODS
from kerobust.methods.optimisation import PretrainConfig, compile_method
from tests.methods.finetune_test import make as make_finetune
from tests.methods.tiny import first_batch, tiny_pretraining

FINETUNE = ("natural", "fast", "pgd", "trades")
# They differ from another row by little.
SLOW = ("ensemble", "fast", "pgd", "trades", "rodino", "fare", "multi")
# One attack, its full radius and multipliers that stand still.
STILL = {"attacks": ("both",), "warmup_share": 0.0, "dual_rate": 0.0}
ROWS = [
    pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW))
    for name in (*METHODS, *FINETUNE)
]


def make(name: str):
    if name in FINETUNE:
        return make_finetune(attack=name, warmup_epochs=0.0)
    # A teacher and a centre that stand still, so that the loss can only fall.
    still = {"teacher_momentum": 1.0, "centre_momentum": 1.0}
    method = tiny_pretraining(name, dino=still, multi=STILL, mi_batch=8)
    config = PretrainConfig(epochs=10, batch_size=16, warmup_epochs=0.0, base_rate=1e-2)
    compile_method(method, config, 160)
    return method


def batch_for(method):
    return first_batch(views=method.view_maker, partners=method.PARTNERS)


@pytest.fixture(params=ROWS)
def name(request):
    return request.param


def test_a_step_returns_the_loss_and_every_term(name):
    method = make(name)

    logs = method.train_step(batch_for(method))

    assert set(logs) >= {"loss", *method.TERMS, *method.MEASURES}
    total = sum(float(logs[term]) for term in method.TERMS)
    np.testing.assert_allclose(float(logs["loss"]), total, rtol=1e-5)


def test_training_lowers_the_loss_and_moves_every_trained_weight(name):
    method = make(name)
    batch = batch_for(method)
    before = [value.numpy() for value in method.trained_variables()]
    step = tf.function(method.train_step, autograph=False)
    first = float(step(batch)["loss"])
    for _ in range(30):
        step(batch)
    method.reset_metrics()

    last = float(step(batch)["loss"])

    assert last < first
    for old, variable in zip(before, method.trained_variables(), strict=True):
        assert np.any(old != variable.numpy()), variable.name


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name != "mimir"))
        for name in (*METHODS, *FINETUNE)
    ],
)
def test_eager_and_compiled_steps_agree(name):
    logs, weights = [], []
    for compiled in (False, True):
        tf.keras.utils.set_random_seed(0)
        method = make(name)
        # Not AdamW, whose first step blows the rounding of tiny gradients up.
        method.compile(optimizer=tf.keras.optimizers.SGD(0.1))
        step = method.train_step
        step = tf.function(step, autograph=False) if compiled else step
        logs.append(step(batch_for(method)))
        weights.append([value.numpy() for value in method.trained_variables()])

    np.testing.assert_allclose(logs[0]["loss"], logs[1]["loss"], rtol=1e-5)
    for first, second in zip(*weights, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "policy",
    ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)],
)
def test_mixed_precision_trains_with_float32_images_and_losses(name, policy):
    tf.keras.mixed_precision.set_global_policy(policy)
    method = make(name)
    batch = batch_for(method)

    seen = method.perturb(method.guide(batch))
    terms = method.loss_terms(seen, training=True)
    logs = method.train_step(batch)

    assert all(value.dtype == tf.float32 for value in terms.values())
    assert seen.get("adversarial", batch["images"]).dtype == tf.float32
    assert np.isfinite(float(logs["loss"]))


def state_of(method):
    """Returns all weights but the logged means, of which one is measured in seconds."""
    means = {item.ref() for mean in method.metrics for item in mean.variables}
    return [item for item in method.weights if item.ref() not in means]


def test_a_checkpoint_brings_back_weights_and_slots(name, tmp_path):
    first = make(name)
    batch = batch_for(first)
    for _ in range(3):
        first.train_step(batch)
    saved = tf.train.Checkpoint(method=first, optimizer=first.optimizer)
    path = saved.save(str(tmp_path / "checkpoint"))
    second = make(name)

    restored = tf.train.Checkpoint(method=second, optimizer=second.optimizer)
    restored.restore(path).assert_consumed()
    first.train_step(batch)
    second.train_step(batch)

    # Teachers and centres too.
    for ours, theirs in zip(state_of(first), state_of(second), strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_exports_are_named_models(name):
    exports = make(name).exports

    assert exports
    assert all(isinstance(model, tf.keras.Model) for model in exports.values())


def test_every_setting_has_help_and_survives_a_round_trip_through_text():
    from kerobust.experiment import ExperimentConfig
    from kerobust.flags import parse

    flags = ExperimentConfig().to_flags()

    again = parse([f"--{name}={text}" for name, text in flags.items()]).config

    assert again == ExperimentConfig()
