"""An encoder from outside serves methods and heads as the library's own do."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import DepthPGD, SegPGD
from kerobust.methods import METHODS
from kerobust.models import DensePredictor, DepthHead, SegmentationHead
from tests.methods.tiny import LENGTH, SHAPE, first_batch, tiny_experiment
from tests.models.keras_cv_encoder_test import IMAGES, make, randomise


@pytest.mark.parametrize(
    "name",
    [
        "fare",
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("dino", "deacl", "multi")),
    ],
)
def test_a_method_trains_it(name):
    start = make(stride=4)
    randomise(start)
    method = METHODS[name].from_experiment(tiny_experiment(), SHAPE, LENGTH, start)
    method.compile(tf.keras.optimizers.Adam(1e-3))
    before = [each.numpy() for each in method.encoder.trainable_variables]
    batch = first_batch(views=method.view_maker, partners=method.PARTNERS)

    logs = method.train_step(batch)

    assert np.isfinite(float(logs["loss"]))
    moved = [
        np.any(each.numpy() != old)
        for each, old in zip(method.encoder.trainable_variables, before, strict=True)
    ]
    assert np.mean(moved) > 0.9
    if name != "dino":
        teacher = [each.numpy() for each in method.teacher.weights]
        for ours, theirs in zip(start.get_weights(), teacher, strict=True):
            np.testing.assert_array_equal(theirs, ours)


@pytest.mark.parametrize(
    ("head", "attack", "truth"),
    [
        (SegmentationHead(4), SegPGD(0.1, steps=3), tf.ones([3, 16, 32], tf.int32)),
        (DepthHead(8), DepthPGD(0.1, steps=3), tf.ones([3, 16, 32])),
    ],
)
def test_dense_heads_predict_pixels_that_can_be_attacked(head, attack, truth):
    model = DensePredictor(make(stride=8), head)
    found = model(IMAGES)

    adversarial = attack(IMAGES, truth, model)

    assert found.shape[:3] == (3, 16, 32)
    # The attack reached the pixels through all layers: most of them moved.
    assert np.mean(np.abs(adversarial - IMAGES) > 0.01) > 0.5
