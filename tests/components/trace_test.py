"""The tree of an artifact."""

import pytest

from kerobust.components import trace
from kerobust.components.local_runner import LocalRunner
from kerobust.flags import USER_ERROR
from tests.components.fakes import PIPELINE, config

pytest.importorskip("ml_metadata")


@pytest.fixture(scope="module")
def blessing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    LocalRunner(folder).run(PIPELINE, config(steps=3))
    results = LocalRunner(folder).run(PIPELINE, config(steps=4))
    return results[1].outputs["blessing"][0]


def test_a_tree_names_digest_flags_code_and_parents(blessing, capsys):
    assert trace.main(["trace", str(blessing.uri)]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"Blessing {blessing.id}: {blessing.uri} (")
    assert blessing.properties["digest"][:12] in lines[0]
    assert "of validate, pipeline fake, code " in lines[1]
    assert lines[2] == "  flags: defaults"
    assert lines[3] == "  report:" and lines[4].startswith("    RobustnessReport")
    assert "      flags: --perturb.steps=4" in lines
    assert lines.count("  baseline:") == 1
    assert "      flags: --perturb.steps=3" in lines


def test_a_file_of_an_artifact_stands_for_it(blessing):
    _, found = trace.find(str(blessing.uri / "blessing.json"))

    assert found == blessing


def test_what_was_told_already_is_only_named(blessing):
    store, _ = trace.find(str(blessing.uri))

    assert list(trace.lines(store, blessing, seen={blessing.id})) == [
        f"Blessing {blessing.id}, see above"
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "`ARTIFACT` must be the only argument"),
        (["--help"], "`ARTIFACT` must be the only argument"),
        (["/"], "no folder above it holds metadata.sqlite"),
    ],
)
def test_a_wrong_argument_is_named(capsys, arguments, words):
    assert trace.main(["trace", *arguments]) == USER_ERROR
    assert words in capsys.readouterr().err


def test_a_folder_that_nothing_made_is_named(blessing, capsys):
    path = blessing.uri.parents[2] / "validate"

    assert trace.main(["trace", str(path)]) == USER_ERROR
    assert "metadata.sqlite does not know" in capsys.readouterr().err
