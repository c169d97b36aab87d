"""Verdicts on evaluations: every check by hand."""

import numpy as np
import pytest

from kerobust.evaluation.blessing import ValidateConfig, bless

THREAT = {"epsilon": 0.1, "norm": "linf"}
SETTINGS = {"attacks": ["pgd"], "steps": 20, "restarts": 2, "seed": 0}
SETTINGS |= {"diagnose": True, "batch_size": 64}
FINDING = {"code": "zero-gradients", "severity": "warning"}


def results(clean: int, worst: int, **changes) -> dict:
    """What an evaluation of 100 images says of which so many are right."""

    def first(count):
        return [1] * count + [0] * (100 - count)

    examples = {"ids": list(range(100)), "labels": [0] * 100}
    examples |= {"clean": first(clean), "worst": first(worst)}
    found = {"examples": examples, "findings": [], "settings": SETTINGS}
    about = {"model": "m", "data": "d"}
    return found | {"threat": THREAT, "about": about} | changes


def checks(verdict: dict) -> dict[str, bool | None]:
    return {check["name"]: check["passed"] for check in verdict["checks"]}


@pytest.mark.parametrize(
    ("limits", "blessed"),
    [
        ({}, True),
        ({"min_clean": 0.9, "min_worst": 0.5}, True),  # Limits themselves pass.
        ({"min_clean": 0.91}, False),
        ({"min_worst": 0.51}, False),
    ],
)
def test_accuracies_must_reach_their_limits(limits, blessed):
    verdict = bless(results(90, 50), ValidateConfig(**limits))

    assert verdict["blessed"] is blessed
    assert len(verdict["checks"]) == len(limits) + 1


@pytest.mark.parametrize(
    ("finding", "allowed", "blessed"),
    [
        (FINDING, False, False),
        (FINDING, True, True),
        ({**FINDING, "severity": "info"}, False, True),
    ],
)
def test_signs_of_masked_gradients_forbid_a_blessing(finding, allowed, blessed):
    found = results(90, 50, findings=[finding])

    assert bless(found, ValidateConfig(allow_findings=allowed))["blessed"] is blessed


@pytest.mark.parametrize(
    ("clean", "worst", "passed"),
    [
        (90, 50, (True, True)),
        (89, 49, (True, True)),  # One image in a hundred less is allowed.
        (88, 60, (False, True)),
        (99, 48, (True, False)),
    ],
)
def test_neither_accuracy_may_fall_far_below_the_baseline(clean, worst, passed):
    verdict = bless(results(clean, worst), ValidateConfig(), results(90, 50))

    found = checks(verdict)
    assert verdict["blessed"] is all(passed)
    assert found["accuracy without attack, change"] is passed[0]
    assert found["accuracy in the worst case, change"] is passed[1]
    text = verdict["checks"][1]["found"]
    assert text.startswith(f"{clean - 90:+.2f}% [")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"threat": {"epsilon": 0.2, "norm": "linf"}}, "other threat"),
        ({"settings": {**SETTINGS, "steps": 10}}, "other attacks"),
        ({"about": {"model": "m", "data": "other"}}, "other images"),
        ({"examples": {**results(1, 1)["examples"], "ids": [0] * 100}}, "other images"),
        ({"examples": {**results(1, 1)["examples"], "labels": [1] * 100}}, "other im"),
    ],
)
def test_what_was_measured_otherwise_is_not_compared(change, words):
    verdict = bless(results(10, 5), ValidateConfig(), results(90, 50, **change))

    assert verdict["blessed"]
    assert [check["passed"] for check in verdict["checks"]] == [True, None, None]
    assert all(words in check["found"] for check in verdict["checks"][1:])


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {**SETTINGS, "batch_size": 1}},
        {"about": {"model": "older", "data": "d"}},
    ],
)
def test_what_changes_no_result_does_not_hinder_a_comparison(change):
    verdict = bless(results(10, 5), ValidateConfig(), results(90, 50, **change))

    assert not verdict["blessed"]


def test_signs_that_nobody_looked_for_are_not_called_absent():
    found = results(90, 50, settings={**SETTINGS, "diagnose": False})

    (check,) = bless(found, ValidateConfig())["checks"]

    assert check["passed"] is None and "not looked for" in check["found"]


def test_the_interval_is_that_of_paired_images():
    # Ten images won and none lost: the change cannot be 0 in any resample but a few.
    verdict = bless(results(60, 60), ValidateConfig(), results(50, 50))

    low, high = verdict["checks"][1]["found"].split("[")[1].rstrip("]").split(", ")
    assert 0 < float(low.rstrip("%")) < 10 < float(high.rstrip("%"))
    assert np.isclose(float(low.rstrip("%")), 4.5, atol=1.5)
