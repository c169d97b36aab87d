"""What is shipped, what it needs and what works with TensorFlow alone."""

import ast
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import textwrap
import zipfile

import pytest
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parents[1]
QUIET = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}


# absl.flags itself is loaded by TensorFlow: what counts is that no module of kerobust
# that uses it was.
ATTACK_ALONE = """
    import sys

    import kerobust
    import tensorflow as tf
    from kerobust.attacks import PGD

    weights = tf.constant([[1.0, 0.0], [-1.0, 0.0]])
    images = tf.fill([2, 1, 1, 2], 0.5)
    attack = PGD(epsilon=0.125, steps=2, random_start=False)
    found = attack(images, tf.zeros([2], tf.int32), lambda x: x[:, 0, 0] @ weights)

    # The loss of label 0 falls with x0 - x1: x0 goes down, x1 goes up, by epsilon.
    assert found.numpy().tolist() == [[[[0.375, 0.625]]]] * 2, found.numpy()
    unwanted = {"keras_cv", "tensorflow_addons", "tensorflow_datasets", "matplotlib"}
    assert not unwanted & set(sys.modules), unwanted & set(sys.modules)
    loaded = {name for name in sys.modules if name.startswith("kerobust.")}
    above = {"flags", "experiment", "workflows", "methods", "training", "models"}
    assert not {name.split(".")[1] for name in loaded} & above, loaded
"""

# Run with the names of the allowed top-level modules as arguments.
IMPORT_ONLY = """
    import sys

    class Guard:
        allowed = {*sys.stdlib_module_names, *sys.argv[1:], "kerobust"}

        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] not in self.allowed:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Guard())
    import kerobust, kerobust.attacks
"""


def _run(*command, **options) -> str:
    result = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        env=QUIET,
        **options,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def _modules_of(distribution: str) -> set[str]:
    """Returns the importable top-level names of a distribution and what it requires."""
    # From the file lists: on Python 3.10 `packages_distributions` misses some.
    provided = {
        _canonical(item.metadata["Name"]): {
            path.parts[0].split(".")[0] for path in item.files or []
        }
        for item in importlib.metadata.distributions()
    }
    found, todo = set(), [_canonical(distribution)]
    while todo:
        name = todo.pop()
        if name in found or name not in provided:
            continue
        found.add(name)
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(_canonical(requirement.name))
    return set().union(*(provided[name] for name in found))


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_attacks_import_with_nothing_but_tensorflow():
    allowed = _modules_of("tensorflow")

    assert "keras_cv" not in allowed
    _run(sys.executable, "-c", textwrap.dedent(IMPORT_ONLY), *sorted(allowed), cwd=ROOT)


def test_the_import_guard_refuses_what_is_not_allowed():
    code = textwrap.dedent(IMPORT_ONLY) + "import tabulate"
    allowed = sorted(_modules_of("tensorflow"))
    command = [sys.executable, "-c", code, *allowed]
    result = subprocess.run(
        command, capture_output=True, text=True, env=QUIET, cwd=ROOT
    )

    assert "No module named 'tabulate'" in result.stderr


def test_an_attack_loads_nothing_else_of_the_package():
    _run(sys.executable, "-c", textwrap.dedent(ATTACK_ALONE), cwd=ROOT)


def test_importing_the_package_imports_nothing_else():
    code = "import sys, kerobust; print('tensorflow' in sys.modules)"

    assert _run(sys.executable, "-c", code, cwd=ROOT) == "False\n"


def test_installed_requirements_agree_with_each_other():
    assert "No broken requirements" in _run(sys.executable, "-m", "pip", "check")


def test_tensorflow_datasets_imports():
    # tensorflow-metadata 1.18 and later break this import; `pip check` does not see it.
    _run(sys.executable, "-W", "ignore", "-c", "import tensorflow_datasets")


def test_the_installed_versions_are_the_pinned_ones():
    # Asked of pip: in this process the libraries vendored by setuptools may be visible.
    listed = _run(sys.executable, "-m", "pip", "list", "--format=freeze").splitlines()
    pairs = [line.split("==") for line in listed if "==" in line]
    installed = {_canonical(name): version for name, version in pairs}
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    wrong = []
    for pin in (Requirement(line) for line in lines if line and line[0] != "#"):
        version = installed.get(_canonical(pin.name))
        applies = pin.marker is None or pin.marker.evaluate()
        if applies and version and not pin.specifier.contains(version):
            wrong.append(f"{pin} (installed: {version})")

    assert wrong == []


def test_every_requirement_is_pinned():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = {
        _canonical(Requirement(line).name) for line in lines if line and line[0] != "#"
    }
    required = set()
    for node in ast.walk(ast.parse((ROOT / "setup.py").read_text("utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "install_requires":
            required |= {*ast.literal_eval(node.value)}
        if isinstance(node, ast.keyword) and node.arg == "extras_require":
            required |= {
                x for extra in ast.literal_eval(node.value).values() for x in extra
            }

    missing = {_canonical(Requirement(text).name) for text in required} - pinned
    assert missing == set()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT)
    return next(folder.glob("kerobust-*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()

    assert {"kerobust/py.typed", "kerobust/data/digits.npz"} <= set(names)
    sources = {
        path.relative_to(ROOT).as_posix() for path in ROOT.glob("kerobust/**/*.py")
    }
    sources |= {
        f"kerobust/{path.relative_to(ROOT).as_posix()}"
        for path in ROOT.glob("components/**/*.py")
    }
    assert sources <= set(names)
    roots = {name.split("/")[0] for name in names}
    assert {root for root in roots if not root.endswith(".dist-info")} == {"kerobust"}
    assert not [name for name in names if name.endswith("_test.py")]


@pytest.mark.slow
def test_an_attack_works_from_the_wheel_beside_tensorflow_alone(wheel, tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    _run(sys.executable, "-m", "venv", tmp_path / "venv")
    pins = ROOT / "constraints.txt"
    _run(python, "-m", "pip", "install", "-q", "-c", pins, "tensorflow")
    _run(python, "-m", "pip", "install", "-q", "--no-deps", wheel)

    _run(python, "-I", "-c", textwrap.dedent(ATTACK_ALONE), cwd=tmp_path)
    listed = _run(python, "-m", "pip", "list", "--format=freeze").lower()
    assert "keras-cv" not in listed
    assert "tensorflow-addons" not in listed
