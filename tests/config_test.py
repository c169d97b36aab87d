"""Settings: checks, messages and the text form of numbers."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerobust.config import (
    Config,
    UserError,
    check_name,
    field_kind,
    format_number,
    parse_number,
    setting,
    suggestion,
)


@dataclasses.dataclass(frozen=True)
class Sample(Config):
    """One field of every kind."""

    SECTION = "sample"

    epsilon: float = setting(8 / 255, "Radius.", low=0, hint="Write it as 8/255.")
    rate: float = setting(0.1, "Rate.", low=0, open_low=True)
    fraction: float = setting(0.5, "Part.", low=0, high=1, open_low=True)
    momentum: float = setting(0.9, "Momentum.", low=0, high=1, open_high=True)
    ceiling: float = setting(0.0, "Only bounded above.", high=1)
    steps: int = setting(10, "Number of steps.", low=1)
    norm: str = setting("linf", "Norm.", choices=("linf", "l2", "l1"))
    attacks: tuple[str, ...] = setting(("pgd",), "Names.", choices=("pgd", "fgsm"))
    curve: tuple[float, ...] = setting((), "Radii.", low=0)
    limit: int | None = setting(None, "Most examples.", low=1)
    restore: bool = setting(True, "Whether to restore.")


def test_defaults_pass_their_own_checks():
    assert Sample().steps == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"epsilon": -0.1},
            "`--sample.epsilon` must be at least 0. Received: epsilon=-0.1. "
            "Write it as 8/255.",
        ),
        ({"rate": 0.0}, "`--sample.rate` must be above 0. Received: rate=0.0."),
        (
            {"fraction": 0.0},
            "`--sample.fraction` must lie in (0, 1]. Received: fraction=0.0.",
        ),
        (
            {"momentum": 1.0},
            "`--sample.momentum` must lie in [0, 1). Received: momentum=1.0.",
        ),
        ({"ceiling": 2.0}, "`--sample.ceiling` must be at most 1. Received: "),
        ({"steps": 0}, "`--sample.steps` must be at least 1. Received: steps=0."),
        ({"steps": 1.5}, "`--sample.steps` must be of type int. Received: steps=1.5."),
        ({"steps": "3"}, "`--sample.steps` must be of type int. Received: steps=3."),
        ({"steps": True}, "`--sample.steps` must be of type int. Received: steps=True"),
        ({"restore": 1}, "`--sample.restore` must be of type bool. Received: "),
        ({"steps": None}, "`--sample.steps` must be of type int. Received: steps=None"),
        ({"limit": 0}, "`--sample.limit` must be at least 1. Received: limit=0."),
        (
            {"norm": "l3"},
            "`--sample.norm` must be one of: linf, l2, l1. Received: l3. "
            'Did you mean "l2"?',
        ),
        ({"attacks": ("pgd", "x")}, "`--sample.attacks` must be one of: pgd, fgsm. "),
        (
            {"attacks": "pgd"},
            "`--sample.attacks` must be a tuple of str. Received: attacks=pgd.",
        ),
        (
            {"attacks": ["pgd"]},
            "`--sample.attacks` must be a tuple of str. Received: attacks=['pgd'].",
        ),
        ({"curve": (0.1, -1.0)}, "`--sample.curve` must be at least 0. Received: "),
        ({"epsilon": float("nan")}, "`--sample.epsilon` must be at least 0. "),
        ({"epsilon": float("inf")}, "`--sample.epsilon` must be at least 0. "),
    ],
)
def test_a_wrong_value_is_refused_in_one_sentence(changes, message):
    with pytest.raises(UserError) as caught:
        Sample(**changes)

    assert str(caught.value).startswith(message)


def test_a_user_error_is_a_value_error():
    assert issubclass(UserError, ValueError)


@pytest.mark.parametrize(
    "changes",
    [
        {"epsilon": 0},
        {"epsilon": 1},
        {"limit": None},
        {"limit": 1},
        {"fraction": 1.0},
        {"momentum": 0.0},
        {"attacks": ()},
        {"curve": (0.0, 0.5)},
    ],
)
def test_the_ends_of_a_closed_range_are_allowed(changes):
    ((name, value),) = changes.items()

    assert getattr(Sample(**changes), name) == value


def test_replace_checks_again():
    with pytest.raises(UserError, match="steps=-1"):
        Sample().replace(steps=-1)


def test_replace_changes_only_what_it_is_given():
    assert Sample().replace(steps=3) == Sample(steps=3)


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Sample().steps = 3


def test_require_names_flag_value_and_fix():
    with pytest.raises(UserError) as caught:
        Sample().require(False, "steps", "must be even", "Take 12.")

    expected = "`--sample.steps` must be even. Received: steps=10. Take 12."
    assert str(caught.value) == expected


def test_a_section_less_config_names_the_bare_argument():
    assert Config.flag("seed") == "seed"


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.5", 0.5), (" 1e-3 ", 0.001), ("8/255", 8 / 255), ("1 / 4", 0.25), ("3", 3.0)],
)
def test_numbers_are_read_as_written(text, value):
    assert parse_number(text) == value


@pytest.mark.parametrize("text", ["", "x", "1/2/3", "/", "1,5"])
def test_text_that_is_no_number_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_number(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [(8 / 255, "8/255"), (0.5 / 255, "0.5/255"), (0.1, "0.1"), (3.0, "3.0")],
)
def test_numbers_are_written_as_people_write_them(value, text):
    assert format_number(value) == text


@settings(max_examples=200, deadline=None)
@given(st.floats(allow_nan=False))
def test_every_number_survives_the_way_to_text_and_back(value):
    assert parse_number(format_number(value)) == value


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 510))
def test_half_pixel_steps_survive_exactly(half_pixels):
    value = half_pixels / 2 / 255

    assert parse_number(format_number(value)) == value


def test_a_near_miss_is_suggested_and_a_far_one_is_not():
    assert suggestion("mimr", ["mae", "mimir"]) == ' Did you mean "mimir"?'
    assert suggestion("zzz", ["mae", "mimir"]) == ""


def test_a_known_name_passes_and_an_unknown_one_lists_the_known():
    check_name("--method", "mae", ["mae", "mimir"])

    with pytest.raises(UserError) as caught:
        check_name("--method", "dino", ["mae", "mimir"])

    expected = "`--method` must be one of: mae, mimir. Received: dino."
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (int, (int, False, False)),
        (float | None, (float, True, False)),
        (tuple[str, ...], (str, False, True)),
        (tuple[float, ...] | None, (float, True, True)),
    ],
)
def test_a_field_kind_says_base_optional_and_many(kind, expected):
    assert field_kind(kind) == expected
