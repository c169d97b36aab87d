"""The benchmarks of AutoAttack on tiny sizes: what they count and refuse."""

import importlib.util
import json
import re

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import _measure, _suites, _twins, autoattack, security_curve
from benchmarks._suites import ART, CONTENDERS, NEEDED, OWN, TORCH, Contender, Count

TINY = (12, 3, 6)
ONE_TABLE = "--comparisons digits --suites common --digits 4 3 6"
FAIR = {"robust": 0.5, "distance": 0.2, "outside": 0.0}


def flags(text, folder):
    return [*text.split(), "--output", str(folder)]


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text("utf-8"))


def tiny_problem():
    return autoattack.problem_for(autoattack.COMPARISONS["digits"], TINY)


def compared(**strengths):
    return {
        "epsilon": 0.2,
        "first_seconds": 9.0,
        "strength": strengths,
        "seconds": {OWN: [1.0, 10.0], TORCH: [3.0, 30.0]},
        "processor_seconds": {OWN: [1.0, 1.0], TORCH: [2.0, 2.0]},
        "passes": {
            OWN: {"apgd-ce": (1000, 900), "square": (50, 0)},
            autoattack.FULL: {"apgd-ce": (2000, 2000)},
            TORCH: {"apgd-ce": (2100, 2000), "fab-t": (7, 3)},
        },
    }


def test_the_full_budget_counts_every_search_until_the_one_that_fooled():
    attempts = ["apgd-ce", "apgd-t", "apgd-t", "fab-t", "square"]
    broken_by = np.array([-2, -1, 0, 2])

    found = _suites.full_budget(attempts, broken_by, steps=10, queries=50)

    # -2 is never attacked. 3 images meet the first search, 2 the second and third, 1
    # the others. Auto-PGD: 11 both ways; FAB: 20 and 10; Square: 50.
    assert found == {
        "apgd-ce": (33, 33),
        "apgd-t": (44, 44),
        "fab-t": (20, 10),
        "square": (50, 0),
    }


@pytest.mark.slow
def test_own_passes_are_below_the_full_budget_when_images_leave_early():
    problem = tiny_problem()

    count = CONTENDERS[OWN](problem, "common").counted()

    assert set(count.passes) == set(count.full) == set(_suites.COMMON)
    assert count.passes["apgd-ce"][1] <= count.full["apgd-ce"][1]
    assert autoattack.strength(problem, count.adversarial)["distance"] <= 0.2 + 1e-6


def test_growth_is_added_to_the_right_member():
    total, passes = [0, 0], {}

    def run(forwards):
        total[0] += forwards
        total[1] += 1

    counted = _suites._between(run, "square", lambda: tuple(total), passes)
    counted(5)
    run(100)  # Nobody's.
    counted(7)

    assert passes == {"square": (12, 2)}


def test_a_contender_without_its_package_is_named_with_the_remedy(monkeypatch):
    here = {"art", "torchattacks"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: name if name in here else None
    )

    found = _suites.lacking([OWN, ART, TORCH])

    assert found == {
        ART: "pip install multiprocess",
        TORCH: "pip install torch",
    }


def test_the_hints_of_the_page_head_install_what_is_needed():
    about = autoattack.__doc__

    for _, distribution, hint in NEEDED[TORCH] + NEEDED[ART][1:]:
        assert hint.startswith("pip install")
        assert distribution in about


def test_an_unfair_comparison_is_told():
    strengths = {
        OWN: FAIR,
        "good": {**FAIR, "robust": 0.51},
        "far": {**FAIR, "distance": 0.3},
        "bright": {**FAIR, "outside": 0.1},
        "weak": {**FAIR, "robust": 0.55},
        "strong": {**FAIR, "robust": 0.45},
    }

    result = {"epsilon": 0.2, "images": 100, "strength": strengths}

    found = autoattack.complaints(result)

    assert [text.split()[0] for text in found] == ["far", "bright", "weak", "strong"]


@pytest.mark.parametrize(("images", "unfair"), [(60, False), (200, True)])
def test_two_images_of_few_are_chance(images, unfair):
    strengths = {OWN: FAIR, TORCH: {**FAIR, "robust": 0.5 + 2 / 60}}

    result = {"epsilon": 0.2, "images": images, "strength": strengths}

    found = autoattack.complaints(result)

    # 3.3 points: 2 of 60 images, but 7 of 200.
    assert bool(found) == unfair


def test_the_strength_is_what_the_network_says_again():
    problem = tiny_problem()
    right = problem.network(problem.images).numpy().argmax(axis=1) == problem.labels

    clean = autoattack.strength(problem, problem.images)
    moved = autoattack.strength(problem, problem.images + np.float32(0.5))

    assert clean == {"robust": right.mean(), "distance": 0.0, "outside": 0.0}
    assert moved["distance"] == pytest.approx(0.5)
    assert moved["outside"] == pytest.approx(0.5)  # Some pixel of the digits is 1.


def test_a_slow_round_cancels_and_the_first_call_stands_apart():
    own, other = autoattack.rows("x", "standard", compared(**{OWN: FAIR, TORCH: FAIR}))

    # 3 / 1 and 30 / 10.
    assert other[f"{OWN} is faster x"] == "3.00 [3.00, 3.00]"
    assert (own["first call s"], other["first call s"]) == ("9.0", "")
    assert other["CPU s"] == "2.0 [2.0, 2.0]"


def test_passes_stand_side_by_side_whoever_has_the_member():
    result = compared(**{OWN: FAIR, TORCH: FAIR})

    lines = autoattack.passes_rows("x", "standard", result)

    assert [line["member"] for line in lines] == ["apgd-ce", "square", "fab-t"]
    assert lines[0][OWN] == "1,000 / 900"
    assert lines[0][autoattack.FULL] == "2,000 / 2,000"
    assert lines[0][TORCH] == "2,100 / 2,000"
    assert (lines[2][OWN], lines[2][TORCH]) == ("", "7 / 3")


@pytest.fixture
def stubbed(monkeypatch):
    """Contenders that return the clean images, and no diagnosis."""

    def still(problem, suite):
        return Contender(
            lambda: problem.images,
            lambda: Count(problem.images, {"square": (1, 0)}, {}),
        )

    monkeypatch.setattr(autoattack, "CONTENDERS", dict.fromkeys(CONTENDERS, still))
    monkeypatch.setattr(autoattack, "diagnosis", lambda problem: (2.0, 1.0))
    monkeypatch.setattr(autoattack, "packages", lambda names: [])


def test_autoattack_writes_tables_and_rounds(stubbed, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(autoattack, "lacking", lambda names: {})

    code = autoattack.main(flags(f"{ONE_TABLE} --rounds 2", tmp_path))

    assert code == 0
    text = capsys.readouterr().out
    assert re.search(r"\| digits +\| common +\| torchattacks +\| ", text)
    found = read(tmp_path, "autoattack")["comparisons"]["digits"]
    assert found["diagnosis_seconds"] == [2.0, 1.0]
    seconds, processor = (
        found["common"][name] for name in ("seconds", "processor_seconds")
    )
    assert set(seconds) == set(processor) == {OWN, TORCH}
    assert all(len(values) == 2 for values in (*seconds.values(), *processor.values()))


def test_autoattack_names_whom_it_leaves_out(stubbed, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(autoattack, "lacking", lambda names: {TORCH: "pip install x"})

    code = autoattack.main(flags(f"{ONE_TABLE} --rounds 1", tmp_path))

    assert code == 0
    assert "not installed: torchattacks; pip install x" in capsys.readouterr().out
    found = read(tmp_path, "autoattack")["comparisons"]["digits"]["common"]
    assert list(found["seconds"]) == [OWN]


def test_autoattack_fails_when_it_was_unfair(stubbed, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(autoattack, "lacking", lambda names: {})

    def cheat(problem, suite):
        far = np.clip(problem.images + np.float32(0.5), 0, 1)
        return Contender(lambda: far, lambda: Count(far, {}, {}))

    monkeypatch.setitem(autoattack.CONTENDERS, TORCH, cheat)

    code = autoattack.main(flags(f"{ONE_TABLE} --rounds 1", tmp_path))

    assert code == 1
    assert "digits, common: torchattacks left the ball" in capsys.readouterr().out


def test_the_network_of_the_goldens_is_as_accurate_as_its_page_says():
    network, images, labels = _twins.digits(200)

    # 98 % of the digits, see tests/goldens.
    assert np.mean(network(images).numpy().argmax(axis=1) == labels) == 0.98


@pytest.mark.parametrize("name", _twins.VICTIMS)
def test_the_twin_in_pytorch_has_the_same_logits(name):
    torch = pytest.importorskip("torch")
    network, images, _ = _twins.VICTIMS[name](4)

    logits = _twins.in_torch(network)(torch.tensor(images.transpose(0, 3, 1, 2)))

    np.testing.assert_allclose(logits.numpy(), network(images).numpy(), atol=1e-4)


@pytest.mark.parametrize("name", [ART, TORCH])
@pytest.mark.parametrize("suite", _suites.SUITES)
@pytest.mark.filterwarnings("ignore")  # Of libraries that we do not ship.
def test_a_peer_stays_in_the_ball_and_its_passes_are_counted(name, suite):
    for module, *_ in NEEDED[name]:
        pytest.importorskip(module)
    problem = tiny_problem()
    contender = CONTENDERS[name](problem, suite)

    count = contender.counted()

    found = autoattack.strength(problem, count.adversarial)
    assert found["distance"] <= 0.2 + 1e-6 and found["outside"] <= 1e-6
    assert {"apgd-ce", "square"} <= set(count.passes)
    # All 12 are right without attack: N + 1 = 4 gradients each in the original, N = 3
    # in ART. Square has none.
    assert count.passes["apgd-ce"][1] == (48 if name == TORCH else 36)
    assert count.passes["square"][1] == 0
    assert np.array_equal(contender.run().shape, problem.images.shape)


def tiny_curves():
    network, images, labels = _twins.digits(10)
    attack = security_curve.ATTACKS["PGD, stops"](4)
    return security_curve.Curves(
        attack, images, labels, np.array([0.05, 0.2, 0.4]), network
    )


@pytest.mark.slow
def test_the_curve_traces_nothing_anew_and_says_what_single_runs_say():
    result = security_curve.compare(tiny_curves(), 2, "test")

    assert result["traces_of_single_runs"] > 0
    assert (result["extra_traces"], result["differ"]) == (0, 0)
    assert len(result["seconds"][security_curve.CURVE]) == 2
    assert result["attacked"] == sorted(result["attacked"], reverse=True)


def test_the_standing_rows_are_those_right_before_each_radius():
    curves = tiny_curves()
    curves.labels = curves.labels.copy()
    curves.labels[3] = (curves.labels[3] + 1) % 10  # Wrong without attack.
    robust = np.ones([3, 10], bool)
    robust[:, 3] = False
    robust[1:, 5] = False  # Falls at the second radius.

    rows = curves.standing(robust)

    assert [3 in each for each in rows] == [False, False, False]
    assert [5 in each for each in rows] == [True, True, False]


def test_calls_outside_a_trace_are_no_traces():
    victim = security_curve.Traced(lambda images, training: images)

    victim(tf.ones([1]))
    eager = victim.traces
    tf.function(victim)(tf.ones([1]))

    assert (eager, victim.traces) == (0, 1)


def test_a_slow_or_different_curve_is_told():
    result = {
        "seconds": {
            security_curve.CURVE: [2.0],
            security_curve.SINGLE: [1.0],
            security_curve.SAME: [0.5],  # Shown, not judged.
        },
        "extra_traces": 3,
        "differ": 2,
    }

    found = security_curve.complaints(result)

    assert found == [
        "the curve takes 2.00 times the single runs",
        "the curve traced the victim 3 times more",
        "2 verdicts differ from those of single runs",
    ]


def test_security_curve_writes_table_and_rounds(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(security_curve, "LIMIT", 1000)  # Nothing about speed here.

    few = "--attacks PGD --images 6 --steps 2 --radii 2 --rounds 1"

    code = security_curve.main(flags(few, tmp_path))

    assert code == 0
    assert "| PGD " in capsys.readouterr().out
    found = read(tmp_path, "security_curve")["attacks"]["PGD"]
    assert found["radii"] == [0.16, 0.32]
    assert len(found["robust_accuracy"]) == 2


def test_a_report_shows_all_its_tables(tmp_path, capsys):
    chosen = _measure.parser("About.").parse_args(["--output", str(tmp_path)])
    further = [("More words.", [{"b": "2"}])]

    _measure.report(
        "x", chosen, _measure.machine(), "Words.", [{"a": "1"}], {}, further=further
    )

    text = capsys.readouterr().out
    assert text.index("Words.") < text.index("| a ") < text.index("More words.")
    assert text.index("More words.") < text.index("| b ")
