"""Model cards: Markdown whose header registries of models can read."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import kerobust
from kerobust.config import format_number

FILE = "README.md"


class Result(NamedTuple):
    """One measured number and how it was measured.

    Attributes:
        accuracy: Share of images, in [0, 1].
        dataset: Name of the data.
        split: Which part of it.
        images: How many images were tried.
        attack: Name of the attack, or "none".
        norm: Norm of the ball, or empty without attack.
        epsilon: Radius of the ball in pixel units, 0 without attack.
        seed: Seed of the evaluation, None if unknown.
        interval: 95 % bounds of the accuracy, None if unknown.
    """

    accuracy: float
    dataset: str
    split: str
    images: int
    attack: str = "none"
    norm: str = ""
    epsilon: float = 0.0
    seed: int | None = None
    interval: tuple[float, float] | None = None

    @property
    def protocol(self) -> str:
        """Attack, ball, number of images and seed in one phrase."""
        ball = f", {self.norm} {format_number(self.epsilon)}" if self.norm else ""
        seed = "" if self.seed is None else f", seed {self.seed}"
        attack = "no attack" if self.attack == "none" else self.attack
        return f"{attack}{ball}, {self.images:,} images{seed}"


def results_of(
    evaluation: Mapping[str, Any], dataset: str, split: str, seed: int | None = None
) -> list[Result]:
    """Returns the numbers of an evaluation: natural, of each attack, and the worst.

    Args:
        evaluation: Content of a `results.json`.
        dataset, split, seed: What was evaluated, and from which seed.
    """
    threat = evaluation["threat"]
    ball = {"norm": threat["norm"], "epsilon": float(threat["epsilon"])}
    shares = {"none": evaluation["natural"], **evaluation["robust"]}
    if len(evaluation["robust"]) > 1:
        shares["worst of all"] = evaluation["worst"]
    return [
        Result(
            share["accuracy"],
            dataset,
            split,
            share["total"],
            attack,
            seed=seed,
            interval=(share["low"], share["high"]),
            **({} if attack == "none" else ball),
        )
        for attack, share in shares.items()
    ]


def model_card(
    title: str,
    about: str,
    *,
    usage: str,
    facts: Mapping[str, str],
    provenance: Mapping[str, str],
    flags: Mapping[str, str] | None = None,
    results: Sequence[Result] = (),
    datasets: Sequence[str] = (),
    license: str = "unknown",
    library: str = "kerobust",
    task: str = "image-feature-extraction",
    limits: Sequence[str] = (),
) -> str:
    """Returns a model card: a header in YAML and sections in Markdown.

    Args:
        title: Name of the model.
        about: What it is, in sentences.
        usage: Python that loads it.
        facts: Name -> text of its properties.
        provenance: Name -> text of where it comes from, such as a digest.
        flags: Flags it was trained with, None if unknown.
        results: What was measured; empty says that nothing was.
        datasets: Names of the data it was trained on, empty if unknown.
        license: Licence of the weights, a word of the Hugging Face list.
        library: What loads it: "kerobust", "keras" or "timm".
        task: What it does, a word of the Hugging Face list.
        limits: Sentences added to the limits that hold for every model.
    """
    trained = _trained(flags, datasets)
    parts = [
        _header(title, results, datasets, license, library, task),
        f"# {_line(title)}",
        about,
        _list(facts),
        f"## How it was trained\n\n{trained}",
        f"## Results\n\n{_table(results)}",
        f"## Use and limits\n\n{_limits(limits)}",
        f"## How to load it\n\n```python\n{usage.strip()}\n```",
        f"## Where it comes from\n\n{_list(provenance)}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _header(title, results, datasets, license, library, task) -> str:
    """Returns the YAML; every text is quoted."""
    lines = [
        "---",
        f"library_name: {_quoted(library)}",
        f"license: {_quoted(license)}",
        f"pipeline_tag: {_quoted(task)}",
        "tags:",
        *(f"- {_quoted(tag)}" for tag in ("kerobust", "adversarial-robustness")),
    ]
    if datasets:
        lines += ["datasets:", *(f"- {_quoted(name)}" for name in datasets)]
    if results:
        lines += ["model-index:", f"- name: {_quoted(title)}", "  results:"]
        lines += [line for result in results for line in _entry(result)]
    return "\n".join([*lines, "---"])


def _entry(result: Result) -> list[str]:
    kind = "accuracy" if result.attack == "none" else "robust accuracy"
    return [
        "  - task:",
        '      type: "image-classification"',
        "    dataset:",
        f"      name: {_quoted(result.dataset)}",
        f"      type: {_quoted(result.dataset)}",
        f"      split: {_quoted(result.split)}",
        "    metrics:",
        '    - type: "accuracy"',
        f"      name: {_quoted(f'{kind} ({result.protocol})')}",
        f"      value: {float(result.accuracy)!r}",
    ]


def _trained(flags: Mapping[str, str] | None, datasets: Sequence[str]) -> str:
    known = f"On: {', '.join(map(_line, datasets))}.\n\n" if datasets else ""
    if flags is None:
        return f"{known}Not by this library, or its settings were not kept."
    text = "\n".join(f"--{name}={value}" for name, value in flags.items())
    version = f"kerobust {kerobust.__version__}"
    return f"{known}{version} with these flags:\n\n```text\n{text}\n```"


def _table(results: Sequence[Result]) -> str:
    if not results:
        return (
            "Nothing was measured. Robustness in particular is not: attack the model "
            "(`kerobust.evaluate`) before relying on it."
        )
    rows = ["| data | protocol | accuracy | 95 % interval |", "|---|---|---|---|"]
    for result in results:
        bounds = result.interval
        interval = f"{bounds[0]:.1%} to {bounds[1]:.1%}" if bounds else "not computed"
        data = f"{result.dataset} ({result.split})"
        cells = (data, result.protocol, f"{result.accuracy:.1%}", interval)
        rows.append(f"| {' | '.join(_line(x).replace('|', '/') for x in cells)} |")
    return "\n".join(rows)


def _limits(more: Sequence[str]) -> str:
    sentences = (
        "Features for classification, retrieval or dense tasks, and research on "
        "robustness.",
        "Robust accuracy holds for the attack, the ball and the images that stand "
        "beside it, not for others; a stronger attack may lower it.",
        "No safety-critical use without an evaluation on its own data and threats.",
    )
    return "\n".join(f"- {text}" for text in (*sentences, *more))


def _list(items: Mapping[str, str]) -> str:
    return "\n".join(f"- {name}: {_line(text)}" for name, text in items.items())


def _quoted(text: str) -> str:
    """Returns text in double quotes, every unusual character as its number."""
    plain = [x if " " <= x <= "~" and x not in '"\\' else _number(x) for x in str(text)]
    return f'"{"".join(plain)}"'


def _number(character: str) -> str:
    return f"\\U{ord(character):08x}"


def _line(text: str) -> str:
    """Returns text without line breaks, so that it stays one item."""
    return " ".join(str(text).split())
