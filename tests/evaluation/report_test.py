"""Reports: one set of numbers in three files, safe and self-contained."""

import html.parser
import json
import re

import numpy as np
import pytest

from kerobust.evaluation import compare, mcnemar, row, table, write_report
from kerobust.evaluation.results import Evaluation, curve_point
from kerobust.evaluation.sections import sentence

NASTY = "<script>alert('x')</script> | $x_"


def make_evaluation(seed: int, examples: int = 200) -> Evaluation:
    generator = np.random.default_rng(seed)
    clean = generator.random(examples) < 0.9
    robust = {
        name: clean & (generator.random(examples) < rate)
        for name, rate in (("fgsm", 0.7), ("pgd", 0.5))
    }
    images = generator.random((3, 8, 8, 3)).astype(np.float32)
    return Evaluation(
        threat={"epsilon": 8 / 255, "norm": "linf"},
        settings={"steps": 20},
        ids=np.arange(examples),
        labels=np.zeros(examples, int),
        clean=clean,
        robust=robust,
        norms={
            name: {"mean": 0.0301234, "max": 8 / 255, "limit": 8 / 255}
            for name in robust
        },
        seconds={"fgsm": 1.25, "pgd": 3.5, "curve": 10.0},
        curve=[curve_point(0.0, clean), curve_point(8 / 255, robust["pgd"])],
        pictures={
            "attack": "pgd",
            "clean": images,
            "adversarial": np.clip(images + 0.03, 0, 1),
            **dict.fromkeys(
                ("ids", "labels", "clean_predictions", "adversarial_predictions"),
                np.array([4, 5, 6], np.int32),
            ),
        },
        notes=["At epsilon 0.5 a < b"],
    )


@pytest.fixture(scope="module")
def report():
    first, second = make_evaluation(0), make_evaluation(1)
    return {
        "title": f"Title {NASTY}",
        "command": "python -m kerobust.train --a=b",
        "environment": {"python": "3.11", "packages": {"numpy": "1.26"}},
        "data": {"name": "digits", "size": np.int64(200)},
        "threat": first.threat,
        "settings": {"attack.epsilon": "8/255"},
        "rows": [row("mimir", first, "seed 0"), row(NASTY, second)],
        "comparisons": [
            compare("mimir", first, "scratch", second),
            compare("mimir", first, "scratch", second, on="clean"),
        ],
        "curves": {"mimir": first.curve, NASTY: second.curve},
        "pictures": {"mimir": first.pictures},
        "notes": first.notes,
    }


@pytest.fixture(scope="module")
def texts(report, tmp_path_factory):
    paths = write_report(tmp_path_factory.mktemp("report"), report)
    return {kind: path.read_text() for kind, path in paths.items()}


class Page(html.parser.HTMLParser):
    """Collects cells, tags and attributes; checks that tags are closed in order."""

    VOID = ("meta", "img")

    def __init__(self, text):
        super().__init__()
        self.cells, self.seen, self.attributes, self.open = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.attributes += attributes
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


def markdown_cells(text):
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    plain = [cell.strip().replace("\\|", "|") for line in cells for cell in line]
    return [cell.replace("&lt;", "<") for cell in plain]


def expected_share(share):
    numbers = (share["accuracy"], share["low"], share["high"])
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * number for number in numbers))


def test_markdown_and_html_hold_the_same_cells(texts):
    assert Page(texts["html"]).cells == markdown_cells(texts["md"])


def test_the_table_holds_the_numbers_of_the_json_file(texts):
    stored, cells = json.loads(texts["json"]), markdown_cells(texts["md"])

    headers = ["model", "natural %", "fgsm %", "pgd %", "worst case %"]
    headers += ["seconds", "note"]
    assert cells[:7] == headers
    for index, item in enumerate(stored["rows"]):
        start = 7 * (index + 1)
        shares = [item["natural"], *item["robust"].values(), item["worst"]]
        expected = [expected_share(share) for share in shares]
        assert cells[start : start + 5] == [item["name"], *expected]
        assert cells[start + 5] == f"{sum(item['seconds'].values()):.1f}" == "14.8"


def test_json_comes_back_as_it_went_in_but_for_the_pixels(report, texts):
    stored = json.loads(texts["json"])

    assert stored.pop("schema_version") == 1
    assert stored.pop("pictures") == {
        "mimir": {
            "attack": "pgd",
            **dict.fromkeys(
                ("ids", "labels", "clean_predictions", "adversarial_predictions"),
                [4, 5, 6],
            ),
        }
    }
    kept = {key: value for key, value in report.items() if key != "pictures"}
    kept["data"] = {"name": "digits", "size": 200}
    assert stored == kept


def test_page_is_whole_escaped_and_needs_nothing_from_outside(texts):
    page = Page(texts["html"])

    assert page.open == []
    assert "script" not in page.seen
    assert {"h1", "table", "figure", "img"} <= set(page.seen)
    assert "http" not in texts["html"]
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert len(sources) == 3  # Bars, curves, one panel.
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "&lt;script&gt;" in texts["html"]


def test_markdown_holds_no_raw_tags(texts):
    assert "<" not in texts["md"]


def test_all_sections_are_there(texts):
    for title in ("Results", "Comparisons", "Robust accuracy by epsilon", "Pictures"):
        assert f"## {title}\n" in texts["md"]
    for title in ("Perturbation norms", "Seconds", "Notes", "Command", "Data"):
        assert f"## {title}\n" in texts["md"]
    assert "Threat: linf, epsilon 8/255." in texts["md"]
    assert "python -m kerobust.train --a=b" in texts["html"]


def test_a_title_and_rows_are_enough(tmp_path):
    rows = [row("one", make_evaluation(0))]

    paths = write_report(tmp_path, {"title": "small", "rows": rows})

    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "report.html",
        "report.json",
        "report.md",
    ]
    assert "## Comparisons" not in paths["md"].read_text()


def test_rows_with_different_attacks_share_one_table():
    first, second = make_evaluation(0), make_evaluation(1)
    del second.robust["fgsm"]

    lines = table([row("first", first), row("second", second)]).splitlines()

    assert lines[3].split("|")[3].strip() == "-"
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize("missing", ["title", "rows"])
def test_what_is_missing_is_named(report, tmp_path, missing):
    partial = {key: value for key, value in report.items() if key != missing}

    with pytest.raises(ValueError, match=f"`report` must have {missing}"):
        write_report(tmp_path, partial)


def test_numbers_that_are_not_finite_are_refused(report, tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report(tmp_path, {**report, "data": {"loss": float("nan")}})

    assert not list(tmp_path.iterdir())


def test_comparison_holds_the_paired_statistics():
    first, second = make_evaluation(0), make_evaluation(1)

    found = compare("a", first, "b", second)

    assert found["p_value"] == mcnemar(first.worst, second.worst).p_value
    difference = first.worst.mean() - second.worst.mean()
    assert found["difference"] == pytest.approx(difference)
    assert found["low"] <= found["difference"] <= found["high"]


@pytest.mark.parametrize(
    "difference, p_value, words",
    [
        (0.1, 0.01, "a exceeds b, difference +10.0 points"),
        (-0.1, 0.01, "a falls short of b, difference -10.0 points"),
        (0.0, 1.0, "a equals b, difference +0.0 points"),
        (-0.1, 0.2, "the difference may be chance (exact McNemar p = 0.2)"),
        (-0.1, 0.01, "the difference is beyond chance (exact McNemar p = 0.01)"),
    ],
)
def test_comparison_says_in_words_how_it_fell(difference, p_value, words):
    comparison = {"first": "a", "second": "b", "on": "worst", "low": -0.2, "high": 0.2}
    comparison |= {"only_first": 3, "only_second": 4}

    text = sentence({**comparison, "difference": difference, "p_value": p_value})

    assert words in text
    assert "3 images are right with a only, 4 with b only" in text


def test_comparisons_of_different_examples_are_refused():
    with pytest.raises(ValueError, match="same examples. Received: 200 and 100"):
        compare("a", make_evaluation(0), "b", make_evaluation(1, examples=100))
    with pytest.raises(ValueError, match="Received: on=best"):
        compare("a", make_evaluation(0), "b", make_evaluation(1), on="best")
