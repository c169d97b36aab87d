"""Multi: loss and updates by hand, laws of its options, errors."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks.balls import BALLS
from kerobust.config import UserError
from kerobust.methods import METHODS
from kerobust.methods.multi_config import MultiConfig
from kerobust.methods.optimisation import PretrainConfig, compile_method
from kerobust.models.resnet import ResNet
from kerobust.models.weights import named_weights
from tests.methods.tiny import LENGTH, SHAPE, first_batch, tiny_experiment

FULL = {"warmup_share": 0.0}


def make(name="multi", start=None, sgd=True, **multi):
    experiment = tiny_experiment(multi=multi)
    if start is None:
        tf.keras.utils.set_random_seed(1)
        start = experiment.model.build(SHAPE)
    method = METHODS[name].from_experiment(experiment, SHAPE, LENGTH, start)
    if sgd:
        method.compile(optimizer=tf.keras.optimizers.SGD(0.1))
    return method


def attacked(method):
    """Returns a batch that is ready for the loss."""
    return method.perturb(method.guide(first_batch()))


def tokens(encoder, images):
    """Returns (class tokens [B, D], patches [B, N, D]) as arrays."""
    return [each.numpy() for each in encoder(images, training=False)]


def squares(value):
    """Returns the mean square of each example's coordinates, [B]."""
    return np.mean(np.square(value), axis=tuple(range(1, value.ndim)))


def distance(first, second):
    """Returns the distance of both token types by halves, mean over examples."""
    pairs = zip(first, second, strict=True)
    return 0.5 * sum(squares(a - b).mean() for a, b in pairs)


def moved(method):
    """Pushes the student away from its teacher."""
    for index, variable in enumerate(method.encoder.trainable_variables):
        noise = tf.random.stateless_normal(variable.shape, [index, 7])
        variable.assign_add(0.05 * noise)
    return method


@pytest.mark.parametrize("constraint", ["adaptive", "scalar", "fixed", "none"])
def test_the_loss_is_that_of_its_definition(constraint):
    given = {"weight": 3.0, "rho_cls": 0.2, "rho_patches": 0.0}
    method = moved(make(constraint=constraint, attacks=("both",), **given))
    batch = attacked(method)

    terms = method.loss_terms(batch, training=False)

    target = tokens(method.teacher, batch["images"])
    clean = tokens(method.encoder, batch["images"])
    far = tokens(method.encoder, batch["adversarial"][:, 0])
    np.testing.assert_allclose(terms["adversarial"], distance(far, target), rtol=1e-4)
    factors = {"none": np.zeros([1, 2]), "fixed": np.full([1, 2], 3.0)}.get(constraint)
    if factors is None:
        factors = method.multipliers(target[0]).numpy()
    rho = (0.0, 0.0) if constraint == "fixed" else (0.2, 0.0)
    for index, name in enumerate(("cls", "patches")):
        slack = squares(clean[index] - target[index])
        slack -= rho[index] * squares(target[index])
        value = np.mean(factors[:, index] * slack)
        np.testing.assert_allclose(terms[f"{name}_constraint"], value, 1e-4, 1e-7)


def test_average_is_the_mean_of_the_losses_of_all_attacks():
    method = moved(make(combine="average", constraint="none"))
    batch = attacked(method)

    loss = method.loss_terms(batch, training=False)["adversarial"]

    target = tokens(method.teacher, batch["images"])
    each = [
        distance(tokens(method.encoder, batch["adversarial"][:, index]), target)
        for index in range(3)
    ]
    assert np.ptp(each) > 0
    np.testing.assert_allclose(loss, np.mean(each), rtol=1e-4)


def test_without_constraint_on_the_class_token_it_is_fare_over_the_width():
    own = {"tokens": "cls", "constraint": "none", "epsilon": 0.2, "step_size": 0.1}
    multi, fare = make(**own, **FULL), make("fare")
    batch = fare.perturb(fare.guide(first_batch()))
    ours = multi.guide(first_batch()) | {"adversarial": batch["adversarial"][:, None]}

    def gradients(method, batch):
        with tf.GradientTape() as tape:
            loss = sum(method.loss_terms(batch, training=True).values())
        return tape.gradient(loss, method.encoder.trainable_variables)

    # Width 16.
    found = zip(gradients(multi, ours), gradients(fare, batch), strict=True)
    for first, second in found:
        np.testing.assert_allclose(16 * first, second, rtol=1e-4, atol=1e-5)


def test_the_multiplier_is_a_constant_for_the_student():
    method = moved(make(constraint="scalar", attacks=("cls",)))
    batch = attacked(method)
    with tf.GradientTape() as tape:
        loss = sum(method.loss_terms(batch, training=False).values())

    assert tape.gradient(loss, method.multipliers.climbing) == [None]


@pytest.mark.parametrize("tokens", ["cls", "patches"])
def test_tokens_restrict_attack_and_loss_to_one_type(tokens):
    method = make(tokens=tokens, **FULL)
    other = {"cls": "patches", "patches": "cls"}[tokens]

    logs = method.train_step(first_batch())

    assert method.config.parts == (tokens,)
    assert [each.objective.part for each in method.attack.members] == [tokens]
    assert method.multipliers.count == 1
    assert float(logs[f"{other}_constraint"]) == 0.0
    assert float(logs[f"{tokens}_constraint"]) != 0.0


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_attacked_images_are_in_the_ball(norm):
    radius = {"linf": 0.1, "l2": 0.8, "l1": 6.0}[norm]
    given = {"epsilon" if norm == "linf" else f"{norm}_epsilon": radius}
    method = make(attacks=("both",), norms=(norm,), **given, **FULL)

    batch = attacked(method)

    images = batch["adversarial"][:, 0]
    sizes = BALLS[norm].norm(images - batch["images"]).numpy()
    assert 0.5 * radius < sizes.min() and sizes.max() <= radius * (1 + 1e-5)
    assert images.numpy().min() >= 0 and images.numpy().max() <= 1


def test_the_attack_moves_the_student_farther_than_noise():
    method = moved(make(attacks=("both",), steps=5, **FULL))

    batch = attacked(method)

    noise = tf.random.stateless_uniform(SHAPE, [1, 2], -1.0, 1.0)
    noisy = tf.clip_by_value(batch["images"] + 0.2 * tf.sign(noise), 0.0, 1.0)
    target = tokens(method.teacher, batch["images"])
    far, near = (
        distance(tokens(method.encoder, images), target)
        for images in (batch["adversarial"][:, 0], noisy)
    )
    assert far > 1.3 * near


@pytest.mark.parametrize("combine", ["maximum", "msd"])
def test_several_norms_attack_within_their_union(combine):
    radii = {"epsilon": 0.1, "l1_epsilon": 6.0}
    norms = ("linf", "l1")
    method = make(combine=combine, norms=norms, attacks=("both",), **radii, **FULL)

    batch = attacked(method)

    change = batch["adversarial"][:, 0] - batch["images"]
    shares = [
        BALLS[norm].norm(change) / radius
        for norm, radius in zip(norms, radii.values(), strict=True)
    ]
    assert np.max(np.min(shares, axis=0)) <= 1 + 1e-5
    assert len(method.attack.members) == {"maximum": 2, "msd": 1}[combine]


def test_the_radius_rises_over_the_first_steps():
    """Of 100 steps 20 warm up: 1/20, 2/20, ... then 1."""
    given = {"steps": 5, "epsilon": 0.1, "attacks": ("both",)}
    method = make(warmup_share=0.2, **given)
    sizes = []
    for step in (0, 1, 9, 19, 20, 99):
        method.optimizer.iterations.assign(step)
        batch = attacked(method)
        change = batch["adversarial"][:, 0] - batch["images"]
        sizes.append(np.abs(change).max())

    expected = 0.1 * np.array([0.05, 0.1, 0.5, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(sizes, expected, rtol=1e-4)


def test_multipliers_move_after_every_so_many_updates():
    method = make(dual_every=3, constraint="scalar", attacks=("cls",), **FULL)
    step = tf.function(method.train_step, autograph=False)
    raw = []
    for _ in range(6):
        step(first_batch())
        raw.append(float(method.multipliers.climbing[0][0]))

    changed = np.diff([0.0, *raw]) != 0
    assert changed.tolist() == [False, False, True, False, False, True]


def test_the_update_of_multipliers_sees_the_clean_images_after_the_step():
    given = {"constraint": "scalar", "dual_rate": 0.01, "rho_cls": 0.02}
    method = make(attacks=("both",), **given, **FULL)

    method.train_step(first_batch())

    clean = tokens(method.encoder, first_batch()["images"])
    target = tokens(method.teacher, first_batch()["images"])
    slacks = [
        np.mean(squares(a - b) - rho * squares(b))
        for a, b, rho in zip(clean, target, (0.02, 0.05), strict=True)
    ]
    # The first step of Adam has the sign of the gradient and the length of the rate.
    raw = method.multipliers.climbing[0].numpy()
    np.testing.assert_allclose(raw, 0.01 * np.sign(slacks), rtol=1e-3)
    # Its first moment is 0.1 times the gradient, sigmoid(0) times the mean slack.
    moment = method.multipliers.first[0].numpy()
    np.testing.assert_allclose(moment, 0.05 * np.array(slacks), rtol=1e-3)


def trained(**multi):
    method = make(sgd=False, attacks=("both",), epsilon=0.3, **FULL, **multi)
    config = PretrainConfig(epochs=10, batch_size=16, warmup_epochs=0.0, base_rate=5e-2)
    compile_method(method, config, 160)
    step = tf.function(method.train_step, autograph=False)
    for _ in range(60):
        step(first_batch())
    method.reset_metrics()
    return {name: float(value) for name, value in step(first_batch()).items()}


@pytest.mark.slow
def test_the_constraint_holds_clean_tokens_where_attacks_alone_drive_them_away():
    free = trained(constraint="none")
    held = trained(constraint="scalar", dual_rate=0.1)

    for name in ("cls", "patches"):  # rho is 0.05 for both.
        assert held[f"{name}_drift"] < 0.05 < free[f"{name}_drift"]


def test_the_export_is_an_average_that_starts_at_the_teacher():
    method = make(ema=0.75, attacks=("cls",))
    kernel = method.encoder.trainable_variables[0]
    names = {id(v): n for n, v in named_weights(method.encoder).items()}
    average = named_weights(method.exports["encoder"])[names[id(kernel)]]
    expected = named_weights(method.teacher)[names[id(kernel)]].numpy()
    np.testing.assert_array_equal(average, expected)
    for _ in range(3):
        method.train_step(first_batch())
        expected = 0.75 * expected + 0.25 * kernel.numpy()

    np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-7)


def test_without_an_average_the_student_is_exported():
    method = make(ema=0.0)

    assert method.exports == {"encoder": method.encoder}


@pytest.mark.slow
def test_the_average_of_a_residual_network_has_its_statistics_too():
    method = make(start=ResNet(8), ema=0.5, attacks=("both",), **FULL)
    name = "norm1/moving_mean"
    average = named_weights(method.exports["encoder"])[name]
    start = average.numpy()

    method.train_step(first_batch())

    student = named_weights(method.encoder)[name].numpy()
    assert np.any(student != start)
    np.testing.assert_allclose(average, 0.5 * (start + student), rtol=1e-5)


@pytest.mark.slow
def test_a_resumed_run_draws_and_updates_as_if_it_had_not_stopped(tmp_path):
    whole, second = (make(dual_every=2, warmup_share=0.1) for _ in range(2))
    steps = [tf.function(each.train_step, autograph=False) for each in (whole, second)]
    for _ in range(3):
        steps[0](first_batch())
    saved = tf.train.Checkpoint(method=whole, optimizer=whole.optimizer)
    path = saved.save(str(tmp_path / "checkpoint"))

    steps[1](first_batch())  # What was there before must not matter.
    restored = tf.train.Checkpoint(method=second, optimizer=second.optimizer)
    restored.restore(path).assert_consumed()
    for _ in range(3):
        for step in steps:
            step(first_batch())

    assert float(whole.multipliers.updates_made) == 3.0
    for name in ("encoder", "multipliers", "average"):
        ours, theirs = (getattr(each, name).weights for each in (whole, second))
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"random_start": False}, "--multi.random_start` must be true"),
        (
            {"probabilities": (0.5, 0.5)},
            r"--multi.probabilities` must be three numbers.*"
            r"Received: probabilities=\(0.5, 0.5\)",
        ),
        (
            {"attacks": ("cls",), "probabilities": (0.0, 1.0, 1.0)},
            r"one of those in use \(cls\) above 0",
        ),
        (
            {"attacks": ("cls", "cls")},
            "--multi.attacks` must hold each name once.*Leave the second one out",
        ),
        ({"norms": ()}, r"--multi.norms` must name a norm. Received: norms=\(\)"),
        ({"norms": ("l0",)}, "--multi.norms` must be one of: linf, l2, l1"),
        (
            {"norms": ("linf", "l2"), "l2_epsilon": 0.0},
            "--multi.l2_epsilon` must be above 0 while `?--multi.norms.* holds l2",
        ),
        (
            {"norms": ("l2",), "step_size": 0.1},
            "--multi.step_size` must be empty unless --multi.norms holds linf",
        ),
        ({"ema": 1.0}, r"--multi.ema` must lie in \[0, 1\)"),
        ({"tokens": "mean"}, "--multi.tokens` must be one of: cls, patches, both"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        MultiConfig(**settings)


def test_norms_are_named_by_one_flag():
    flags = tiny_experiment().to_flags()

    assert "multi.norms" in flags and "multi.norm" not in flags
