"""Whether a model is good enough to be handed on."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from kerobust.config import Config, setting
from kerobust.evaluation.metrics import paired_bootstrap

_KINDS = {"clean": "accuracy without attack", "worst": "accuracy in the worst case"}


@dataclasses.dataclass(frozen=True)
class ValidateConfig(Config):
    """What an evaluation must show before a model is blessed."""

    SECTION = "validate"

    min_clean: float | None = setting(
        None, "Least accuracy without attack; empty = any.", low=0, high=1
    )
    min_worst: float | None = setting(
        None, "Least accuracy under all attacks together; empty = any.", low=0, high=1
    )
    baseline: str | None = setting(
        None,
        "Run folder with the evaluation of an older model; empty = none. Pipelines take"
        " the last blessed one.",
    )
    max_drop: float = setting(
        0.01,
        "Most that either accuracy may lie below the baseline's, on the same images.",
        low=0,
        high=1,
    )
    allow_findings: bool = setting(
        False, "Whether signs of masked gradients are let pass."
    )


def bless(
    found: Mapping[str, Any],
    config: ValidateConfig,
    baseline: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns the verdict on an evaluation, as values that JSON can hold.

    Args:
        found: Content of a `results.json`.
        config: What it must show.
        baseline: `results.json` of an older model, None if there is none.

    Returns:
        {"blessed": bool, "checks": [{"name", "wanted", "found": str, "passed": bool or
        None}]}. None: not known, because nobody looked, or the baseline was attacked
        otherwise or on other images; it counts neither for nor against.
    """
    checks = [_least(found, "clean", config.min_clean)]
    checks += [_least(found, "worst", config.min_worst), _masking(found, config)]
    if baseline is not None:
        checks += [_drop(found, baseline, kind, config.max_drop) for kind in _KINDS]
    kept = [check for check in checks if check is not None]
    return {
        "blessed": all(check["passed"] is not False for check in kept),
        "checks": kept,
    }


def incomparable(found: Mapping[str, Any], baseline: Mapping[str, Any]) -> str | None:
    """Returns what keeps two evaluations from being compared; None if nothing does.

    Args:
        found: Content of a `results.json`.
        baseline: That of another one.
    """
    for part, first, second in (
        ("threat", found["threat"], baseline["threat"]),
        ("attacks", _attacks(found), _attacks(baseline)),
        ("images", _images(found), _images(baseline)),
    ):
        if first != second:
            return part
    return None


def _check(name: str, wanted: str, found: str, passed: bool | None) -> dict:
    return {"name": name, "wanted": wanted, "found": found, "passed": passed}


def _least(found, kind: str, least: float | None) -> dict | None:
    if least is None:
        return None
    share = np.mean(_flags(found, kind))
    passed = bool(share >= least)
    return _check(_KINDS[kind], f"at least {least:.2%}", f"{share:.2%}", passed)


def _masking(found, config: ValidateConfig) -> dict | None:
    if config.allow_findings:
        return None
    if not found["settings"]["diagnose"]:
        text = "not looked for: --evaluate.diagnose=false"
        return _check("signs of masked gradients", "none", text, None)
    signs = [x["code"] for x in found["findings"] if x["severity"] != "info"]
    text = ", ".join(signs) or "none"
    return _check("signs of masked gradients", "none", text, not signs)


def _drop(found, baseline, kind: str, most: float) -> dict:
    name, wanted = f"{_KINDS[kind]}, change", f"at least {-most:+.2%}"
    other = incomparable(found, baseline)
    if other is not None:
        return _check(name, wanted, f"other {other} in the baseline", None)
    flags = _flags(found, kind), _flags(baseline, kind)
    change, low, high = paired_bootstrap(*flags)
    text = f"{change:+.2%} [{low:+.2%}, {high:+.2%}]"
    return _check(name, wanted, text, bool(change >= -most))


def _attacks(found) -> dict:
    """Returns the settings that decide what an example must withstand."""
    names = ("attacks", "steps", "restarts", "seed")
    return {name: found["settings"][name] for name in names}


def _images(found) -> tuple:
    examples = found["examples"]
    return found["about"]["data"], examples["ids"], examples["labels"]


def _flags(found, kind: str) -> np.ndarray:
    return np.asarray(found["examples"][kind], bool)
