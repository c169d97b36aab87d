"""Model cards: a header that YAML readers accept, numbers with their protocol."""

import pytest

from kerobust.models.card import Result, model_card, results_of

# What `Evaluation.to_dict` keeps, cut to what a card needs.
EVALUATION = {
    "threat": {"norm": "linf", "epsilon": 8 / 255},
    "natural": {"accuracy": 0.9, "low": 0.8, "high": 0.95, "total": 40},
    "robust": {
        "pgd": {"accuracy": 0.5, "low": 0.35, "high": 0.65, "total": 40},
        "fgsm": {"accuracy": 0.6, "low": 0.44, "high": 0.74, "total": 40},
    },
    "worst": {"accuracy": 0.475, "low": 0.33, "high": 0.63, "total": 40},
}
RESULTS = results_of(EVALUATION, "digits", "test", seed=3)


def card(title="robust-vit", **changes):
    settings = {
        "usage": "print(1)",
        "facts": {"width": "64"},
        "provenance": {"SHA-256": "0f" * 32},
        **changes,
    }
    return model_card(title, "An encoder.", **settings)


def header(text):
    """Returns the header of a card as a YAML reader sees it."""
    yaml = pytest.importorskip("yaml")
    before, block, _ = text.split("---\n", 2)
    assert before == ""
    return yaml.safe_load(block)


def test_an_evaluation_becomes_one_number_per_attack_with_its_ball():
    assert [(each.attack, each.accuracy) for each in RESULTS] == [
        ("none", 0.9),
        ("pgd", 0.5),
        ("fgsm", 0.6),
        ("worst of all", 0.475),
    ]
    assert RESULTS[0].protocol == "no attack, 40 images, seed 3"
    assert RESULTS[1].protocol == "pgd, linf 8/255, 40 images, seed 3"
    one = {**EVALUATION, "robust": {"pgd": EVALUATION["robust"]["pgd"]}}
    assert [each.attack for each in results_of(one, "digits", "test")] == [
        "none",
        "pgd",
    ]


def test_the_header_is_what_registries_read():
    found = header(card(results=RESULTS, datasets=["digits"], license="apache-2.0"))

    assert found["library_name"] == "kerobust" and found["license"] == "apache-2.0"
    assert found["pipeline_tag"] == "image-feature-extraction"
    assert found["datasets"] == ["digits"] and "kerobust" in found["tags"]
    (index,) = found["model-index"]
    assert index["name"] == "robust-vit" and len(index["results"]) == 4
    entry = index["results"][1]
    assert entry["task"] == {"type": "image-classification"}
    assert entry["dataset"] == {"name": "digits", "type": "digits", "split": "test"}
    (metric,) = entry["metrics"]
    name = "robust accuracy (pgd, linf 8/255, 40 images, seed 3)"
    assert metric == {"type": "accuracy", "name": name, "value": 0.5}


@pytest.mark.parametrize(
    "text",
    [
        'a: "b" # c',
        "no",
        "1e3",
        "- x\n---\ny",
        "naïve ☃ 𝄞",
        "{a}",
        "'",
        "\\",
        "\t|",
        "",
    ],
)
def test_any_text_survives_the_header(text):
    result = Result(0.5, text, text, 2, attack=text, norm="l2", epsilon=0.5)

    found = header(card(text, results=[result], datasets=[text], license=text))

    assert found["license"] == text and found["datasets"] == [text]
    (index,) = found["model-index"]
    assert index["name"] == text
    assert index["results"][0]["dataset"]["split"] == text


def test_without_results_the_card_says_so_and_claims_no_numbers():
    text = card()

    assert "Nothing was measured" in text
    assert "model-index" not in header(text) and "datasets" not in header(text)
    assert "Not by this library" in text


def test_every_number_of_the_table_stands_beside_its_protocol_and_interval():
    text = card(results=[*RESULTS, Result(1.0, "a|b", "test", 1, "x\ny", "l2", 0.5)])

    assert "| digits (test) | pgd, linf 8/255, 40 images, seed 3 | 50.0% | " in text
    assert "| 35.0% to 65.0% |" in text
    assert "| a/b (test) | x y, l2 0.5, 1 images | 100.0% | not computed |" in text


def test_flags_provenance_and_usage_are_told():
    text = card(flags={"method": "mimir", "run.seed": "1"}, limits=["Grey only."])

    assert "```text\n--method=mimir\n--run.seed=1\n```" in text
    assert f"- SHA-256: {'0f' * 32}" in text
    assert "```python\nprint(1)\n```" in text
    assert "- width: 64" in text and "- Grey only." in text
