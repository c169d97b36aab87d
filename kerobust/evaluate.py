"""`python -m kerobust.evaluate`: attacks a trained classifier and writes a report."""

import sys

from kerobust import flags, workflows

DEFAULTS = {
    "run.workdir": "runs/evaluate",
    "run.stages": ("evaluate",),
}


def main(argv: list[str]) -> int:
    """Runs the command line `argv`; returns the exit code."""
    about = "Attacks the classifier bundle --run.init_from and writes a report."
    return flags.run(argv, workflows.run, about, DEFAULTS)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
