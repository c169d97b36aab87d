"""The Python in README and docs runs as printed."""

import importlib.util
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
    # They run whole suites.
    pytest.param(
        page, marks=[pytest.mark.slow] * (page.name in ("attacks.md", "tasks.md"))
    )
    for page in sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])
    if "```python" in page.read_text()
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)

    names: dict = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)

    assert blocks and names.keys() - {"__builtins__"}


@pytest.mark.slow
def test_the_example_of_adversarial_training_makes_a_foreign_model_robust():
    path = ROOT / "examples" / "adversarial_training.py"
    specification = importlib.util.spec_from_file_location("example", path)
    example = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(example)

    found = example.main(["--epochs=10", "--count=16"])

    assert found["adversarially trained"] > found["plain"]
