"""Depth losses: the original numbers, laws, a slow reference, and what has no depth."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.losses.depth import gradient_loss, sig_loss
from tests.goldens.closed_form import checks, grid

SHA256 = "6afe5b7c6d99110d8b4f50e93aaea9074492ba039ce2bc0ecae503ff83df81c5"
GOLDEN = checks("dense.json", SHA256)["depth_losses"]["expected"]


def maps() -> tuple[np.ndarray, np.ndarray]:
    """Returns prediction and depth [3, 12, 16] of the golden file."""
    depth = grid((3, 12, 16), 0.19, 0.5, "cos", 1.8, 3.2)
    depth.flat[np.arange(depth.size) % 7 == 3] = 0
    prediction = grid((3, 12, 16), 0.21, 0.3, "sin", 1.5, 3.0)
    return prediction.astype(np.float32), depth.astype(np.float32)


PREDICTION, DEPTH = maps()
FIRST = PREDICTION[:1], DEPTH[:1]


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (lambda: sig_loss(*FIRST), "sigloss_sample0"),
        (lambda: sig_loss(PREDICTION, DEPTH)[:1], "sigloss_sample0"),
        (lambda: sig_loss(PREDICTION, DEPTH, pooled=True), "sigloss_batch3"),
        (lambda: sig_loss(*FIRST, warm_up=True), "sigloss_sample0_warmup"),
        (lambda: gradient_loss(*FIRST), "gradloss_sample0_2D(correct HxW)"),
        (
            lambda: gradient_loss(PREDICTION, DEPTH, pooled=True),
            "gradloss_batch3_per_image_HW_pooled(correct axes, batch pooled)",
        ),
        (
            lambda: gradient_loss(*FIRST, layout="repo"),
            "gradloss_literal_[1,H,W](repo attack: axes 0,1)",
        ),
        (
            lambda: gradient_loss(PREDICTION, DEPTH, layout="repo"),
            "gradloss_literal_[3,H,W](repo training: axes 0,1)",
        ),
        (
            lambda: gradient_loss(PREDICTION, DEPTH, layout="dinov2"),
            "gradloss_literal_[3,1,H,W](dinov2 training: axes 0,1)",
        ),
    ],
)
def test_losses_are_those_of_the_original_code(found, name):
    value = found()

    assert value.shape == [1] and value.dtype == tf.float32
    np.testing.assert_allclose(value, [GOLDEN[name]], rtol=1e-5)


def test_images_of_a_batch_do_not_meet():
    alone = [sig_loss(PREDICTION[i : i + 1], DEPTH[i : i + 1])[0] for i in range(3)]
    steps = [
        gradient_loss(PREDICTION[i : i + 1], DEPTH[i : i + 1])[0] for i in range(3)
    ]

    np.testing.assert_allclose(sig_loss(PREDICTION, DEPTH), alone, rtol=1e-6)
    np.testing.assert_allclose(gradient_loss(PREDICTION, DEPTH), steps, rtol=1e-6)


def test_a_factor_costs_its_logarithm_only_and_no_gradient():
    depth = DEPTH + 10.0  # Far from the shift inside the logarithm.

    scaled = sig_loss(2.0 * depth, depth)

    np.testing.assert_allclose(scaled, np.sqrt(0.15) * np.log(2), rtol=1e-3)
    np.testing.assert_allclose(gradient_loss(2.0 * depth, depth), 0.0, atol=1e-3)


def slow_gradient_loss(prediction, depth) -> float:
    total = 0.0
    for stride in (1, 2, 4, 6):
        a, b = prediction[::stride, ::stride], depth[::stride, ::stride]
        pairs = 0.0
        for i, j in np.argwhere(b > 0):
            for k, m in ((i + 2, j), (i, j + 2)):
                if k < b.shape[0] and m < b.shape[1] and b[k, m] > 0:
                    first = np.log(a[i, j] + 1e-3) - np.log(b[i, j] + 1e-3)
                    pairs += abs(
                        np.log(a[k, m] + 1e-3) - np.log(b[k, m] + 1e-3) - first
                    )
        total += pairs / max((b > 0).sum(), 1)
    return total


def test_a_slow_reference_agrees_on_random_maps():
    draws = np.random.default_rng(0)
    depth = draws.uniform(0.5, 9, [2, 9, 7]) * (draws.uniform(size=[2, 9, 7]) > 0.3)
    prediction = draws.uniform(0.01, 10, [2, 9, 7])

    found = gradient_loss(prediction, depth)

    expected = [
        slow_gradient_loss(*pair) for pair in zip(prediction, depth, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [sig_loss, gradient_loss])
@pytest.mark.parametrize("known", [0, 1, 2, 60])
def test_few_or_no_depths_and_perfect_maps_have_finite_gradients(loss, known):
    depth = np.zeros([1, 6, 10], np.float32)
    depth.flat[:known] = 2.0
    for value in (2.0, 3.0, 0.0):
        prediction = tf.fill([1, 6, 10], value)
        with tf.GradientTape() as tape:
            tape.watch(prediction)
            found = loss(prediction, depth)
        gradient = tape.gradient(found, prediction)

        assert np.isfinite(found).all() and np.isfinite(gradient).all()
        assert not np.any(gradient[depth == 0])
        if not known or value == 2.0:
            np.testing.assert_array_equal(found, [0.0])


def test_unknown_layouts_are_refused():
    with pytest.raises(ValueError, match="`layout` must be one of image, repo, dinov2"):
        gradient_loss(*FIRST, layout="rows")
