"""What holds for every attack, norm, shape and batch: swept over `ATTACKS`.

A new attack in `ATTACKS` is swept by itself; the tables below hold what must be known
of it: cheap settings, and what it does not claim.
"""

import contextlib
import functools
import typing

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from kerobust.attacks import (
    ATTACKS,
    DLR,
    MSD,
    PGD,
    CrossEntropy,
    LogitMargin,
    SparsePGD,
    Union,
    security_curve,
)
from kerobust.randomness import example_keys

NORMS = ("linf", "l2", "l1")
RADII = {"linf": 0.15, "l2": 0.3, "l1": 0.8}
SHAPES = ((1, 1, 6), (5, 7, 1), (6, 6, 3))
CLASSES = 5

# Cheap settings; all others get a few steps.
CHEAP = {"fgsm": {}, "square": {"queries": 8}}
# Attacks whose longer searches begin like the shorter ones, given the step size.
PREFIX = {"pgd", "momentum_pgd", "sparse_pgd"}
# Attacks that look for the smallest change, not the largest value.
CLOSEST = {"fab"}
# Least share of the maximum of a linear objective that a few steps must reach.
LEAST = {"square": 0.0, "fab": 0.0, "autopgd": 0.5}


def make(name, norm, **options):
    """Returns an attack with cheap settings; "union" is both a norm and an attack."""
    if name == "union":
        members = [PGD(RADII[norm], norm=norm, steps=3) for norm in NORMS]
        return Union(members, **options)
    options = {"random_start": True, "keep": "best"} | options
    options = CHEAP.get(name, {"steps": 4}) | options
    if name == "msd":
        return MSD(RADII, **{"counts": (1, 3)} | options)
    kind = SparsePGD if name == "sparse_pgd" else ATTACKS[name]
    return kind(RADII[norm], norm=norm, **options)


SWEEP = [(name, norm) for name in ATTACKS for norm in NORMS]
SWEEP += [("sparse_pgd", "l1"), ("msd", "union"), ("union", "union")]
# Every attack meets every shape, and so does every norm, in a third of the time.
SHAPE = {each: SHAPES[(i + i // 3) % 3] for i, each in enumerate(SWEEP)}
# One norm, so one compiled attack, per attack; the tests of unions have their own.
ONCE = [*{name: (name, norm) for name, norm in SWEEP if norm != "union"}.values()]

# They differ from pgd by nothing that depends on the norm.
REPEATS = {(name, norm) for name in ("momentum_pgd", "decaying_pgd") for norm in NORMS}
sweep = pytest.mark.parametrize(
    ("name", "norm"),
    [
        pytest.param(*each, marks=[pytest.mark.slow] * (each in REPEATS))
        for each in SWEEP
    ],
)
once = pytest.mark.parametrize(("name", "norm"), ONCE)


def examples(count):
    """Returns settings that draw the same few examples every time.

    A failing one is small as it is; making it smaller would take minutes.
    """
    return settings(
        max_examples=count,
        phases=[Phase.generate],
        deadline=None,
        derandomize=True,
        database=None,
    )


class Victim(tf.keras.Model):
    """A network with all that inference must leave alone, and a knob for its logits."""

    def __init__(self, seed):
        super().__init__()
        layers, start = tf.keras.layers, tf.keras.initializers.GlorotNormal
        self.hidden = layers.Dense(8, activation="tanh", kernel_initializer=start(seed))
        self.norm = layers.BatchNormalization()
        self.drop = layers.Dropout(0.5)
        self.head = layers.Dense(CLASSES, kernel_initializer=start(seed + 1))
        self.factor = tf.Variable(1.0, trainable=False)
        self.shift = tf.Variable(0.0, trainable=False)

    def call(self, images, training=None):
        flat = 8.0 * (tf.reshape(images, [-1, np.prod(images.shape[1:])]) - 0.5)
        hidden = self.drop(self.norm(self.hidden(flat), training), training)
        return self.factor * self.head(hidden) + self.shift


@contextlib.contextmanager
def knob(variable, value):
    """Turns a knob of a victim, and back."""
    before = variable.numpy()
    variable.assign(value)
    try:
        yield
    finally:
        variable.assign(before)


@functools.cache
def victim(shape):
    """Returns a compiled network whose optimizer has seen a step."""
    network = Victim(3)
    network.compile(tf.keras.optimizers.Adam(), "mse")
    network.fit(np.zeros([4, *shape]), np.zeros([4, CLASSES]), verbose=0)
    return network


@functools.cache
def objective(kind, shape):
    return kind(victim(shape))


@functools.cache
def evaluator(name, norm):
    """Returns the attack as evaluation uses it, compiled once for most tests."""
    return make(name, norm, skip_misclassified=True, seed=0)


class Batch(typing.NamedTuple):
    """Some rows of the pool of one shape; factors are of the attack's radius."""

    images: np.ndarray
    labels: np.ndarray
    keys: tf.Tensor
    factor: np.ndarray

    def take(self, rows):
        return Batch(*(np.asarray(each)[rows] for each in self))


@functools.cache
def pool(shape):
    """Returns 16 rows: a half on the border of the box, a quarter labelled wrong."""
    generator = np.random.default_rng(0)
    images = generator.uniform(0, 1, [16, *shape]).astype(np.float32)
    images[::2] = np.round(images[::2])
    images[:, 0, 0, 0] = -0.0  # Bits that arithmetic would not keep.
    labels = np.argmax(victim(shape)(images), axis=1).astype(np.int32)
    labels[::4] = (labels[::4] + 1) % CLASSES
    keys = example_keys(0, 0, tf.range(16)).numpy()
    return Batch(images, labels, keys, np.ones([16], np.float32))


@st.composite
def batches(draw, factors=(0.0, 0.3, 1.0)):
    """Returns a function from a shape to a `Batch` of 1, 3 or 8 rows."""
    count = draw(st.sampled_from([8, 3, 1]))
    rows = draw(st.permutations(range(16)))[:count]
    factor = draw(st.lists(st.sampled_from(factors), min_size=count, max_size=count))

    def make_batch(shape):
        return pool(shape).take(rows)._replace(factor=np.float32(factor))

    return make_batch


def run(attack, batch, kind=DLR, **options):
    """Returns (images, info) as arrays; DLR, so that all laws share one compilation."""
    adversarial, info = attack(
        batch.images,
        batch.labels,
        objective(kind, tuple(batch.images.shape[1:])),
        epsilon=batch.factor * np.float32(attack.epsilon),
        keys=batch.keys,
        return_info=True,
        **options,
    )
    return adversarial.numpy(), tf.nest.map_structure(np.asarray, info)


def state(network):
    """Returns all bits of a model and its optimizer, and the learning phase."""
    variables = [*network.variables, *network.optimizer.variables]
    bits = [variable.numpy().tobytes() for variable in variables]
    return bits, tf.keras.backend.learning_phase()


@sweep
@given(make_batch=batches())
@examples(5)
def test_what_is_promised_of_one_call(name, norm, make_batch):
    attack, batch = evaluator(name, norm), make_batch(SHAPE[name, norm])
    network = victim(SHAPE[name, norm])
    wrong = np.argmax(network(batch.images), axis=1) != batch.labels
    before = state(network)

    adversarial, info = run(attack, batch)

    # I1: inside ball and box, a number everywhere, and what it says of itself holds.
    assert adversarial.shape == batch.images.shape
    assert adversarial.dtype == np.float32
    assert adversarial.min() >= 0 and adversarial.max() <= 1  # False for NaN.
    size = attack.ball.norm(tf.constant(adversarial - batch.images)).numpy()
    assert (size <= batch.factor * attack.epsilon * (1 + 1e-5) + 1e-6).all()
    np.testing.assert_allclose(info.norm, size, atol=1e-6)
    logits = network(adversarial).numpy()
    np.testing.assert_array_equal(info.success, logits.argmax(axis=1) != batch.labels)
    # I2 and I3: bit for bit the image where epsilon is 0, and where it fools anyway.
    same = wrong | (batch.factor == 0)
    assert adversarial[same].tobytes() == batch.images[same].tobytes()
    assert info.success[wrong].all() and not info.steps_used[wrong].any()
    # I6: the victim is what it was, and nothing of it became the attack's.
    assert state(network) == before and attack.variables == []


@sweep
@given(make_batch=batches(), radii=st.lists(st.floats(0, 1), min_size=2, max_size=3))
@examples(2)
def test_i4_a_larger_radius_never_helps_the_victim(name, norm, make_batch, radii):
    attack, batch = evaluator(name, norm), make_batch(SHAPE[name, norm])
    target = objective(DLR, SHAPE[name, norm])
    radii = [attack.epsilon * radius for radius in radii]

    curve = security_curve(
        attack, target, batch.images, batch.labels, radii, batch_size=5
    )

    assert (curve.robust[1:] <= curve.robust[:-1]).all()
    assert (np.diff(curve.robust_accuracy) <= 0).all()


@functools.cache
def restarting(name, norm):
    return make(name, norm, skip_misclassified=True, restarts=3)


@once
@given(make_batch=batches())
@examples(3)
def test_i4_more_restarts_never_help_the_victim(name, norm, make_batch):
    batch = make_batch(SHAPE[name, norm])

    _, one = run(evaluator(name, norm), batch)
    _, three = run(restarting(name, norm), batch)

    assert (three.success >= one.success).all()
    if name in CLOSEST:
        closer = three.norm <= one.norm + 1e-5
        assert closer[one.success].all()
    else:
        same = three.success == one.success
        assert (three.loss >= one.loss - 1e-5)[same].all()


@functools.cache
def longer(name, norm):
    return make(name, norm, skip_misclassified=True, steps=7)


@pytest.mark.parametrize(("name", "norm"), [each for each in ONCE if each[0] in PREFIX])
@given(make_batch=batches(factors=(1.0,)))
@examples(3)
def test_i4_more_steps_never_help_the_victim(name, norm, make_batch):
    batch, step_size = make_batch(SHAPE[name, norm]), 0.3 * RADII[norm]

    _, four = run(evaluator(name, norm), batch, step_size=step_size)
    _, seven = run(longer(name, norm), batch, step_size=step_size)

    assert (seven.success >= four.success).all()
    same = seven.success == four.success
    assert (seven.loss >= four.loss - 1e-5)[same].all()


@sweep
@given(make_batch=batches(), seed=st.integers(0, 99))
@examples(2)
def test_i5_batch_mates_and_their_order_do_not_matter(name, norm, make_batch, seed):
    attack, batch = evaluator(name, norm), make_batch(SHAPE[name, norm])
    order = np.random.default_rng(seed).permutation(len(batch.images))

    whole, info = run(attack, batch)
    shuffled, shuffled_info = run(attack, batch.take(order))
    alone, _ = run(attack, batch.take(order[:1]))

    np.testing.assert_allclose(shuffled, whole[order], atol=2e-5)
    np.testing.assert_allclose(alone, whole[order[:1]], atol=2e-5)
    np.testing.assert_array_equal(shuffled_info.success, info.success[order])


@sweep
@given(
    make_batch=batches(),
    shift=st.floats(-20, 20, width=32),
    power=st.integers(-6, 12),
)
@examples(3)
def test_i7_neither_shift_nor_scale_of_the_logits_matters_to_dlr(
    name, norm, make_batch, shift, power
):
    attack, batch = evaluator(name, norm), make_batch(SHAPE[name, norm])
    network = victim(SHAPE[name, norm])

    plain, info = run(attack, batch)
    with knob(network.shift, shift):
        shifted = run(attack, batch)
    with knob(network.factor, 2.0**power):
        scaled = run(attack, batch)

    for adversarial, other in (shifted, scaled):
        np.testing.assert_array_equal(other.success, info.success)
        np.testing.assert_allclose(adversarial, plain, atol=1e-3)
        np.testing.assert_allclose(other.loss, info.loss, rtol=1e-2, atol=1e-3)


def test_i7_but_cross_entropy_loses_its_gradient():
    network, batch = victim(SHAPES[0]), pool(SHAPES[0])
    labels = np.argmax(network(batch.images), axis=1).astype(np.int32)
    margin = -LogitMargin(network)(batch.images, tf.constant(labels)).numpy()
    attack = PGD(0.1, random_start=False, keep="last")
    moves = {}

    for factor in (1.0, 65536.0):
        for kind in (CrossEntropy, DLR):
            with knob(network.factor, factor):
                change, _ = run(attack, batch._replace(labels=labels), kind)
            moves[factor, kind] = (change != batch.images).any(axis=(1, 2, 3))

    # In float32 exp(-104) is 0: margins above 104 / factor leave no gradient at all.
    assert (margin > 104 / 65536).all()
    assert not moves[65536.0, CrossEntropy].any()
    for case in ((1.0, CrossEntropy), (1.0, DLR), (65536.0, DLR)):
        assert moves[case].all()


@functools.cache
def linear():
    """Returns a victim of two classes, and what moves its score from 0.3."""
    weights = np.float32([2.0, -1.0, 0.5, 1.5, -0.25, 0.75])
    images = np.full([4, 1, 6, 1], 0.5, np.float32)
    images += 0.3 * weights.reshape(1, 1, 6, 1) / np.square(weights).sum()

    def logits(images):
        score = tf.linalg.matvec(tf.reshape(images, [-1, 6]) - 0.5, weights)
        return tf.stack([-score, score], axis=1) / 2.0

    gains = {"linf": np.abs(weights).sum(), "l2": np.linalg.norm(weights)}
    gains["l1"] = np.abs(weights).max()
    gains["union"] = max(RADII[norm] * gains[norm] for norm in NORMS)
    return logits, images, gains


@sweep
def test_i8_a_linear_victim_falls_exactly_where_the_dual_norm_says(name, norm):
    logits, images, gains = linear()
    options = {} if name == "union" else {"random_start": False}
    options |= {"counts": (1, 1)} if name == "msd" else {}
    attack = make(name, norm, **options)
    # 0.3 is the score: radii below, just below, just above and above what it takes.
    epsilon = 0.3 / gains[norm] * np.float32([0.5, 0.999, 1.02, 1.5])

    adversarial, info = attack(
        images, np.ones([4], np.int32), logits, epsilon=epsilon, return_info=True
    )

    score = (logits(adversarial)[:, 1] - logits(adversarial)[:, 0]).numpy()
    lost, most = 0.3 - score, epsilon * gains[norm]
    assert (lost <= most * (1 + 1e-5) + 1e-6).all()
    least = LEAST.get(name, 0.999)
    assert (lost >= least * most - 1e-6).all()
    assert not info.success.numpy()[:2].any()
    if least > 0.99 or name in CLOSEST:
        assert info.success.numpy()[2:].all()
