"""The moment before the first stage: one run folder, the same run on every worker."""

import secrets

import tensorflow as tf

from kerobust import run_folder
from kerobust.config import UserError
from kerobust.distribute import workers
from kerobust.workflows.preparing import Experiment

_TOKEN = ".workers"  # File of the run folder.


def join(experiment: Experiment) -> None:
    """Claims the run folder and sees that all workers do the same in the same folder.

    Raises:
        UserError: On every worker, if the folder belongs to another experiment, the
            workers have different settings or data, or one does not see the folder.
    """
    config, digest, own = experiment.config, experiment.source.digest, workers()
    own.by_chief(lambda: str(run_folder.claim(config, digest)))
    identities = own.exchange(run_folder.identity(config, digest).encode())
    others = [i for i, each in enumerate(identities) if each != identities[0]]
    if others:
        raise UserError(
            "All workers must be started with the same flags on the same data. "
            f"Received: other settings or data on worker {others[0]} than on worker 0. "
            "Start them with the same command; only TF_CONFIG may differ."
        )
    if own.place.count > 1:
        _require_shared(experiment)


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
