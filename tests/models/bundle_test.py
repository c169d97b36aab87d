"""Tests of kerobust.models.bundle."""

import hashlib
import json

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.distribute import strategy
from kerobust.models import ENCODERS
from kerobust.models.bundle import (
    CLASSES,
    BundleError,
    is_intact,
    load_bundle,
    read_info,
    save_bundle,
)
from kerobust.models.heads import Classifier, ClassifierHead
from kerobust.models.mae import MaeDecoder, random_mask
from kerobust.models.vit import VisionTransformer

IMAGES = np.random.default_rng(0).uniform(size=[3, 4, 4, 3]).astype(np.float32)
FILES = ("config.json", "weights.safetensors", "manifest.json")


def encoder(**options):
    return VisionTransformer((4, 4), 2, 16, 1, 2, **options)


def classifier():
    return Classifier(encoder(final_norm=False, mean=(0.1,)), ClassifierHead(10))


def decoder():
    return MaeDecoder((2, 2), 2, width=16, depth=1, heads=2, input_width=16)


def forget_digests(folder):
    """Rewrites the manifest for the files as they are: somebody did it on purpose."""
    digests = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in FILES[:2]
    }
    (folder / "manifest.json").write_text(json.dumps(digests))


def test_a_classifier_comes_back_exactly(tmp_path):
    model = classifier()
    save_bundle(model, tmp_path / "model", {})

    loaded = load_bundle(tmp_path / "model")

    assert loaded.encoder.get_config() == model.encoder.get_config()
    np.testing.assert_array_equal(loaded(IMAGES), model(IMAGES))


def test_several_models_come_back_by_name(tmp_path):
    models = {"encoder": encoder(), "decoder": decoder()}
    visible, restore, _ = random_mask(tf.random.uniform([3, 4]), 2)
    save_bundle(models, tmp_path / "models", {})

    loaded = load_bundle(tmp_path / "models")

    def reconstruct(parts):
        return parts["decoder"](parts["encoder"](IMAGES, visible=visible), restore)

    assert list(loaded) == ["encoder", "decoder"]
    np.testing.assert_array_equal(reconstruct(loaded), reconstruct(models))


def test_a_member_is_a_bundle_itself(tmp_path):
    model = encoder()
    save_bundle({"encoder": model}, tmp_path / "models", {"steps": 3})

    loaded = load_bundle(tmp_path / "models" / "members" / "encoder")

    np.testing.assert_array_equal(loaded(IMAGES).cls, model(IMAGES).cls)
    assert read_info(tmp_path / "models" / "members" / "encoder") == {"steps": 3}


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_can_be_kept(name):
    assert ENCODERS[name] in CLASSES.values()


def test_info_is_kept(tmp_path):
    info = {"accuracy": 0.5, "names": ["a", "b"], "nothing": None}
    save_bundle(encoder(), tmp_path / "model", info)

    assert read_info(tmp_path / "model") == info


def test_a_bundle_replaces_an_older_one_and_leaves_nothing_beside_it(tmp_path):
    save_bundle({"old": encoder()}, tmp_path / "deep" / "model", {"age": 1})
    save_bundle(encoder(), tmp_path / "deep" / "model", {"age": 2})

    assert read_info(tmp_path / "deep" / "model") == {"age": 2}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model"]
    found = sorted(path.name for path in (tmp_path / "deep" / "model").iterdir())
    assert found == sorted(FILES)


def test_a_failed_write_keeps_the_older_bundle(tmp_path):
    save_bundle(encoder(), tmp_path / "model", {"age": 1})

    with pytest.raises(TypeError):
        save_bundle(encoder(), tmp_path / "model", {"age": object()})

    assert read_info(tmp_path / "model") == {"age": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_foreign_folders_are_not_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")

    with pytest.raises(UserError, match="`folder` must be new, empty or an older"):
        save_bundle(encoder(), tmp_path, {})

    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_models_of_unknown_classes_are_refused(tmp_path):
    model = tf.keras.Sequential([tf.keras.layers.Dense(1)])

    with pytest.raises(
        UserError, match="`models` must be of these classes: Vision.*Seq"
    ):
        save_bundle(model, tmp_path / "model", {})


@pytest.mark.parametrize("name", ["../out", "a/b", "", "-x", ".hidden"])
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="`models` must have names of letters"):
        save_bundle({name: encoder()}, tmp_path / "model", {})


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"folder=.*nowhere, which does not exist\."):
        load_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize("read", [load_bundle, read_info])
def test_a_file_in_place_of_a_bundle_is_named(tmp_path, read):
    (tmp_path / "m.keras").write_text("weights of another program")

    with pytest.raises(UserError, match=r"folder=.*m\.keras, which is a file\. Name"):
        read(tmp_path / "m.keras")
    assert not is_intact(tmp_path / "m.keras")
    with pytest.raises(UserError, match="must be new, .*m.keras, which is a file"):
        save_bundle(encoder(), tmp_path / "m.keras", {})


def test_a_manifest_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "manifest.json").mkdir()

    with pytest.raises(UserError, match=r"has a manifest\.json that cannot be read"):
        read_info(tmp_path)


def test_a_manifest_without_the_weights_is_refused(tmp_path):
    save_bundle(encoder(), tmp_path / "model", {})
    digests = json.loads((tmp_path / "model" / "manifest.json").read_text())
    del digests["weights.safetensors"]
    (tmp_path / "model" / "manifest.json").write_text(json.dumps(digests))
    (tmp_path / "model" / "weights.safetensors").unlink()

    with pytest.raises(BundleError, match="weights.safetensors"):
        load_bundle(tmp_path / "model")


def test_an_error_can_name_the_flag_and_the_part_of_the_bundle(tmp_path):
    save_bundle({"encoder": encoder()}, tmp_path / "models", {})
    (tmp_path / "models" / "members" / "encoder" / "config.json").unlink()

    with pytest.raises(BundleError) as caught:
        load_bundle(tmp_path / "models")

    error = caught.value.named("--run.init_from", "init_from", tmp_path / "models")
    assert str(error) == (
        "`--run.init_from` must name an intact bundle of this library. Received: "
        f"init_from={tmp_path / 'models'}, whose members/encoder lacks config.json. "
        "Copy it again or write it anew."
    )


@pytest.mark.parametrize("read", [load_bundle, read_info])
@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(tmp_path, name, read):
    save_bundle(encoder(), tmp_path / "model", {})
    (tmp_path / "model" / name).unlink()

    with pytest.raises(UserError, match=f"which lacks {name}"):
        read(tmp_path / "model")


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named(tmp_path, name):
    save_bundle(encoder(), tmp_path / "model", {})
    content = (tmp_path / "model" / name).read_bytes()
    (tmp_path / "model" / name).write_bytes(content[: len(content) // 2])

    with pytest.raises(UserError, match=f"has a truncated or altered {name}"):
        load_bundle(tmp_path / "model")


def test_one_altered_bit_is_found(tmp_path):
    save_bundle({"only": encoder()}, tmp_path / "models", {})
    path = tmp_path / "models" / "members" / "only" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    with pytest.raises(UserError, match="altered weights.safetensors"):
        load_bundle(tmp_path / "models")


def test_an_exchanged_member_is_found(tmp_path):
    save_bundle({"only": encoder()}, tmp_path / "models", {})
    save_bundle(encoder(), tmp_path / "models" / "members" / "only", {})

    with pytest.raises(UserError, match="altered members/only/manifest.json"):
        load_bundle(tmp_path / "models")


@pytest.mark.parametrize(
    "change",
    [
        {"class": "os.system", "config": {"command": "true"}},
        {"class": "VisionTransformer", "config": {"layers": 3}},
        {"config": {}},
    ],
)
def test_a_config_that_describes_no_known_model_is_refused(tmp_path, change):
    save_bundle(encoder(), tmp_path / "model", {})
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({"info": {}, "model": change}))
    forget_digests(tmp_path / "model")

    with pytest.raises(UserError, match="which does not fit this version"):
        load_bundle(tmp_path / "model")


def test_weights_of_another_shape_are_listed(tmp_path):
    save_bundle(encoder(), tmp_path / "model", {})
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config["model"]["config"]["depth"] = 2
    path.write_text(json.dumps(config))
    forget_digests(tmp_path / "model")

    with pytest.raises(UserError, match="12 differences: missing blocks/1/attention"):
        load_bundle(tmp_path / "model")


def test_bundles_travel_between_precisions_and_strategies(tmp_path):
    devices = strategy(2)
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    with devices.scope():
        model = classifier()
    save_bundle(model, tmp_path / "model", {})
    tf.keras.mixed_precision.set_global_policy("float32")

    loaded = load_bundle(tmp_path / "model")

    assert {variable.dtype for variable in loaded.weights} == {tf.float32}
    for old, new in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    np.testing.assert_allclose(loaded(IMAGES), model(IMAGES), atol=0.02)
