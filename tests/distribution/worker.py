"""What `two_workers_test.py` runs as a worker: `python -m ... FOLDER TASK...`."""

import os
import pathlib
import sys

import numpy as np
import tensorflow as tf

from kerobust import distribute, workers


def main(folder: pathlib.Path, task: str, *arguments: str) -> None:
    """Does the task; what comes out goes to `<task>-<worker>.npz` in the folder."""
    own = distribute.start()
    if os.environ.get("DETERMINISTIC"):
        tf.config.experimental.enable_op_determinism()
    tasks = {"update": updates, "attack": attacked, "shuffled": shuffled, "tell": told}
    found = tasks[task](*arguments)
    np.savez(folder / f"{task}-{own.place.index}.npz", **found)


def updates(*names: str) -> dict[str, np.ndarray]:
    from tests.distribution.updates import weights_after_two_steps

    return {
        f"{name}/{index}": array
        for name in names
        for index, array in enumerate(weights_after_two_steps(name))
    }


def attacked(state_dir: str = "") -> dict[str, np.ndarray]:
    from tests.distribution.attacking import found

    return found(state_dir or None)


def shuffled() -> dict[str, np.ndarray]:
    from tests.distribution.attacking import found

    try:
        found(version="custom", seed=distribute.workers().place.index)
    except ValueError as error:
        return {"error": np.array(str(error))}
    return {"error": np.array("nothing was refused")}


def told() -> dict[str, np.ndarray]:
    own = distribute.workers()
    index = own.place.index
    messages = own.exchange(b"\0" * index + f"worker {index}".encode())
    mine = [i for i in range(5) if own.mine(i)]
    workers._CHUNK = 3  # Words: everything below travels in several pieces.
    parts = own.collect([{"x": np.arange(i), "y": np.array(i)} for i in mine])
    return {
        "messages": np.array([each.hex() for each in messages]),
        "agreed": np.array(own.agreed(["of", index])),
        "any": np.array([own.any(index == 1), own.any(index == 7)]),
        "chief": np.array(own.by_chief(lambda: f"from {index}")),
        "error": np.array(refused(own)),
        "sizes": np.array([len(part["x"]) for part in parts]),
        "numbers": np.array([part["y"] for part in parts]),
        "differing": np.array(
            [own.differing(lambda: "x") is None, own.differing(lambda: f"{index}") == 1]
        ),
        "chiefs": own.of_chief({"x": np.full([2], index)})["x"],
        "own": np.array(str(own.own("here"))),
    }


def refused(own) -> str:
    from kerobust.config import UserError

    def refuse():
        raise UserError(f"not by worker {own.place.index}")

    try:
        own.by_chief(refuse)
    except UserError as error:
        return str(error)
    return "nothing was refused"


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), *sys.argv[2:])
