"""The parts of a report: titles, sentences and tables of text."""

from typing import NamedTuple

Grid = tuple[list[str], list[list[str]]]  # Headers and rows of cells.


class Section(NamedTuple):
    """A part of a report; what is empty is not shown.

    Attributes:
        title: Heading.
        paragraphs: Sentences above the table.
        headers: Column names.
        cells: Rows of text.
        figure: Which figure belongs here: "bars", "curves", "pictures", "drift",
            "transfer", "attention" or "".
    """

    title: str
    paragraphs: list[str]
    headers: list[str] = []
    cells: list[list[str]] = []
    figure: str = ""


def percent(found: dict | None) -> str:
    """Returns an accuracy in % with its interval, "-" for None.

    Args:
        found: "accuracy", "low" and "high" in [0, 1], see `results.share`.
    """
    if found is None:
        return "-"
    low, high = 100 * found["low"], 100 * found["high"]
    return f"{100 * found['accuracy']:.1f} [{low:.1f}, {high:.1f}]"
