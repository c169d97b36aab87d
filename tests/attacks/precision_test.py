"""Attacks that search in bfloat16 and speak in float32."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import ATTACKS, PGD, CrossEntropy, MomentumPGD
from kerobust.attacks.precision import in_precision
from tests.attacks.victims import Linear, convnet, digits

WEIGHTS = np.linspace(-1, 1, 192).astype(np.float32)
# bfloat16 keeps 8 bits: 1 + 2^-10 becomes 1.
FINE = 1 + 2.0**-10


def has_bfloat16() -> bool:
    cpus = pathlib.Path("/proc/cpuinfo")
    return cpus.exists() and "avx512_bf16" in cpus.read_text()


needs_bfloat16 = pytest.mark.skipif(
    not has_bfloat16(), reason="this CPU has no bfloat16 instructions"
)


def product(left):
    return tf.matmul(left, tf.ones([64, 64]))


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="`precision`.*float32, bfloat16.*=half"):
        PGD(precision="half")


@needs_bfloat16
def test_only_the_named_function_is_computed_in_bfloat16():
    left = tf.fill([64, 64], FINE)

    @tf.function(autograph=False)
    def both(left):
        return in_precision("bfloat16", product, left), product(left)

    half, full = both(left)

    assert half.dtype == full.dtype == tf.float32
    np.testing.assert_array_equal(half, np.full([64, 64], 64.0))
    np.testing.assert_array_equal(full, np.full([64, 64], 64 * FINE))
    np.testing.assert_array_equal(tf.function(product)(left), full)


@needs_bfloat16
def test_a_search_sees_the_victim_in_bfloat16():
    images, labels = digits(32)
    victim = convnet()

    found = {
        precision: PGD(0.1, steps=5, seed=0, precision=precision)(
            images, labels, victim
        ).numpy()
        for precision in ("float32", "bfloat16")
    }

    assert (found["float32"] != found["bfloat16"]).any()


# FAB and Square refuse other precisions than float32.
@pytest.mark.parametrize("name", sorted(ATTACKS.keys() - {"fab", "square"}))
def test_the_perturbation_stays_float32(name):
    images = tf.random.uniform([4, 8, 8, 3], 0.2, 0.8, seed=1)
    attack = ATTACKS[name](0.0371, precision="bfloat16")

    adversarial = attack(images, tf.zeros([4]), Linear(WEIGHTS))

    # Gradients of w.x are large enough that rounding keeps every sign.
    expected = images + 0.0371 * np.sign(WEIGHTS).reshape(8, 8, 3)
    np.testing.assert_allclose(adversarial, expected, atol=1e-7)


def test_what_is_said_about_the_result_is_computed_in_float32():
    images, labels = digits(32)
    victim = convnet()
    attack = PGD(0.1, steps=3, restarts=2, seed=0, precision="bfloat16")

    adversarial, info = attack(images, labels, victim, return_info=True)

    objective = CrossEntropy(victim)
    outputs, labels = objective.outputs(adversarial), tf.constant(labels)
    loss, fooled = objective.values(outputs, labels), objective.fooled(outputs, labels)
    np.testing.assert_allclose(info.loss, loss, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(info.success, fooled)


def test_inside_a_graph_it_does_the_same():
    images, labels = digits(8)
    victim = convnet()
    attack = MomentumPGD(0.1, steps=3, precision="bfloat16")

    inside = tf.function(lambda x, y: attack(x, y, victim), autograph=False)

    expected = attack(images, labels, victim)
    np.testing.assert_allclose(inside(images, labels), expected, atol=1e-6)
