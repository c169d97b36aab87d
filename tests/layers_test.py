"""Who may import whom (CONTRIBUTING.md, "Layers"), read from the syntax tree."""

import ast
import pathlib
import sys
import typing

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "kerobust"

FOUNDATION = {
    *(
        "types",
        "randomness",
        "patches",
        "distribute",
        "workers",
        "config",
        "batch_state",
        "progress",
    ),
}
PARTS = {"attacks", "models", "losses", "data"}
ASSEMBLED = {"methods", "tasks", "evaluation"}
SETTINGS = {"flags", "experiment", "run_folder"}
COMMANDS = {"train", "probe", "evaluate", "convert"}

# Part of the package -> the other parts that it may import.
ALLOWED = {
    **dict.fromkeys(FOUNDATION, FOUNDATION),
    **dict.fromkeys(PARTS, FOUNDATION),
    "attacks": FOUNDATION | {"losses"},
    "training": FOUNDATION,
    "tasks": FOUNDATION | PARTS | {"training"},
    "evaluation": FOUNDATION | PARTS | {"training", "tasks"},
    "methods": FOUNDATION | PARTS | {"training", "tasks", "evaluation"},
    **dict.fromkeys(
        SETTINGS, FOUNDATION | PARTS | {"training"} | ASSEMBLED | {"experiment"}
    ),
    "workflows": FOUNDATION | PARTS | {"training"} | ASSEMBLED | SETTINGS,
    **dict.fromkeys(COMMANDS, SETTINGS | {"workflows"}),
}

# Library -> the files (relative to the package) that may import it.
CONFINED = {
    "tensorflow_addons": {
        "training/optimizers.py",
        "models/heads.py",
        "evaluation/metrics.py",
    },
    "keras_cv": {"data/augmentations.py", "models/keras_cv_encoder.py"},
    "absl.flags": {"flags.py", *(f"{name}.py" for name in COMMANDS)},
    "matplotlib": {"evaluation/plots.py", "evaluation/report.py"},
}

# Slow or noisy to import: inside functions only, whoever needs them pays.
LAZY = {"tensorflow_addons", "keras_cv", "tensorflow_datasets", "matplotlib"}

STANDARD = set(sys.stdlib_module_names)


class Import(typing.NamedTuple):
    """One imported name: `from a import b` counts as `a.b`."""

    name: str
    line: int
    at_module_level: bool


def imports(source: str, package: str) -> list[Import]:
    """Returns every import of a file, those inside functions included.

    Args:
        source: Text of the file.
        package: Dotted name of the package that holds it, for relative imports.
    """
    tree = ast.parse(source)
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    return [
        Import(name, node.lineno, id(node) not in inside)
        for node in ast.walk(tree)
        for name in _names(node, package)
    ]


def _names(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        parents = package.split(".")
        base = parents[: len(parents) - node.level + 1] if node.level else []
        base = ".".join([*base, *([node.module] if node.module else [])])
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args:
        called = ast.unparse(node.func).split(".")[-1]
        target = node.args[0]
        if called in ("import_module", "__import__") and isinstance(
            target, ast.Constant
        ):
            return [str(target.value)]
    return []


def violations(path: str, source: str) -> list[str]:
    """Returns one sentence per import of `path` (relative to kerobust/) not allowed."""
    parts = pathlib.PurePosixPath(path).with_suffix("").parts
    part = parts[0]
    found = []
    for item in imports(source, ".".join(["kerobust", *parts[:-1]])):
        reason = (
            _peer(part, item)
            or _confined(path, item)
            or _lazy(item)
            or _foundation(part, item)
        )
        if reason:
            found.append(f"kerobust/{path}:{item.line}: {reason}")
    return found


def _peer(part: str, item: Import) -> str | None:
    words = item.name.split(".")
    if words[0] != "kerobust" or part == "doctor":
        return None
    if part == "__init__":
        return "`kerobust` itself imports nothing"
    target = words[1] if len(words) > 1 else "__init__"
    # A name that is no part is an attribute of `kerobust` itself (`__version__`).
    if target not in {*ALLOWED, "doctor"} or target == part:
        return None
    if target in ALLOWED[part]:
        return None
    return f"`{part}` may not import `kerobust.{target}`"


def _confined(path: str, item: Import) -> str | None:
    for library, files in CONFINED.items():
        if f"{item.name}.".startswith(f"{library}.") and path not in files:
            return f"`{library}` may be imported only in {', '.join(sorted(files))}"
    return None


def _lazy(item: Import) -> str | None:
    library = item.name.split(".")[0]
    if library in LAZY and item.at_module_level:
        return f"`{library}` must be imported inside the function that needs it"
    return None


def _foundation(part: str, item: Import) -> str | None:
    library = item.name.split(".")[0]
    if part == "config" or (part == "doctor" and item.at_module_level):
        known = STANDARD
    elif part in FOUNDATION:
        known = STANDARD | {"kerobust", "numpy", "tensorflow"}
    else:
        return None
    return None if library in known else f"`{part}` may not import `{library}`"


def _sources() -> dict[str, str]:
    return {
        path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def test_every_file_belongs_to_a_layer():
    parts = {path.split("/")[0].removesuffix(".py") for path in _sources()}

    # A new part needs its line in ALLOWED, which decides who may import it.
    assert parts - {"__init__", "doctor"} <= set(ALLOWED)


def test_imports_go_down_the_layers_only():
    found = [line for item in _sources().items() for line in violations(*item)]

    assert not found, "\n".join(found)


def test_parts_of_one_layer_do_not_import_each_other_in_a_circle():
    edges = {
        (path.split("/")[0].removesuffix(".py"), item.name.split(".")[1])
        for path, source in _sources().items()
        for item in imports(source, "kerobust." + "x." * path.count("/") + "x")
        if item.name.startswith("kerobust.")
    }
    edges = {(first, second) for first, second in edges if first != second}
    remaining = {name for edge in edges for name in edge}

    # Kahn: take away what imports nothing that remains, until nothing can be taken.
    while True:
        importing = {first for first, second in edges if second in remaining}
        if not remaining & importing or remaining <= importing:
            break
        remaining &= importing

    assert not remaining & {first for first, second in edges if second in remaining}


@pytest.mark.parametrize(
    ("path", "source", "reason"),
    [
        ("attacks/base.py", "import kerobust.models", "`attacks` may not import"),
        ("attacks/base.py", "from kerobust import models", "`attacks` may not import"),
        ("attacks/base.py", "from ..models import vit", "`attacks` may not import"),
        ("attacks/base.py", "from .. import models", "`attacks` may not import"),
        (
            "losses/dino.py",
            "def late():\n    from kerobust.attacks import PGD",
            "kerobust/losses/dino.py:2: `losses` may not import `kerobust.attacks`",
        ),
        (
            "training/fit.py",
            "importlib.import_module('kerobust.methods')",
            "`training` may not import `kerobust.methods`",
        ),
        ("tasks/depth.py", "import kerobust.methods", "`tasks` may not import"),
        ("tasks/depth.py", "import kerobust.evaluation", "`tasks` may not import"),
        ("flags.py", "import kerobust.workflows", "`flags` may not import"),
        ("train.py", "import kerobust.methods", "`train` may not import"),
        ("workflows.py", "import kerobust.train", "`workflows` may not import"),
        ("workflows.py", "from kerobust import doctor", "`workflows` may not import"),
        ("__init__.py", "from kerobust import attacks", "imports nothing"),
        (
            "methods/dino.py",
            "def late():\n    import tensorflow_addons as tfa",
            "`tensorflow_addons` may be imported only in",
        ),
        ("data/views.py", "def late():\n    import keras_cv", "only in"),
        ("models/vit.py", "from absl import flags", "`absl.flags` may be"),
        ("methods/dino.py", "def late():\n    import matplotlib.pyplot", "only in"),
        (
            "data/augmentations.py",
            "import keras_cv",
            "`keras_cv` must be imported inside the function",
        ),
        ("types.py", "import scipy", "`types` may not import `scipy`"),
        ("config.py", "import tensorflow as tf", "`config` may not import `tensorflow"),
        ("doctor.py", "import numpy as np", "`doctor` may not import `numpy`"),
    ],
)
def test_a_planted_violation_is_caught(path, source, reason):
    (found,) = violations(path, source)

    assert reason in found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("attacks/base.py", "from kerobust.types import AttackInfo"),
        ("attacks/base.py", "from kerobust.attacks.balls import BALLS"),
        ("attacks/base.py", "from . import balls"),
        ("methods/dino.py", "from kerobust import __version__"),
        ("evaluation/plots.py", "def draw():\n    import matplotlib.pyplot"),
        ("flags.py", "from absl import flags"),
        ("models/bundle.py", "from absl import logging"),
        ("doctor.py", "def check():\n    import tensorflow"),
    ],
)
def test_what_the_layers_allow_passes(path, source):
    assert violations(path, source) == []
