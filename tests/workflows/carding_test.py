"""The card beside a model says what the model, its bundle and its numbers are."""

import pytest

from kerobust.config import UserError
from kerobust.models import (
    Classifier,
    ClassifierHead,
    ResNet,
    VisionTransformer,
    load_bundle,
    save_bundle,
)
from kerobust.models.card import Result
from kerobust.models.export import FORMATS, export
from kerobust.workflows.carding import facts, usage, write_bundle_card, write_card

RESULT = Result(0.25, "digits", "test", 8, "pgd", "linf", 8 / 255, seed=1)


def transformer():
    return VisionTransformer((8, 12), 4, 16, 2, 2, mean=(0.5,))


def test_a_bundle_gets_a_card_of_its_flags_and_numbers(tmp_path):
    model = Classifier(transformer(), ClassifierHead(3))
    info = {"flags": {"method": "mae", "data.name": "digits"}}
    save_bundle(model, tmp_path / "robust", info)

    path = write_bundle_card(tmp_path / "robust", results=[RESULT], license="mit")

    text = path.read_text()
    assert path == tmp_path / "robust" / "README.md"
    for words in (
        'license: "mit"',
        'pipeline_tag: "image-classification"',
        "# robust\n",
        "--method=mae\n--data.name=digits",
        "| digits (test) | pgd, linf 8/255, 8 images, seed 1 | 25.0% |",
        "trained by this library",
        "logits = model(images)",
    ):
        assert words in text
    load_bundle(tmp_path / "robust")  # The card does not disturb it.


def test_a_card_of_one_model_of_several_is_that_of_the_encoder_by_default(tmp_path):
    pair = {"encoder": transformer(), "other": ResNet(8)}
    save_bundle(pair, tmp_path / "pair", {})

    first = write_bundle_card(tmp_path / "pair").read_text()
    second = write_bundle_card(tmp_path / "pair", member="other").read_text()

    assert "class: VisionTransformer" in first and "class: ResNet" in second


def test_a_card_needs_an_intact_bundle(tmp_path):
    with pytest.raises(UserError, match="must be an intact model bundle"):
        write_bundle_card(tmp_path / "none")


def test_the_facts_are_those_of_the_model():
    found = facts(Classifier(transformer(), ClassifierHead(3)))

    # Per block 12 D^2 + 13 D; patches 48 D + D; class token D; final norm 2 D; head
    # norm 2 D and dense 3 D + 3, with D = 16. Sine-cosine positions are no weights.
    count = 2 * (12 * 256 + 13 * 16) + 49 * 16 + 16 + 2 * 16 + 2 * 16 + 3 * 16 + 3
    assert found["parameters"] == f"{count:,}"
    assert found["images"] == "8 x 12, 3 channels"
    assert (found["width"], found["heads"], found["num classes"]) == ("16", "2", "3")
    assert found["normalisation inside"] == (
        "(images - [0.5, 0.5, 0.5]) / [1.0, 1.0, 1.0]"
    )
    assert facts(ResNet(8))["images"] == "any size, 3 channels"


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_only_timm_wants_normalised_images(tmp_path, format):
    model = transformer()
    export(model, tmp_path / "out", format)

    text = write_card(tmp_path / "out", format, model, {}).read_text()

    assert ("Images are normalised before the model" in text) == (format == "timm")
    assert ("the model normalises them itself" in text) == (format != "timm")
    assert FORMATS[format].about in text


def test_the_program_for_timm_has_the_shape_of_the_model():
    text = usage(transformer(), "timm")

    for words in ("img_size=(8, 12)", "embed_dim=16", "depth=2", "num_heads=2"):
        assert words in text
    compile(text, "usage", "exec")
