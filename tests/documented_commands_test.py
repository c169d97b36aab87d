"""Every command shown in README, CONTRIBUTING, docs/ and flag files exists and parses.

Commands stand in fenced blocks without a language or with `sh`; what a command prints
stands in `text` blocks. A command of kerobust is parsed for real, and run as well if it
is quick; any other command must be in `ELSEWHERE`, with the place that runs it.
"""

import contextlib
import importlib.util
import io
import os
import pathlib
import re
import shlex
import unittest.mock

import numpy as np
import pytest

from kerobust import convert, evaluate, flags, probe, train
from kerobust.components import kfp, run, tfx
from kerobust.models.bundle import save_bundle
from kerobust.models.heads import Classifier, ClassifierHead
from kerobust.workers import announced
from tests.cli.bad_input_test import TINY

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
FLAG_FILES = sorted(ROOT.glob("configs/**/*.flags"))
MAINS = {
    "train": train.main,
    "probe": probe.main,
    "evaluate": evaluate.main,
    "convert": convert.main,
    "run": run.main,
    "kfp": kfp.main,
    "tfx": tfx.main,
}

# Command -> what runs it: a target of the Makefile, a test, or a file.
ELSEWHERE = {
    "make venv": "Makefile: venv",
    "make quickstart": "Makefile: quickstart",
    "make test": "Makefile: test",
    "make lint test": ".ci/run",
    "make bazel": "Makefile: bazel",
    ".ci/run": ".ci/run",
    "python3.11 -m venv .venv": "Makefile: venv",
    ".venv/bin/pip install -c constraints.txt .": (
        "tests/packaging_test.py::test_the_installed_versions_are_the_pinned_ones"
    ),
    ".venv/bin/pip install -c constraints.txt '.[pipelines]'": "Makefile: venv",
    "python -m components.trace ARTIFACT": "tests/components/trace_test.py",
    "python -m kerobust.doctor": (
        "tests/doctor_test.py::test_the_doctor_passes_in_the_environment_of_the_tests"
    ),
    ".venv/bin/python -m kerobust.doctor": (
        "tests/doctor_test.py::test_the_doctor_passes_in_the_environment_of_the_tests"
    ),
    "tensorboard --logdir runs/mimir": (
        "tests/doctor_test.py::test_the_tensorboard_command_is_installed_beside_python"
    ),
}
QUICK = {"--help", "--version", "--print_config", "--dry_run"}
# Makes a dry run of any documented command a matter of seconds.
SMALL = (*TINY, "--finetune.attack=natural", "--run.stages=pretrain")


def commands(text: str) -> list[str]:
    """Returns the commands of a page, comments and line continuations removed."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    shown = "".join(block for language, block in blocks if language in ("", "sh"))
    lines = shown.replace("\\\n", " ").splitlines()
    split = [shlex.split(line, comments=True) for line in lines]
    return [shlex.join(words) for words in split if words]


def header_command(text: str) -> str:
    """Returns the command in the comment at the start of a flag file."""
    lines = re.match(r"(?:# .*\\\n)*# .*\n", text).group().splitlines()
    return " ".join(" ".join(line.strip("#\\ ") for line in lines).split())


def problem(command: str, *more: str) -> str:
    """Returns what is wrong with a command, or nothing.

    Args:
        command: The documented command.
        more: Flags that are added to a command of kerobust.
    """
    if command in ELSEWHERE:
        return ""
    if command.startswith("export "):
        name, value = shlex.split(command)[1].split("=", 1)
        with unittest.mock.patch.dict(os.environ, {name: value}):
            return "" if announced().count > 1 else f"no workers: {command}"
    found = re.fullmatch(r"python -m (?:kerobust|components)\.(\w+)((?: .*)?)", command)
    if found is None or found[1] not in MAINS:
        return (
            f"unknown command: {command}. Correct it, or add it to ELSEWHERE in "
            "tests/documented_commands_test.py with the test or target that runs it."
        )
    arguments, errors = shlex.split(found[2]), io.StringIO()
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(errors),
    ):
        code = MAINS[found[1]]([found[1], *arguments, *more])
    return "" if code == 0 else f"{command} ends with {code}: {errors.getvalue()}"


DOCUMENTED = sorted({text for page in PAGES for text in commands(page.read_text())})


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    """Flag files are named as seen from the top folder."""
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_known_and_parses(page):
    found = [problem(text, "--print_config") for text in commands(page.read_text())]

    assert [text for text in found if text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_within_a_line_exists(page):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)

    wrong = []
    for command in re.findall(r"`((?:make|python -m)\s[^`]*)`", text):
        first, *rest = command.split()
        if first == "make":
            wrong += [word for word in rest if "=" not in word and word not in targets]
        elif rest[1].startswith("benchmarks."):
            wrong += [] if importlib.util.find_spec(rest[1]) else [command]
        else:
            wrong += [problem(" ".join([first, *rest]), "--print_config")]

    assert [text for text in wrong if text] == []


@pytest.mark.parametrize("path", FLAG_FILES, ids=lambda path: path.name)
def test_the_command_in_the_header_of_a_flag_file_parses_and_names_it(path):
    command = header_command(path.read_text())

    assert problem(command, "--print_config") == ""
    assert f"--flagfile={path.relative_to(ROOT)}" in command.split()


@pytest.mark.parametrize(
    "command", [text for text in DOCUMENTED if QUICK & set(text.split())]
)
def test_quick_commands_run(command):
    assert problem(command, *(SMALL if "--dry_run" in command else ())) == ""


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """Returns a folder with the bundles that `make quickstart` leaves, untrained."""
    folder = tmp_path_factory.mktemp("quickstart")
    path = f"--flagfile={ROOT / 'configs' / 'mimir.flags'}"
    model = flags.parse([path]).config.model
    save_bundle(model.build((8, 8, 3)), folder / "runs/mimir/encoder", {})
    encoder = model.build((8, 8, 3), final_norm=False)
    classifier = Classifier(encoder, ClassifierHead(10))
    classifier(np.zeros([1, 8, 8, 3], np.float32))
    save_bundle(classifier, folder / "runs/mimir/finetune/model", {})
    return folder


@pytest.mark.parametrize(
    "command", [text for text in DOCUMENTED if "--run.init_from=runs/mimir/" in text]
)
def test_commands_that_start_from_the_quickstart_fit_it(
    command, quickstart, monkeypatch
):
    monkeypatch.chdir(quickstart)

    assert problem(command, "--dry_run") == ""


def test_help_names_every_flag_that_the_pages_mention(capsys):
    # The engines of pipelines have the flags of training, and some of their own.
    assert kfp.main(["kfp", "--help"]) == 0
    known = set(re.findall(r"--(\w+\.\w+)=", capsys.readouterr().out))

    mentioned = {
        (page.name, name)
        for page in PAGES
        for name in re.findall(r"--([a-z]+\.[a-z_0-9]+)", page.read_text())
    }

    assert len(mentioned) > 20
    assert sorted(item for item in mentioned if item[1] not in known) == []


def test_help_of_convert_names_every_flag_of_its_page(capsys):
    assert convert.main(["convert", "--help"]) == 0
    known = set(re.findall(r"--(\w+)", capsys.readouterr().out))

    text = (ROOT / "docs" / "weights.md").read_text()
    mentioned = set(re.findall(r"--([a-z_]+)(?![a-z_.])", text))

    assert len(mentioned) > 8
    assert sorted(mentioned - known) == []


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("python -m kerobust.trian", "unknown command: python -m kerobust.trian."),
        ("python -m kerobust.doctor --jsn", "unknown command"),
        ("make quikstart", "unknown command"),
        ("pip install kerobust", "unknown command"),
        ("python -m kerobust.train --data.nam=x", "Did you mean --data.name?"),
        ("python -m kerobust.train --flagfile=configs/no.flags", "existing file"),
        ("python -m kerobust.convert --weigths=a.pth", "mean --weights?"),
        ("python -m kerobust.convert --from=dinno", 'Did you mean "dino"?'),
        ("python -m kerobust.probe --attack.epsilon=8", "did you mean 8/255"),
    ],
)
def test_a_made_up_command_or_flag_is_found(command, words):
    page = f"text\n\n```\n{command}  # comment\n```\n"

    (found,) = [problem(text, "--print_config") for text in commands(page)]

    assert words in found


def test_only_blocks_for_commands_are_read():
    page = (
        "```python\na\n```\n```text\nb\n```\n```sh\nc \\\n  d\n# e\n```\n```\nf\n```\n"
    )

    assert commands(page) == ["c d", "f"]


def test_the_table_is_used_and_names_what_exists():
    assert sorted(set(ELSEWHERE) - set(DOCUMENTED)) == []
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command, place in ELSEWHERE.items():
        name, _, part = place.partition("::")
        if place.startswith("Makefile: "):
            assert place.removeprefix("Makefile: ") in targets
        else:
            assert f"def {part}(" in (ROOT / name).read_text() if part else True
            assert (ROOT / name).is_file()
        if command.startswith("make "):
            assert set(command.split()[1:]) <= set(targets)


def test_the_commands_of_the_makefile_parse():
    text = (ROOT / "Makefile").read_text()
    recipes = re.findall(r"^\t\$\(PYTHON\) (-m kerobust\..*)$", text, re.MULTILINE)

    found = [problem(f"python {recipe}", "--print_config") for recipe in recipes]

    assert recipes and [text for text in found if text] == []
