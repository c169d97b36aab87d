"""One package, two names, never both at once; and what it may import."""

import importlib.util
import pathlib
import sys

import pytest

import kerobust.components
from tests.layers_test import imports

FOLDER = pathlib.Path(__file__).parents[2] / "components"


def test_the_installed_package_is_the_folder_of_the_checkout():
    assert pathlib.Path(kerobust.components.__file__).parent == FOLDER


def test_a_second_name_in_one_process_is_refused():
    spec = importlib.util.spec_from_file_location("components", FOLDER / "__init__.py")
    module = importlib.util.module_from_spec(spec)

    with pytest.raises(ImportError, match="`components` must not be imported beside"):
        spec.loader.exec_module(module)
    assert "components" not in sys.modules


def test_ml_metadata_is_imported_by_the_store_alone_and_lazily():
    found = {
        path.name: item.at_module_level
        for path in FOLDER.rglob("*.py")
        for item in imports(path.read_text(), "components")
        if item.name.startswith("ml_metadata")
    }

    assert found == {"store.py": False}


def test_kfp_is_imported_by_its_engine_alone():
    found = {
        path.name
        for path in FOLDER.rglob("*.py")
        for item in imports(path.read_text(), "components")
        if item.name.split(".")[0] == "kfp"
    }

    assert found == {"kfp.py", "kfp_steps.py"}


def test_the_library_does_not_know_its_components():
    sources = (FOLDER.parent / "kerobust").rglob("*.py")

    assert not [path for path in sources if "kerobust.components" in path.read_text()]


def test_executors_are_short():
    for path in FOLDER.glob("*/executor.py"):
        assert len(path.read_text().splitlines()) <= 40, path
