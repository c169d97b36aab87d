"""`python -m kerobust.train`: runs the stages of an experiment."""

import sys

from kerobust import flags, workflows


def main(argv: list[str]) -> int:
    """Runs the command line `argv`; returns the exit code."""
    about = "Trains a robust encoder: runs the stages --run.stages."
    return flags.run(argv, workflows.run, about)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
