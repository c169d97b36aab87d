"""The page of a pipeline: its graph with times, why things ran, and lineage."""

import html
import pathlib
from collections.abc import Sequence

from kerobust.batch_state import write_atomically
from kerobust.evaluation import page
from kerobust.evaluation.parts import Section

from .local_runner import NodeResult
from .pipelines import Pipeline
from .store import Store
from .trace import lines

_WIDTH, _HEIGHT, _GAP = 150, 46, 60  # Of a box, and between columns, in pixels.
_CACHED, _RUN = "#e6f4e6", "#fdf0d5"


def write_page(
    folder: pathlib.Path,
    pipeline: Pipeline,
    results: Sequence[NodeResult],
    store: Store,
) -> pathlib.Path:
    """Writes `NAME.html` into the folder of the pipelines; returns its path.

    Args:
        folder: Where.
        pipeline: What ran.
        results: What became of every node.
        store: Lineage of what was made.
    """
    last = [each for parts in results[-1].outputs.values() for each in parts]
    trees = ["\n".join(lines(store, artifact)) for artifact in last]
    parts = [
        "<p>Green: reused; yellow: run. Arrows are artifacts.</p>",
        f"<figure>{graph(pipeline, results)}</figure>",
        "<h2>What ran, and why</h2>",
        page.table(_why(results)),
        "<h2>Lineage</h2>",
        *(f"<pre>{html.escape(tree)}</pre>" for tree in trees),
    ]
    path = folder / f"{pipeline.name}.html"
    text = page.document(f"Pipeline {pipeline.name}", parts)
    write_atomically(path, text.encode())
    return path


def graph(pipeline: Pipeline, results: Sequence[NodeResult]) -> str:
    """Returns the graph as SVG: a box per node, in columns, with its time."""
    places = _places(pipeline)
    found = {result.name: result for result in results}
    columns = 1 + max(column for column, _ in places.values())
    rows = 1 + max(row for _, row in places.values())
    width, height = columns * (_WIDTH + _GAP), rows * 2 * _HEIGHT
    shapes = [
        _arrow(places[source.split(".")[0]], places[node.name])
        for node in pipeline.nodes
        for source in node.inputs.values()
    ]
    shapes += [_box(place, found[name]) for name, place in places.items()]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" font-family="sans-serif" font-size="13">'
        '<defs><marker id="end" markerWidth="8" markerHeight="8" refX="7" refY="4" '
        'orient="auto"><path d="M0 0L8 4L0 8z" fill="#777"/></marker></defs>'
        f"{''.join(shapes)}</svg>"
    )


def _places(pipeline: Pipeline) -> dict[str, tuple[int, int]]:
    """Returns name -> (column, row); a node stands right of all that it needs."""
    places: dict[str, tuple[int, int]] = {}
    for node in pipeline.nodes:
        sources = {source.split(".")[0] for source in node.inputs.values()}
        column = 1 + max((places[name][0] for name in sources), default=-1)
        row = sum(1 for other, _ in places.values() if other == column)
        places[node.name] = column, row
    return places


def _corner(place: tuple[int, int]) -> tuple[int, int]:
    column, row = place
    return column * (_WIDTH + _GAP), row * 2 * _HEIGHT + _HEIGHT // 2


def _box(place: tuple[int, int], result: NodeResult) -> str:
    (x, y), middle = _corner(place), _WIDTH // 2
    colour = _CACHED if result.cached else _RUN
    time = "reused" if result.cached else f"{result.seconds:.1f} s"
    return (
        f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" '
        f'fill="{colour}" stroke="#777"/><text text-anchor="middle">'
        f'<tspan x="{x + middle}" y="{y + 19}">{html.escape(result.name)}</tspan>'
        f'<tspan x="{x + middle}" y="{y + 37}" fill="#555">{time}</tspan></text>'
    )


def _arrow(source: tuple[int, int], target: tuple[int, int]) -> str:
    (x, y), (to_x, to_y) = _corner(source), _corner(target)
    x, y, to_y = x + _WIDTH, y + _HEIGHT // 2, to_y + _HEIGHT // 2
    # Arrows over other columns pass above the boxes between.
    lift = 0 if target[0] - source[0] == 1 else _HEIGHT * 3 // 4
    bend = f"C{x + _GAP} {y - lift} {to_x - _GAP} {to_y - lift} {to_x} {to_y}"
    return (
        f'<path d="M{x} {y}{bend}" fill="none" stroke="#777" marker-end="url(#end)"/>'
    )


def _why(results: Sequence[NodeResult]) -> Section:
    headers = ["component", "execution", "seconds", "why", "made"]
    cells = [
        [
            result.name,
            str(result.execution),
            "reused" if result.cached else f"{result.seconds:.1f}",
            result.reason,
            ", ".join(str(x.uri) for parts in result.outputs.values() for x in parts),
        ]
        for result in results
    ]
    return Section("", [], headers, cells)
