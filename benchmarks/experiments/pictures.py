"""Loss curves of a table, and the reconstructions that TensorBoard holds."""

import io
import json
import pathlib

from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks._pages import ROOT
from benchmarks.experiments.running import RUNS
from benchmarks.experiments.tables import Table
from kerobust.batch_state import write_atomically

PICTURES = ROOT / "docs" / "pictures"
# Images of these sets may be shown; those of others stay in the run folders.
_FREE = ("digits",)


def draw(table: Table) -> str:
    """Writes the pictures of seed 0; returns the Markdown that shows them."""
    PICTURES.mkdir(exist_ok=True)
    curves = PICTURES / f"{table.name}_losses.png"
    trainings = {
        " ".join(path.parent.relative_to(RUNS / table.name / "seed-0").parts): path
        for path in sorted((RUNS / table.name / "seed-0").rglob("metrics.jsonl"))
    }
    write_atomically(curves, _curves(trainings))
    shown = [f"Seed 0, training losses.\n\n![losses](pictures/{curves.name})"]
    free = table.name in _FREE
    folder = PICTURES if free else RUNS / table.name
    for path in (RUNS / table.name / "seed-0").glob("*/pretrain/tensorboard"):
        arm = path.parent.parent.name
        place = folder / f"{table.name}_{arm}.png"
        write_atomically(place, _last_picture(path))
        if free:
            shown.append(
                f"Rows of {arm}: clean, adversarial and perturbation (where there is "
                "an attack), masked, reconstruction.\n\n"
                f"![{arm}](pictures/{place.name})"
            )
    if not free:
        shown.append(
            "The licence of the images does not allow to show reconstructions here; "
            f"the command writes them to `{folder.relative_to(ROOT)}/`."
        )
    return "\n\n".join(shown)


def _curves(trainings: dict[str, pathlib.Path]) -> bytes:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panes = dict(
        zip(("pretraining", "fine-tuning"), figure.subplots(1, 2), strict=True)
    )
    for title, pane in panes.items():
        pane.set(title=title, xlabel="step", ylabel="loss")
    for name, path in trainings.items():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows = [row for row in rows if "train/loss" in row]
        pane = panes["pretraining" if name.endswith("pretrain") else "fine-tuning"]
        steps, losses = zip(
            *((row["step"], row["train/loss"]) for row in rows), strict=True
        )
        pane.plot(steps, losses, label=name, linewidth=1)
    for pane in panes.values():
        pane.legend(fontsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, metadata={"Software": None})
    return buffer.getvalue()


def _last_picture(folder: pathlib.Path) -> bytes:
    """Returns the newest reconstruction panel of a pretraining, a PNG."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    newest = events.Tensors("pictures")[-1].tensor_proto
    return newest.string_val[2]  # Width and height stand before the pictures.
