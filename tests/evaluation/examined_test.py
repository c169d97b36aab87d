"""What reports and TensorBoard say about representations."""

import json

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kerobust.evaluation import write_report
from kerobust.evaluation.events import write_events
from kerobust.evaluation.results import share
from tests.evaluation.report_test import make_evaluation, row

RADII = (("l2", 0.5), ("linf", 1 / 255), ("linf", 8 / 255))


def accuracy(percent: int) -> dict:
    return share(np.arange(100) < percent)


def examined(factor: float, inside: bool, attention) -> dict:
    """Returns what `Representation` would, of 50 images."""
    summary = {"mean": factor / 8, "median": factor / 10, "q90": factor / 5}
    drift = [
        {
            "norm": norm,
            "epsilon": epsilon,
            "cosine": summary,
            "distance": {name: 100 * value for name, value in summary.items()},
            "correct": accuracy(40),
            "values": (factor * np.linspace(0, 0.2, 50)).tolist(),
        }
        for norm, epsilon in RADII
    ]
    knn = [
        {"norm": norm, "epsilon": epsilon, "k": k, "clean": accuracy(60 + k)}
        | {"robust": accuracy(30 + k)}
        for k in (5, 10)
        for norm, epsilon in RADII
    ]
    return {
        "images": 50,
        "steps": 20,
        "drift": drift,
        "knn": knn,
        "normalisation": {
            "inside": inside,
            "with": accuracy(80),
            "without": accuracy(20 if inside else 80),
        },
        "attention": attention,
    }


@pytest.fixture(scope="module")
def found():
    picture = np.zeros([30, 40, 3], np.uint8)
    return {
        "deacl <SLF>": examined(0.1, True, picture),
        "teacher SLF": examined(1.0, False, None),
    }


@pytest.fixture(scope="module")
def texts(found, tmp_path_factory):
    rows = [row(name, make_evaluation(0), "note", "SLF, cls") for name in found]
    report = {"title": "Title", "rows": rows, "representation": found}
    paths = write_report(tmp_path_factory.mktemp("report"), report)
    return {kind: path.read_text() for kind, path in paths.items()}


def table(text: str, title: str) -> list[list[str]]:
    """Returns the cells of the table under a heading, headers first."""
    section = text.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_attack_is_reported_by_model_norm_and_radius(texts):
    headers, *rows = table(texts["md"], "Attack on the representation")

    assert len(rows) == 2 * len(RADII)
    assert headers[3:9] == [
        *("cosine mean", "cosine median", "cosine q90"),
        *("l2 mean", "l2 median", "l2 q90"),
    ]
    cells = rows[-1]
    assert cells[:6] == ["teacher SLF", "linf", "8/255", "0.125", "0.1", "0.2"]
    assert cells[6:9] == ["12.5", "10", "20"]
    assert cells[9].startswith("40.0 [")
    assert "in 20 steps of 2.5 epsilon / steps, on 50 images" in texts["md"]


def test_neighbours_are_reported_clean_and_robust(texts):
    headers, *rows = table(texts["md"], "Nearest neighbours")

    assert headers == ["model", "norm", "epsilon", "k = 5 %", "k = 10 %"]
    assert [cells[1:3] for cells in rows[:4]] == [
        *(["-", "0.0"], ["l2", "0.5"], ["linf", "1/255"], ["linf", "8/255"])
    ]
    assert len(rows) == 2 * 4
    for index, cells in enumerate(rows):
        expected = (35, 40) if index % 4 else (65, 70)
        assert [float(cell.split()[0]) for cell in cells[3:]] == list(expected)


def test_the_control_says_what_normalisation_brings(texts):
    _, method, teacher = table(texts["md"], "Control: normalisation")

    assert method[1].startswith("80.0 [") and method[2].startswith("20.0 [")
    assert teacher[1].startswith("80.0 [") and teacher[2] == "there is none to undo"


def test_both_models_share_a_histogram_per_norm_and_maps_are_shown(texts):
    page = texts["html"]

    # Accuracies, a histogram for l2 and one for linf, the one attention panel.
    assert page.count("<img ") == 4
    assert page.count("100 bins") == 2 * 2  # As text and as alternative text.
    assert "linf, epsilon 8/255; 100 bins" in page
    assert "deacl &lt;SLF&gt;: image and heads" in page
    assert "deacl <SLF>" not in page


def test_the_json_file_has_all_numbers_and_no_pixels(texts, found):
    stored = json.loads(texts["json"])["representation"]

    for name, item in found.items():
        kept = {key: value for key, value in item.items() if key != "attention"}
        assert stored[name] == kept


def test_protocols_stand_beside_the_numbers_and_are_explained(texts):
    headers, *rows = table(texts["md"], "Results")

    assert headers[:3] == ["model", "protocol", "natural %"]
    assert [cells[1] for cells in rows] == ["SLF, cls", "SLF, cls"]
    assert "SLF = linear head on the frozen encoder, clean images;" in texts["md"]


def test_events_hold_histograms_by_radius_and_replace_earlier_ones(tmp_path, found):
    (tmp_path / "events.out.tfevents.1.other").write_bytes(b"")
    write_events(tmp_path, found)
    write_events(tmp_path, {"teacher": found["deacl <SLF>"]})

    assert len(list(tmp_path.glob("*.evaluate"))) == 1
    (path,) = tmp_path.glob("*.evaluate")
    assert len(list(tmp_path.iterdir())) == 2  # Files of others stay.
    events = EventAccumulator(str(path))
    events.Reload()
    assert {
        "teacher/attention",
        "teacher/cosine_l2",
        "teacher/cosine_linf",
        "teacher/cosine_linf_q90",
        "teacher/knn_robust_linf",
    } <= set(events.Tags()["tensors"])
    assert [event.step for event in events.Tensors("teacher/cosine_linf")] == [0, 1]
    robust = events.Tensors("teacher/knn_robust_linf")
    values = [float(tf.make_ndarray(event.tensor_proto)) for event in robust]
    assert values == pytest.approx([0.35, 0.35])
