"""Limits of CONTRIBUTING.md that no linter knows: sizes, names, asserts."""

import ast
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILE_LINES, FUNCTION_LINES = 400, 40
VAGUE = {"utils", "util", "misc", "common", "helpers", "helper"}


def _python_files() -> list[pathlib.Path]:
    folders = ["kerobust", "tests", "benchmarks", "examples", "components"]
    inside = [path for name in folders for path in (ROOT / name).rglob("*.py")]
    return sorted([ROOT / "setup.py", *inside])


def long_functions(source: str) -> list[str]:
    """Returns `line: name (length)` of functions longer than the limit.

    The signature and the body count; the docstring does not, so that nobody saves
    lines there.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        length = node.end_lineno - node.lineno + 1
        if ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            length -= text.end_lineno - text.lineno + 1
        if length > FUNCTION_LINES:
            found.append(f"{node.lineno}: {node.name} ({length} lines)")
    return found


def asserts(source: str) -> list[int]:
    """Returns the lines of the `assert` statements."""
    tree = ast.walk(ast.parse(source))
    return [node.lineno for node in tree if isinstance(node, ast.Assert)]


def vague_names(path: pathlib.PurePath) -> set[str]:
    """Returns the parts of `path` that say nothing about what they hold."""
    names = {part.removesuffix(".py").removesuffix("_test") for part in path.parts}
    return names & VAGUE


def test_no_file_is_longer_than_the_limit():
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text("utf-8").splitlines())
        for path in _python_files()
    }

    assert {name: n for name, n in lengths.items() if n > FILE_LINES} == {}


def test_no_function_is_longer_than_the_limit():
    found = [
        f"{path.relative_to(ROOT).as_posix()}:{line}"
        for path in _python_files()
        for line in long_functions(path.read_text("utf-8"))
    ]

    assert not found, "\n".join(found)


def test_no_file_or_folder_has_a_vague_name():
    found = [path for path in _python_files() if vague_names(path.relative_to(ROOT))]

    assert not found


def test_assert_stands_in_tests_only():
    found = [
        f"{path.relative_to(ROOT).as_posix()}:{line}"
        for path in _python_files()
        if "tests" not in path.relative_to(ROOT).parts
        for line in asserts(path.read_text("utf-8"))
    ]

    assert not found, "\n".join(found)


def test_every_test_file_is_collected():
    # pytest collects `*_test.py`: a file that ends otherwise would never run.
    found = [
        path.name
        for path in (ROOT / "tests").rglob("*.py")
        if not path.name.endswith("_test.py") and "def test_" in path.read_text("utf-8")
    ]

    assert found == []


def test_no_generated_file_is_kept_in_git():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-ci", "--exclude-standard"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert result.stdout == ""


def test_planted_faults_are_caught():
    body = "\n".join("    x = 1" for _ in range(40))

    # 40 lines of body and one of signature are 41; a docstring of any length is free.
    assert long_functions(f"def f():\n{body}\n") == ["1: f (41 lines)"]
    short = body.split("\n", 1)[1]
    assert long_functions(f'def f():\n    """A.\n\n    B.\n    """\n{short}\n') == []
    assert asserts("def f():\n    assert True\n") == [2]
    assert vague_names(pathlib.PurePath("kerobust/models/utils.py")) == {"utils"}
    assert vague_names(pathlib.PurePath("kerobust/common/x.py")) == {"common"}
    assert vague_names(pathlib.PurePath("kerobust/models/vit.py")) == set()
