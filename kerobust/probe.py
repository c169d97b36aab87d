"""`python -m kerobust.probe`: trains and tests a head on a frozen encoder."""

import sys

from kerobust import flags, workflows

DEFAULTS = {
    "run.workdir": "runs/probe",
    "run.stages": ("finetune", "evaluate"),
    "finetune.encoder": "frozen",
    "finetune.attack": "natural",
    "finetune.label_smoothing": 0.0,
}


def main(argv: list[str]) -> int:
    """Runs the command line `argv`; returns the exit code."""
    about = "Trains a head on the encoder bundle --run.init_from and tests it."
    return flags.run(argv, workflows.run, about, DEFAULTS)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
