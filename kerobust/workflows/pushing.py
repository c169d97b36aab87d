"""The stage that hands a blessed model on: SavedModel, bundle and card, versioned."""

import json
import os
import pathlib
import shutil
from typing import Any

from kerobust.batch_state import write_atomically
from kerobust.config import UserError
from kerobust.models.bundle import load_bundle, read_info, save_bundle
from kerobust.models.card import results_of
from kerobust.models.export import export
from kerobust.workflows.carding import write_card
from kerobust.workflows.contenders import result_bundle
from kerobust.workflows.preparing import Experiment
from kerobust.workflows.validating import BLESSING, judged, read_results

PUSHED = "pushed.json"


def push(
    experiment: Experiment,
    verdicts: pathlib.Path | None = None,
    notes: pathlib.Path | None = None,
) -> pathlib.Path | None:
    """Writes a blessed model as the next version in `--push.dir`.

    `DIR/NAME/VERSION/` holds the SavedModel as TensorFlow Serving wants it, the bundle
    and the model card. It appears whole or not at all, and once for every model: what
    was pushed already is not pushed again.

    Args:
        experiment: Whose run folder holds the evaluation.
        verdicts: Where `blessing.json` is; None = the run folder.
        notes: Where `pushed.json` says what was pushed; None = the run folder.

    Returns:
        The folder of the version; None if the model is not blessed.

    Raises:
        UserError: If the folder cannot be written, or there is nothing to push.
    """
    config, notes = experiment.config.push, notes or experiment.workdir
    blessing = (verdicts or experiment.workdir) / BLESSING
    verdict = _read_json(blessing)
    found = read_results(experiment.workdir, "--run.workdir")
    ours = verdict.get("judged") == judged(found)
    if not (verdict.get("blessed") and ours):
        print("not pushed: this model has no blessing (stage validate)", flush=True)
        return None
    shelf = pathlib.Path(str(config.dir)).expanduser().absolute() / config.name
    path = _before(shelf, verdict["judged"])
    if path is not None:
        print(f"pushed before: {path}", flush=True)
        return _note(notes, path)
    try:
        path = _write(experiment, found, blessing, shelf)
    except OSError as error:
        raise UserError(
            "`--push.dir` must be a folder that can be written. Received: "
            f"dir={config.dir} ({error.strerror}). Choose another folder."
        ) from error
    print(f"pushed: {path}", flush=True)
    return _note(notes, path)


def _write(
    experiment: Experiment, found: dict, verdict: pathlib.Path, shelf: pathlib.Path
) -> pathlib.Path:
    """Returns the folder of the new version."""
    bundle = result_bundle(experiment)
    models, info = load_bundle(bundle), read_info(bundle)
    model = models
    if isinstance(models, dict):
        model = models.get("encoder", next(iter(models.values())))
    shelf.mkdir(parents=True, exist_ok=True)
    fresh = shelf / f".{os.getpid()}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        export(model, fresh, "savedmodel", info)
        save_bundle(models, fresh / "bundle", info)
        shutil.copy(verdict, fresh / BLESSING)
        config, source = experiment.config, experiment.source
        name = source.report.get("examples of", source.name)
        results = results_of(found, name, config.evaluate.split, config.evaluate.seed)
        write_card(
            fresh,
            "savedmodel",
            model,
            info,
            title=config.push.name,
            license=config.push.license,
            results=results,
        )
        path = shelf / str(_next_version(shelf))
        fresh.rename(path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return path


def _next_version(shelf: pathlib.Path) -> int:
    """Returns a number above those of all versions on the shelf, from 1."""
    names = [path.name for path in shelf.iterdir()]
    return 1 + max((int(name) for name in names if name.isdecimal()), default=0)


def _note(notes: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    """Returns a path after writing it down."""
    write_atomically(notes / PUSHED, json.dumps({"path": str(path)}).encode())
    return path


def _before(shelf: pathlib.Path, what: str) -> pathlib.Path | None:
    """Returns the version on the shelf that has the same verdict."""
    for path in sorted(shelf.glob("*/" + BLESSING)):
        if path.parent.name.isdecimal() and _read_json(path).get("judged") == what:
            return path.parent
    return None


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
