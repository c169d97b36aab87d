"""The stage that judges: is what was evaluated good enough to be handed on?"""

import hashlib
import json
import pathlib

from kerobust.batch_state import write_atomically
from kerobust.config import UserError
from kerobust.evaluation.blessing import bless
from kerobust.workflows.contenders import provenance
from kerobust.workflows.preparing import Experiment

BLESSING = "blessing.json"


def validate(experiment: Experiment, folder: pathlib.Path | None = None) -> bool:
    """Judges the first row of the report; writes `blessing.json`, says why.

    Args:
        experiment: Whose run folder holds the evaluation.
        folder: Where the verdict goes; None = the run folder.

    Returns:
        Whether the model is blessed.

    Raises:
        UserError: If there is no evaluation, or no intact one of the baseline.
    """
    config = experiment.config.validate
    found = read_results(experiment.workdir, "--run.workdir")
    if found["about"] != provenance(experiment):
        raise UserError(
            "`--run.workdir` must hold the evaluation of this model on these data. "
            f"Received: workdir={experiment.workdir}, whose report is about others. "
            "Run the stage evaluate first."
        )
    older = None
    if config.baseline is not None:
        older = read_results(pathlib.Path(config.baseline), "--validate.baseline")
    verdict = bless(found, config, older)
    about = {"baseline": config.baseline, "judged": judged(found)}
    text = json.dumps({**verdict, **about}, indent=1)
    write_atomically((folder or experiment.workdir) / BLESSING, text.encode())
    for check in verdict["checks"]:
        word = {True: "yes", False: "NO", None: "not known"}[check["passed"]]
        print(f"{check['name']}: {check['found']}, wanted {check['wanted']}: {word}")
    print("blessed" if verdict["blessed"] else "not blessed", flush=True)
    return verdict["blessed"]


def judged(found: dict) -> str:
    """Returns the digest of an evaluation, which names model and data."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def read_results(workdir: pathlib.Path, flag: str) -> dict:
    """Returns the `results.json` of the first row of a run folder's report.

    Args:
        workdir: Run folder.
        flag: Which flag named it, for the message.

    Raises:
        UserError: If there is no intact one.
    """
    try:
        report = json.loads((workdir / "report.json").read_text("utf-8"))
        name = report["rows"][0]["name"]
        path = results_folder(workdir, name) / "results.json"
        found = json.loads(path.read_text("utf-8"))
        return {**found, "about": dict(found["about"])}
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"`{flag}` must name a run folder with a finished evaluation. Received: "
            f"{flag.split('.')[1]}={workdir} ({error!r}). Run the stage evaluate first."
        ) from error


def results_folder(workdir: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the folder of what was found about one network."""
    return workdir / "evaluate" / name.replace(" ", "_").replace("+", "and")
