"""`python -m kerobust.convert`: brings weights in and out of the library."""

import sys

from kerobust import flags, workflows


def main(argv: list[str]) -> int:
    """Runs the command line `argv`; returns the exit code."""
    about = (
        "Reads the weights --weights of another program, or a bundle of this library, "
        "and writes them to --out as --format says, with a model card. Pickles are "
        "read without being run."
    )
    settings = workflows.ConvertConfig
    return flags.run(argv, workflows.convert, about, settings=settings)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
