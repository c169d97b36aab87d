"""Models written for other programs come back with the same numbers."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.models import (
    Classifier,
    ClassifierHead,
    KerasCvEncoder,
    MaeDecoder,
    ResNet,
    VisionTransformer,
    named_weights,
)
from kerobust.models.checkpoint_files import read_state
from kerobust.models.export import FORMATS, export, outputs
from kerobust.models.foreign import load_foreign

IMAGES = np.random.default_rng(0).uniform(size=[3, 8, 8, 3]).astype(np.float32)


def transformer():
    return VisionTransformer(
        (8, 8), 4, 64, 1, 1, positions="learned", drop_path=0.5, mean=(0.4, 0.5, 0.6)
    )


def backbone():
    return KerasCvEncoder("resnet18", stackwise_filters=[64, 8, 8, 8], stride=8)


def classifier():
    return Classifier(transformer(), ClassifierHead(5))


@pytest.mark.parametrize("format", ["keras", "savedmodel"])
@pytest.mark.parametrize("make", [transformer, lambda: ResNet(8), backbone])
def test_graphs_take_any_batch_and_give_the_same_numbers(tmp_path, format, make):
    model, folder = make(), tmp_path / "out"

    export(model, folder, format)

    if format == "keras":
        again = tf.keras.models.load_model(folder / "model.keras", compile=False)
        assert again.input_shape[0] is None
    else:
        again = tf.saved_model.load(folder)
    for count in (1, 3):
        expected, found = outputs(model, IMAGES[:count]), again(IMAGES[:count])
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=1e-5)


@pytest.mark.parametrize("format", ["keras", "savedmodel"])
def test_a_classifier_comes_back_as_a_foreign_one_that_can_be_attacked(
    tmp_path, format
):
    model, folder = classifier(), tmp_path / "out"
    export(model, folder, format)
    path = folder / "model.keras" if format == "keras" else folder

    foreign = load_foreign(path)

    images = tf.constant(IMAGES)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(images)
        scores = [tf.reduce_sum(each(images)[:, 0]) for each in (model, foreign)]
    first, second = (tape.gradient(score, images) for score in scores)
    np.testing.assert_allclose(foreign(images), model(images), atol=1e-5)
    np.testing.assert_allclose(second, first, atol=1e-5)


def test_an_encoder_without_logits_is_no_foreign_classifier(tmp_path):
    export(transformer(), tmp_path / "out", "savedmodel")

    with pytest.raises(UserError, match=r"outputs \['cls', 'patches'\]"):
        load_foreign(tmp_path / "out")


def test_safetensors_hold_the_weights_under_their_names(tmp_path):
    model = transformer()

    export(model, tmp_path / "out", "safetensors")

    arrays = read_state(tmp_path / "out" / "model.safetensors").arrays
    weights = named_weights(model)
    assert arrays.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(arrays[name], value)


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_a_difference_to_the_model_is_seen(tmp_path, format):
    model, folder = transformer(), tmp_path / "out"
    export(model, folder, format)
    written = FORMATS[format].difference(model, folder, IMAGES)

    model.norm.beta.assign_add(tf.fill([64], 0.25))

    # Every output moves by the shift itself; so does the weight.
    values = outputs(model, IMAGES).values()
    largest = max(float(np.abs(each).max()) for each in values)
    expected = 0.25 if format in ("safetensors", "timm") else 0.25 / max(1, largest)
    changed = FORMATS[format].difference(model, folder, IMAGES)
    assert written < 1e-5
    np.testing.assert_allclose(changed, expected, atol=1e-4)


def test_what_no_format_can_hold_is_refused(tmp_path):
    decoder = MaeDecoder((2, 2), 4, input_width=16, width=16, depth=1, heads=1)
    with pytest.raises(UserError, match="`model` must be an encoder.*MaeDecoder"):
        export(decoder, tmp_path / "a", "keras")
    with pytest.raises(UserError, match="`format` must not be timm.*ResNet"):
        export(ResNet(8), tmp_path / "b", "timm")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "file").touch()
    with pytest.raises(UserError, match="`folder` must be new or empty.*folder=.*c,"):
        export(transformer(), tmp_path / "c", "keras")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]
