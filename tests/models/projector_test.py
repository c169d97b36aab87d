"""The projection head against the original code, and its laws."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.models.bundle import load_bundle, save_bundle
from kerobust.models.projector import DinoHead
from tests.goldens.closed_form import checks
from tests.methods.dino_test import GOLDENS, SHA256
from tests.models.filled import fill, formula


def golden_head(golden):
    head = DinoHead(6, 7, hidden=8, bottleneck=5, train_scale=True)
    values = fill(golden["param_order"])
    for number, dense in enumerate(head.mlp):
        kernel, bias = (values[f"mlp.{2 * number}.{x}"] for x in ("weight", "bias"))
        dense.set_weights([kernel.T, bias])
    head.last.scale.assign(values["last_layer.weight_g"].T)
    head.last.direction.assign(values["last_layer.weight_v"].T)
    return head


def test_outputs_and_gradients_are_those_of_the_original():
    golden = checks(GOLDENS, SHA256)["D3"]
    head, expected = golden_head(golden), golden["expected"]
    features = tf.Variable(formula(golden["inputs"]["x"]), dtype=tf.float32)

    with tf.GradientTape() as tape:
        scores = head(features)
        loss = tf.reduce_sum(scores**2)
    sources = [features, head.last.scale, head.last.direction]
    to_features, to_scale, to_direction = tape.gradient(loss, sources)

    np.testing.assert_allclose(tf.reshape(scores, [-1]), expected["y"], rtol=1e-5)
    np.testing.assert_allclose(
        tf.reshape(to_features, [-1])[:6],
        expected["grad_x_of_sum_y2"],
        rtol=1e-3,
        atol=1e-5,
    )
    np.testing.assert_allclose(to_scale[0], expected["grad_weight_g"], rtol=1e-4)
    np.testing.assert_allclose(
        tf.transpose(to_direction)[0], expected["grad_weight_v_first5"], rtol=1e-4
    )


@pytest.mark.parametrize("trained", [False, True])
def test_scales_are_trained_only_on_request(trained):
    head = DinoHead(6, 7, hidden=8, bottleneck=5, train_scale=trained)

    names = [variable.name for variable in head.trainable_variables]

    assert any("scale" in name for name in names) == trained
    np.testing.assert_array_equal(head.last.scale, np.ones([1, 7]))


def test_scores_are_cosines_while_the_scales_are_one():
    head = DinoHead(6, 7, hidden=8, bottleneck=5)
    features = tf.random.stateless_normal([32, 6], [1, 2])

    scores = head(features)

    assert np.abs(scores).max() <= 1 + 1e-6
    lengths = np.linalg.norm(head.project(features), axis=1)
    np.testing.assert_allclose(lengths, 1.0, rtol=1e-5)


def test_a_bundle_brings_the_head_back(tmp_path):
    head = DinoHead(6, 7, hidden=8, bottleneck=5, train_scale=True)
    features = tf.random.stateless_normal([4, 6], [1, 2])

    save_bundle({"head": head}, tmp_path / "bundle", {})
    again = load_bundle(tmp_path / "bundle")["head"]

    np.testing.assert_array_equal(again(features), head(features))
    assert again.get_config() == head.get_config()
