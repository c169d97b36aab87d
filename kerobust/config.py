"""Settings: the one place for names, defaults, units, ranges and their checks.

A settings class is a frozen dataclass whose fields are made by `setting`. `flags.py`
turns every field into a flag `--section.name`; Python users construct the class. Both
meet the same checks and the same messages.
"""

import dataclasses
import difflib
import math
import typing
from typing import Any, ClassVar, TypeVar

Self = TypeVar("Self", bound="Config")


class UserError(ValueError):
    """A mistake in what the caller gave: the command line shows only its message."""


def setting(
    default,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    open_low: bool = False,
    open_high: bool = False,
    choices: tuple[str, ...] | None = None,
    hint: str = "",
):
    """Declares one field of a `Config`.

    Args:
        default: The default value; the only place where it stands.
        help: Meaning, unit and range, as shown by `--help`.
        low, high: Range of a number.
        open_low, open_high: Whether the end of the range itself is excluded.
        choices: Known words of a string (or of every string in a tuple).
        hint: Sentence added to the error message; says what to do.
    """
    metadata = {
        "help": help,
        "low": low,
        "high": high,
        "open_low": open_low,
        "open_high": open_high,
        "choices": choices,
        "hint": hint,
    }
    return dataclasses.field(default=default, metadata=metadata)


def parse_number(text: str) -> float:
    """Returns the number written as `0.03`, `1e-3` or `8/255`.

    Raises:
        ValueError: If `text` is none of these.
    """
    text = text.strip()
    if "/" in text:
        above, below = text.split("/")
        return float(above) / float(below)
    return float(text)


def format_number(value: float) -> str:
    """Returns the shortest text that `parse_number` reads back to the same float."""
    text = repr(value)
    if len(text) > 8 and abs(value) < 1e6:  # larger: no count of pixels, may overflow
        pixels = f"{round(value * 510) / 2:g}/255"
        if parse_number(pixels) == value:
            return pixels
    return text


def suggestion(word: str, known) -> str:
    """Returns ` Did you mean "x"?` for a near miss, else the empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f' Did you mean "{near[0]}"?' if near else ""


def check_name(flag: str, word: str, known) -> None:
    """Raises a `UserError` that lists the known words if `word` is not among them."""
    if word not in known:
        words = ", ".join(known)
        raise UserError(
            f"`{flag}` must be one of: {words}. Received: {word}."
            f"{suggestion(word, known)}"
        )


@dataclasses.dataclass(frozen=True)
class Config:
    """Base of all settings classes: checks types, choices and ranges when made."""

    SECTION: ClassVar[str] = ""

    def __post_init__(self):
        kinds = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            self._check(field, kinds[field.name], getattr(self, field.name))

    @classmethod
    def flag(cls, name: str) -> str:
        """Returns the name under which users know the field: `--section.name`."""
        return f"--{cls.SECTION}.{name}" if cls.SECTION else name

    def replace(self: Self, **changes) -> Self:
        """Returns a copy with some fields changed; the copy is checked again."""
        return dataclasses.replace(self, **changes)

    def require(self, condition: bool, name: str, expectation: str, fix: str = ""):
        """Raises a `UserError` about field `name` unless `condition` holds."""
        if not condition:
            value = getattr(self, name)
            raise UserError(
                f"`{self.flag(name)}` {expectation}. "
                f"Received: {name.rstrip('_')}={value}.{' ' + fix if fix else ''}"
            )

    def _check(self, field: dataclasses.Field, kind: Any, value: Any) -> None:
        base, optional, many = field_kind(kind)
        if value is None and optional:
            return
        if many:
            expectation = f"must be a tuple of {base.__name__}"
            self.require(isinstance(value, tuple), field.name, expectation)
        values = value if many else (value,)
        for item in values:
            right = isinstance(item, base) or (base is float and isinstance(item, int))
            right = right and not (isinstance(item, bool) and base is not bool)
            self.require(right, field.name, f"must be of type {base.__name__}")
            self._check_item(field, item)

    def _check_item(self, field: dataclasses.Field, item: Any) -> None:
        rule = field.metadata
        if rule.get("choices") and item not in rule["choices"]:
            check_name(self.flag(field.name), item, rule["choices"])
        if isinstance(item, (int, float)) and not isinstance(item, bool):
            inside = math.isfinite(item)
            if rule.get("low") is not None:
                inside &= (
                    item > rule["low"] if rule["open_low"] else item >= rule["low"]
                )
            if rule.get("high") is not None:
                inside &= (
                    item < rule["high"] if rule["open_high"] else item <= rule["high"]
                )
            self.require(inside, field.name, _range_text(rule), rule.get("hint", ""))


def field_kind(kind: Any) -> tuple[type, bool, bool]:
    """Returns (base type, may be None, is a tuple) of a field's annotation."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        return arguments[0], False, True
    if type(None) in arguments:
        base, _, many = field_kind(next(a for a in arguments if a is not type(None)))
        return base, True, many
    return kind, False, False


def _range_text(rule) -> str:
    low, high = rule.get("low"), rule.get("high")
    if low is not None and high is not None:
        left, right = (
            "(" if rule["open_low"] else "[",
            ")" if rule["open_high"] else "]",
        )
        return f"must lie in {left}{low}, {high}{right}"
    if low is not None:
        return f"must be {'above' if rule['open_low'] else 'at least'} {low}"
    if high is not None:
        return f"must be {'below' if rule['open_high'] else 'at most'} {high}"
    return "must be a finite number"
