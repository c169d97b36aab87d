"""BUILD, MODULE.bazel and MANIFEST.in name what the tree holds, in Starlark."""

import ast
import pathlib

import kerobust
from tests import bazel_offline
from tests.layers_test import ALLOWED, imports

ROOT = pathlib.Path(__file__).parents[1]
TREE = ast.parse((ROOT / "BUILD").read_text("utf-8"))
MODULE = ast.parse((ROOT / "MODULE.bazel").read_text("utf-8"))
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


def _closure(call: ast.Call) -> set[str]:
    """Returns the parts of kerobust/ that a target reaches through `deps`."""
    calls = {_literal(call, "name"): call for call in _calls()}
    waiting, seen = list(_literal(call, "deps") or []), set()
    while waiting:
        name = waiting.pop().removeprefix(":")
        if name in calls and name not in seen:
            seen.add(name)
            waiting += _literal(calls[name], "deps") or []
    return {part for name in seen for part in _libraries().get(name, set())}


def _imported(part: str) -> set[str]:
    """Returns the parts of kerobust/ that a part imports."""
    folder = ROOT / "kerobust" / part
    paths = sorted(folder.rglob("*.py")) or [folder.with_suffix(".py")]
    names = {
        item.name
        for path in paths
        for item in imports(
            path.read_text("utf-8"),
            ".".join(path.relative_to(ROOT).parts[:-1]),
        )
    }
    words = {tuple(name.split(".")) for name in names if name.startswith("kerobust.")}
    return {name[1] for name in words} & {*ALLOWED, "doctor"}


def _test_files() -> ast.Call:
    """Returns the `glob` that the test targets are made from."""
    loops = [node for node in TREE.body if isinstance(node.value, ast.ListComp)]
    return loops[1].value.generators[0].iter


def _top_level_reads(path: pathlib.Path) -> set[str]:
    """Returns what a test names below `ROOT`, the top folder of the checkout."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        named, pattern = node, None
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            named, pattern = node.left, node.right
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            named, pattern = node.func.value, next(iter(node.args), None)
        if isinstance(pattern, ast.Constant) and ast.unparse(named) == "ROOT":
            found.add(str(pattern.value).split("/")[0])
    return found


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


def test_what_a_target_imports_is_among_its_dependencies():
    libraries = _libraries()
    for call in _calls():
        name = _literal(call, "name")
        # A rule in a list of commands has no name of its own: all take the same.
        parts = libraries.get(name, set()) - {"__init__"}
        if name is None and call.func.id == "py_binary":
            parts = _commands()
        for part in parts:
            missing = _imported(part) - _closure(call) - libraries.get(name, set())
            assert missing == set(), f"{part} imports what its target does not name"


def test_every_test_is_a_target_or_has_its_reason():
    call = _test_files()
    lines = (ROOT / "BUILD").read_text("utf-8").splitlines()
    (excluded,) = [k.value for k in call.keywords if k.arg == "exclude"]

    assert ast.literal_eval(call.args[0]) == ["tests/**/*_test.py"]
    for name in ast.literal_eval(excluded):
        assert (ROOT / name).is_file()
        # The reason that the comment gives.
        assert _top_level_reads(ROOT / name) - {"tests", "kerobust"}
    assert lines[excluded.lineno - 2].strip().startswith("# ")
    # A folder with a BUILD of its own is another package, invisible to the glob.
    assert [path.name for path in ROOT.glob("tests/**/BUILD*")] == []


def test_what_the_tests_read_is_in_the_sandbox():
    excluded = ast.literal_eval(_test_files().keywords[0].value)
    (support,) = [call for call in _calls() if _literal(call, "name") == "test_support"]
    (data,) = [k.value for k in support.keywords if k.arg == "data"]
    given = {
        node.value.split("/")[0]
        for node in ast.walk(data)
        if isinstance(node, ast.Constant)
    }

    for path in ROOT.glob("tests/**/*_test.py"):
        if path.relative_to(ROOT).as_posix() not in excluded:
            wanted = _top_level_reads(path) - {"benchmarks", "kerobust", "tests"}
            assert wanted <= given, path


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


def test_the_module_is_the_package():
    calls = {node.value.func.id: node.value for node in MODULE.body}
    module, dependency = calls["module"], calls["bazel_dep"]

    assert set(calls) == {"module", "bazel_dep", "register_toolchains"}
    assert _literal(module, "name") == "kerobust"
    assert _literal(module, "version") == kerobust.__version__
    assert _literal(dependency, "name") == "rules_python"
    (toolchains,) = [argument.value for argument in calls["register_toolchains"].args]
    assert toolchains.startswith("@rules_python//")


def test_the_workspace_of_make_bazel_has_every_rule_and_test():
    stub = ast.parse(bazel_offline.stubs()["rules_python/python/defs.bzl"])
    defined = {target.id for node in stub.body for target in node.targets}

    assert defined == RULES
    for name in bazel_offline.TESTS:
        assert (ROOT / "tests" / f"{name}.py").is_file()


def test_make_bazel_without_bazel_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")

    assert bazel_offline.main() == 3
    wanted = "apt-get install bazel-bootstrap bazel-rules-java bazel-platforms"
    assert wanted in capsys.readouterr().err


def test_the_source_archive_names_files_that_exist():
    lines = (ROOT / "MANIFEST.in").read_text("utf-8").splitlines()
    names = [name for line in lines for name in line.split()[1:] if "*" not in name]

    assert [name for name in names if not (ROOT / name).exists()] == []
