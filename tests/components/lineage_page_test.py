"""The page of a pipeline."""

import xml.etree.ElementTree as ElementTree

import pytest

from kerobust.components.lineage_page import graph, write_page
from kerobust.components.local_runner import LocalRunner, NodeResult
from kerobust.components.pipelines import PIPELINES
from tests.components.fakes import PIPELINE, config

pytest.importorskip("ml_metadata")
SVG = "{http://www.w3.org/2000/svg}"


def test_the_page_tells_times_reasons_and_lineage(tmp_path):
    runner = LocalRunner(tmp_path)
    runner.run(PIPELINE, config(seed=1))
    results = runner.run(PIPELINE, config(seed=2))

    path = write_page(tmp_path, PIPELINE, results, runner.store)

    text = path.read_text()
    assert path == tmp_path / "fake.html"
    assert "--perturb.seed=2 (was 1)" in text
    assert "those of execution 1" in text and "reused" in text
    assert f"Blessing {results[1].outputs['blessing'][0].id}: " in text
    assert "<script" not in text and str(results[0].outputs["report"][0].uri) in text


@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_every_node_has_a_box_and_every_input_an_arrow(name):
    pipeline = PIPELINES[name]
    results = [NodeResult(x.name, False, "", 1.25, 1, {}) for x in pipeline.nodes]

    root = ElementTree.fromstring(graph(pipeline, results))

    boxes = {(int(box.get("x")), int(box.get("y"))) for box in root.iter(f"{SVG}rect")}
    names = [each.text for each in root.iter(f"{SVG}tspan")][::2]
    arrows = [each for each in root.iter(f"{SVG}path") if each.get("marker-end")]
    assert len(boxes) == len(pipeline.nodes)
    assert sorted(names) == sorted(node.name for node in pipeline.nodes)
    assert len(arrows) == sum(len(node.inputs) for node in pipeline.nodes)
    width, height = map(int, root.get("viewBox").split()[2:])
    assert all(x + 150 <= width and y + 46 <= height for x, y in boxes)
