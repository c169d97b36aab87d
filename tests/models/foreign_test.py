"""Models that other programs saved."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.models.foreign import is_foreign, load_foreign


@pytest.fixture(scope="module")
def network():
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [tf.keras.Input([4, 4, 3]), layers.Flatten(), layers.Dense(5)]
    )


@pytest.fixture(scope="module")
def images():
    return tf.random.stateless_uniform([3, 4, 4, 3], [1, 2])


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "folder", "exported"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_every_format_comes_back_with_the_same_logits(network, images, name, tmp_path):
    path = tmp_path / name
    if name == "exported":
        network.export(path)
    elif name == "folder":
        network.save(path, save_format="tf")
    else:
        network.save(path)

    loaded = load_foreign(path)

    assert is_foreign(path)
    np.testing.assert_allclose(loaded(images), network(images), atol=1e-5)


def test_gradients_pass_through_a_saved_model(network, images, tmp_path):
    network.export(tmp_path / "exported")
    loaded = load_foreign(tmp_path / "exported")

    with tf.GradientTape() as tape:
        tape.watch(images)
        score = tf.reduce_sum(loaded(images)[:, 0])

    kernel = network.layers[-1].kernel[:, 0]
    gradient = tf.reshape(tape.gradient(score, images), [3, -1])
    np.testing.assert_allclose(gradient, np.tile(kernel, [3, 1]), atol=1e-6)


def test_a_bundle_or_an_empty_folder_is_not_foreign(tmp_path):
    (tmp_path / "config.json").write_text("{}")

    assert not is_foreign(tmp_path)
    assert not is_foreign(tmp_path / "nothing")


def test_what_cannot_be_used_is_named_with_the_reason(tmp_path):
    broken = tmp_path / "broken.keras"
    broken.write_bytes(b"no archive")

    class Two(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 2]), tf.TensorSpec([None])])
        def serve(self, first, second):
            return {"sum": first[:, 0] + second}

    module = Two()
    tf.saved_model.save(module, tmp_path / "two", {"serving_default": module.serve})
    tf.saved_model.save(tf.Module(), tmp_path / "none")

    for name, text in {
        "missing.keras": "it does not exist",
        "broken.keras": "init_from=.*broken.keras, but",
        "two": r"inputs \['first', 'second'\]",
        "none": "no signature serving_default",
    }.items():
        with pytest.raises(UserError, match=f"`--run.init_from`.*{text}"):
            load_foreign(tmp_path / name)


def test_code_in_a_keras_file_does_not_run(tmp_path):
    evil = tf.keras.Sequential(
        [tf.keras.Input([2]), tf.keras.layers.Lambda(lambda x: x + 1.0)]
    )
    evil.save(tmp_path / "evil.keras")

    with pytest.raises(UserError, match="evil.keras, but.*Lambda|lambda"):
        load_foreign(tmp_path / "evil.keras")
