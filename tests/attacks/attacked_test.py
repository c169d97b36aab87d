"""Tests of serialisation: attacks by themselves, and with their victim."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import ATTACKS, FGSM, PGD, Attacked, MomentumPGD
from tests.attacks.victims import convnet, digits

FULL = {
    "epsilon": 0.2,
    "norm": "l2",
    "step_size": 0.07,
    "random_start": True,
    "restarts": 3,
    "keep": "last",
    "skip_misclassified": True,
    "precision": "bfloat16",
    "seed": 5,
    "name": "mine",
}


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_attacks_come_back_from_their_config(name):
    exact = {"keep": "best", "precision": "float32"}
    own = {
        "fgsm": {},
        "pgd": {"steps": 3},
        "momentum_pgd": {"steps": 3, "decay": 0.5},
        "decaying_pgd": {"steps": 3},
        "autopgd": {
            **{"steps": 30, "rises": 0.6, "radii": (2.0, 1.0), "compat": True},
            "keep": "best",
        },
        "fab": {
            **{"steps": 3, "max_pull": 0.2, "overshoot": 1.1, "backward": 0.8},
            **exact,
        },
        "square": {
            **{"queries": 9, "initial_share": 0.5, "rescale_schedule": True},
            **{"compat": True, "step_size": None, **exact},
        },
    }
    settings = {**FULL, "stop_when_fooled": False, **own[name]}
    attack = ATTACKS[name](**settings)

    packed = tf.keras.saving.serialize_keras_object(attack)
    again = tf.keras.saving.deserialize_keras_object(packed)

    assert type(again) is type(attack) and again.get_config() == attack.get_config()
    assert again.get_config() == {**settings, "trainable": True}


def test_config_names_are_canonical():
    assert PGD(norm=np.inf).get_config()["norm"] == "linf"
    assert PGD(norm="L2").get_config()["norm"] == "l2"
    assert PGD().get_config()["keep"] == "last"
    assert PGD(restarts=2).get_config()["keep"] == "best"


def test_attacked_gives_adversarial_images_and_their_logits():
    images, labels = digits(10)
    network = convnet()
    model = Attacked(PGD(0.1, seed=0), network)

    result = model(images, labels)

    expected = PGD(0.1, seed=0)(images, labels, network)
    np.testing.assert_array_equal(result["adversarial"], expected)
    np.testing.assert_allclose(result["logits"], network(expected), atol=1e-5)
    assert len(model.variables) == 8


@pytest.mark.parametrize("attack", [FGSM(0.1), MomentumPGD(0.1, norm=2, steps=2)])
def test_attacked_survives_a_keras_file(tmp_path, attack):
    images, labels = digits(10)
    model = Attacked(attack, convnet())
    expected = model(images, labels)

    model.save(tmp_path / "model.keras")
    again = tf.keras.models.load_model(tmp_path / "model.keras")

    result = again(images, labels)
    np.testing.assert_allclose(
        result["adversarial"], expected["adversarial"], atol=1e-6
    )
    np.testing.assert_allclose(result["logits"], expected["logits"], atol=1e-4)


def test_attacked_in_a_functional_model_survives_a_keras_file(tmp_path):
    images, labels = digits(10)
    inputs = tf.keras.Input([8, 8, 1])
    targets = tf.keras.Input([], dtype="int32")
    outputs = Attacked(PGD(0.1, seed=0, steps=2), convnet())(inputs, targets)
    model = tf.keras.Model([inputs, targets], outputs)
    expected = model([images, labels])

    model.save(tmp_path / "model.keras")
    again = tf.keras.models.load_model(tmp_path / "model.keras")

    result = again([images, labels])
    np.testing.assert_allclose(
        result["adversarial"], expected["adversarial"], atol=1e-6
    )
    np.testing.assert_allclose(result["logits"], expected["logits"], atol=1e-4)


def test_attacked_checks_its_parts():
    with pytest.raises(TypeError, match="`attack` must be an Attack"):
        Attacked(convnet(), convnet())
    with pytest.raises(TypeError, match="`victim` must be a Keras layer or model"):
        Attacked(PGD(), lambda images: images)
