"""`python -m components.trace ARTIFACT`: what an artifact was made from, as a tree."""

import pathlib
import sys
from collections.abc import Iterator

from kerobust import flags
from kerobust.config import UserError
from kerobust.experiment import ExperimentConfig

from .artifacts import Artifact
from .store import DATABASE, Store


def lines(
    store: Store, artifact: Artifact, indent: str = "", seen: set[int] | None = None
) -> Iterator[str]:
    """Yields the tree of an artifact: itself, how it was made, and from what.

    Args:
        store: Its lineage.
        artifact: A stored artifact.
        indent: What every line begins with.
        seen: Numbers of artifacts that were told already; those are only named.
    """
    seen = set() if seen is None else seen
    name, digest = f"{artifact.TYPE_NAME} {artifact.id}", artifact.properties["digest"]
    if artifact.id in seen:
        yield f"{indent}{name}, see above"
        return
    seen.add(artifact.id)
    yield f"{indent}{name}: {artifact.uri} ({digest[:12]})"
    made = store.producer(artifact)
    if made is None:
        return
    number, key, pipeline, inputs = made
    where = f"execution {number} of {key.component}, pipeline {pipeline}"
    yield f"{indent}  made by {where}, code {key.code[:12]}"
    usual = ExperimentConfig().to_flags()
    chosen = {k: v for k, v in key.parameters.items() if v != usual.get(k)}
    yield f"{indent}  flags: " + (
        " ".join(f"--{flag}={text}" for flag, text in chosen.items()) or "defaults"
    )
    for part, artifacts in inputs.items():
        for each in artifacts:
            yield f"{indent}  {part}:"
            yield from lines(store, each, indent + "    ", seen)


def find(path: str) -> tuple[Store, Artifact]:
    """Returns the store above a path, and the artifact in or around that path.

    Raises:
        UserError: If there is no store or no such artifact.
    """
    place = pathlib.Path(path).absolute()
    for folder in place.parents:
        if (folder / DATABASE).is_file():
            break
    else:
        raise UserError(
            "`ARTIFACT` must lie in the folder of a pipeline. Received: "
            f"ARTIFACT={path}, and no folder above it holds {DATABASE}. Name a folder "
            "below --pipeline.root."
        )
    store = Store(folder / DATABASE)
    for artifact in reversed(store.artifacts()):
        if artifact.uri == place or artifact.uri in place.parents:
            return store, artifact
    raise UserError(
        "`ARTIFACT` must name what a finished execution made. Received: "
        f"ARTIFACT={path}, which {folder / DATABASE} does not know. Run the pipeline "
        "to its end, or name another folder."
    )


def main(argv: list[str]) -> int:
    """Runs the command line `argv`; returns the exit code."""
    try:
        if len(argv) != 2 or argv[1].startswith("-"):
            raise UserError(
                "`ARTIFACT` must be the only argument: a folder that a pipeline made. "
                f"Received: {' '.join(argv[1:]) or 'nothing'}. Name one of them."
            )
        print("\n".join(lines(*find(argv[1]))))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return flags.USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
