"""The run folder: whose it is, with which settings and on which machine it was made."""

import contextlib
import datetime
import hashlib
import json
import os
import pathlib
import platform
import subprocess
import sys
from importlib import metadata
from typing import TextIO

import tensorflow as tf

from kerobust.config import UserError
from kerobust.experiment import ExperimentConfig

if sys.platform != "win32":
    import fcntl

_LOCK = ".lock"  # File of the run folder; says who writes to it.
_PACKAGES = ("kerobust", "tensorflow", "keras", "numpy", "tensorflow-datasets")
# Settings that may change between two starts in one folder: they do not change what
# has been trained. Evaluation keeps its own record of what it evaluated.
_FREE = (
    *("evaluate.", "represent.", "diversity.", "benchmark.", "run."),
    *("perturb.", "validate.", "push."),
    *("pretrain.robust_every", "start.robust_every"),
    *("data.dir", "data.download", "data.memory_gigabytes"),
)
_BOUND = ("run.seed", "run.mixed_precision")


def claim(config: ExperimentConfig, digest: str) -> contextlib.ExitStack:
    """Makes the run folder if needed and writes settings and environment there.

    Args:
        config: The experiment.
        digest: SHA-256 of the data.

    Returns:
        What keeps other processes out until it is closed, or this process ends.

    Raises:
        UserError: If the folder cannot be written, holds another experiment, or
            another process works in it.
    """
    folder = pathlib.Path(config.run.workdir)
    flags = {**config.to_flags(), "data.digest": digest}
    _require_same(folder, flags)
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context((folder / _LOCK).open("a+"))
            _require_free(folder, lock)
            _write(folder / "config.flags", _flag_lines(config))
            about = json.dumps(environment(digest), indent=1)
            _write(folder / "environment.json", about)
        except OSError as error:
            raise UserError(
                f"`--run.workdir` must be a folder that can be written. Received: "
                f"workdir={folder} ({error.strerror}). Choose another folder."
            ) from error
        return held.pop_all()


def _require_free(folder: pathlib.Path, lock: TextIO) -> None:
    """Locks an open file and writes there who did, unless another process has it."""
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        raise UserError(
            "`--run.workdir` must be a folder in which no other process works. "
            f"Received: workdir={folder}, in use by {lock.read().strip()}. Wait until "
            "it has ended, stop it (it saves, and the same command continues), or "
            "choose another folder."
        ) from error
    except OSError:  # A network file system without locks.
        return
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {platform.node()}\n")
    lock.flush()


def identity(config: ExperimentConfig, digest: str) -> str:
    """Returns a digest of all settings that decide what is trained, and of the data.

    Settings at their defaults are left out: a version that has more of them continues
    what an older one began. `claim` sees where a default has changed.
    """
    usual = _defaults()
    chosen = {
        name: text
        for name, text in config.to_flags().items()
        if _is_bound(name) and text != usual[name]
    }
    text = json.dumps({**chosen, "data.digest": digest}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def environment(digest: str) -> dict:
    """Returns what a reader needs to judge where numbers come from."""
    return {
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": " ".join(["python", "-m", _module(), *sys.argv[1:]]),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "git": git_state(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "devices": [item.name for item in tf.config.list_logical_devices()],
        "data_digest": digest,
    }


def _require_same(folder: pathlib.Path, flags: dict[str, str]) -> None:
    path = folder / "environment.json"
    if not (folder / "config.flags").is_file() or not path.is_file():
        return
    lines = (folder / "config.flags").read_text().splitlines()
    there = dict(line[2:].split("=", 1) for line in lines if line.startswith("--"))
    before = {**_defaults(), **there}  # Settings younger than the folder.
    before["data.digest"] = json.loads(path.read_text())["data_digest"]
    changed = [
        f"--{name}={value} (there: {before[name]})"
        for name, value in flags.items()
        if _is_bound(name) and before[name] != value
    ]
    if changed:
        raise UserError(
            f"`--run.workdir` holds another configuration, which is left untouched. "
            f"Received: workdir={folder} with {', '.join(changed[:5])}. Choose another "
            "folder, or give the settings in its config.flags."
        )


def _defaults() -> dict[str, str]:
    return ExperimentConfig().to_flags()


def _is_bound(name: str) -> bool:
    return name in _BOUND or not name.startswith(_FREE)


def _flag_lines(config: ExperimentConfig) -> str:
    lines = [f"--{name}={value}" for name, value in config.to_flags().items()]
    return "\n".join(["# Effective settings of this run folder.", *lines, ""])


def _write(path: pathlib.Path, text: str) -> None:
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def _module() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else pathlib.Path(sys.argv[0]).name


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def git_state() -> str:
    """Returns the checkout's commit, `-dirty` when it has changes, or `unknown`."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    here = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
