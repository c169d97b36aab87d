"""The moment before the first stage: one run folder, the same run on every worker."""

import contextlib
import json
import pathlib
import secrets
from collections.abc import Iterator

import tensorflow as tf

import kerobust
from kerobust import run_folder
from kerobust.batch_state import path_digest
from kerobust.config import UserError
from kerobust.distribute import workers
from kerobust.experiment import ExperimentConfig
from kerobust.workflows.preparing import Experiment

_TOKEN = ".workers"  # File of the run folder.
# What a machine may have for itself.
_LOCAL = ("data.dir", "data.download", "data.memory_gigabytes", "run.workdir")


@contextlib.contextmanager
def joined(experiment: Experiment) -> Iterator[None]:
    """Holds the run folder and sees that all workers do the same in the same folder.

    Raises:
        UserError: On every worker, if the folder belongs to another experiment or
            another process works in it, the workers have different settings or data,
            or one does not see the folder.
    """
    config, digest, own = experiment.config, experiment.source.digest, workers()
    other = own.differing(lambda: _everything(config, digest))
    if other is not None:
        raise UserError(
            "All workers must be started with the same flags on the same data by the "
            "same version. Received: something else on worker "
            f"{other} than on worker 0. Start them with the same command; only "
            f"TF_CONFIG and {', '.join(f'--{name}' for name in _LOCAL)} may differ."
        )
    with contextlib.ExitStack() as held:

        def hold() -> None:
            held.enter_context(run_folder.claim(config, digest))

        own.by_chief(hold)
        if own.place.count > 1:
            _require_shared(experiment)
        yield


def _everything(config: ExperimentConfig, digest: str) -> str:
    """Returns all that workers must agree on, since they take every step together."""
    start = config.run.init_from
    about = {
        "version": kerobust.__version__,
        "data": digest,
        "start": path_digest(start) if start and pathlib.Path(start).exists() else "",
    }
    flags = {k: v for k, v in config.to_flags().items() if k not in _LOCAL}
    return json.dumps([about, flags], sort_keys=True)


def _require_shared(experiment: Experiment) -> None:
    path, own = experiment.workdir / _TOKEN, workers()
    token = own.agreed(secrets.token_hex())
    own.by_chief(lambda: path.write_text(token))
    seen = path.is_file() and path.read_text() == token
    blind = [i for i, each in enumerate(own.exchange(b"x" * seen)) if not each]
    own.by_chief(path.unlink)
    if blind:
        raise UserError(
            "`--run.workdir` must be one folder that all workers share, on a network "
            f"file system for example. Received: workdir={experiment.workdir}, where "
            f"worker {blind[0]} does not see what the chief writes."
        )


def left_alone(error: tf.errors.OpError) -> UserError:
    """Returns what to say when another worker is gone."""
    return UserError(
        "`TF_CONFIG` names a worker that has ended or cannot be reached, so the others "
        f"cannot go on. Received: {error.message.splitlines()[0][:200]} Nothing that "
        "was saved is lost: the same command on all workers continues."
    )
