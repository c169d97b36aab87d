"""BUILD and MANIFEST.in name what the tree holds; BUILD stays inside Starlark."""

import ast
import pathlib

from tests.layers_test import ALLOWED

ROOT = pathlib.Path(__file__).parents[1]
TREE = ast.parse((ROOT / "BUILD").read_text("utf-8"))
RULES = {"py_library", "py_binary", "py_test"}


def _calls() -> list[ast.Call]:
    return [
        node
        for node in ast.walk(TREE)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in RULES
    ]


def _literal(call: ast.Call, name: str):
    values = [keyword.value for keyword in call.keywords if keyword.arg == name]
    try:
        return ast.literal_eval(values[0]) if values else None
    except ValueError:
        return None  # built from a loop variable


def _libraries() -> dict[str, set[str]]:
    """Returns the parts of kerobust/ that each library holds."""
    found = {}
    for call in _calls():
        sources = next((k.value for k in call.keywords if k.arg == "srcs"), None)
        texts = [
            node.value
            for node in ast.walk(sources or ast.Constant(""))
            if isinstance(node, ast.Constant)
            and str(node.value).startswith("kerobust/")
        ]
        parts = {text.split("/")[1].removesuffix(".py") for text in texts} - {""}
        if parts and isinstance(_literal(call, "name"), str):
            found[_literal(call, "name")] = parts
    return found


def _commands() -> set[str]:
    loops = [node for node in TREE.body if isinstance(node.value, ast.ListComp)]
    return set(ast.literal_eval(loops[0].value.generators[0].iter))


def test_every_part_of_the_package_is_in_exactly_one_target():
    present = {
        path.relative_to(ROOT / "kerobust").parts[0].removesuffix(".py")
        for path in (ROOT / "kerobust").rglob("*.py")
    }
    listed = [part for parts in _libraries().values() for part in parts]

    assert sorted([*listed, *_commands()]) == sorted(present)


def test_every_listed_file_exists():
    constants = [n.value for n in ast.walk(TREE) if isinstance(n, ast.Constant)]
    files = [text for text in constants if str(text).endswith((".py", ".txt", ".toml"))]

    plain = [name for name in files if "*" not in name and len(name) > len(".py")]
    assert [name for name in plain if not (ROOT / name).is_file()] == []


def test_dependencies_follow_the_layers():
    libraries = _libraries()
    for call in _calls():
        parts = libraries.get(_literal(call, "name"), set()) - {"__init__", "doctor"}
        for dependency in _literal(call, "deps") or []:
            needed = libraries.get(dependency.removeprefix(":"), set()) - {"__init__"}
            for part in parts:
                assert needed <= ALLOWED[part], f"{part} may not depend on {dependency}"


def test_every_dependency_is_a_target():
    names = {_literal(call, "name") for call in _calls()} | _commands()
    wanted = {name for call in _calls() for name in _literal(call, "deps") or []}

    assert {name.removeprefix(":") for name in wanted} <= names


def test_only_starlark_is_used():
    # What Python has and the BUILD dialect has not, as far as anyone might write it.
    foreign = ast.FunctionDef | ast.Lambda | ast.Import | ast.ImportFrom | ast.JoinedStr
    foreign |= ast.For | ast.If | ast.While | ast.Try | ast.With | ast.ClassDef
    foreign |= ast.Set | ast.SetComp | ast.GeneratorExp | ast.Assert | ast.Starred

    assert [node for node in ast.walk(TREE) if isinstance(node, foreign)] == []


def test_every_rule_is_loaded():
    (load,) = [
        [argument.value for argument in node.value.args]
        for node in TREE.body
        if isinstance(node.value, ast.Call) and node.value.func.id == "load"
    ]

    assert load[0] == "@rules_python//python:defs.bzl"
    assert set(load[1:]) == {call.func.id for call in _calls()}


def test_the_source_archive_names_files_that_exist():
    lines = (ROOT / "MANIFEST.in").read_text("utf-8").splitlines()
    names = [name for line in lines for name in line.split()[1:] if "*" not in name]

    assert [name for name in names if not (ROOT / name).exists()] == []
