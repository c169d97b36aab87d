"""Starts trainings in processes of their own and kills them; see kill_test.py.

TensorFlow is imported once; every training is a fork, made before TensorFlow starts.
"""

import os
import pathlib
import random
import signal
import sys
import time

import tensorflow as tf

from tests.training.small import fit_small, make_small, run_config, state_digest

STEPS = 30


def train(folder, probes=(), slow=False):
    """Trains to the end and leaves the digest of the final state."""
    tf.config.experimental.enable_op_determinism()
    if slow:
        probes = [(1, lambda step: time.sleep(0.02) or {})]
    run = run_config(checkpoint_steps=3)
    method, fitted = fit_small(folder, make_small(STEPS), STEPS, run, probes=probes)
    if fitted.stopped:
        os._exit(75)
    (folder / "digest").write_text(state_digest(method))


def kill_at(step, number=signal.SIGKILL, times=1):
    def probe(now):
        if now == step:
            for _ in range(times):
                os.kill(os.getpid(), number)
                time.sleep(0.2)
        return {}

    return [(1, probe)]


def kill_in_write(call):
    """Makes the `call`-th flush of a file the last thing that this process does."""
    flush, count = os.fsync, [0]

    def fsync(descriptor):
        count[0] += 1
        if count[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(descriptor)

    os.fsync = fsync


def attempt(work, seconds=None) -> int:
    """Runs `work` in a fork, killed after `seconds` if given; returns the exit code."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def finish(folder, reference) -> None:
    assert attempt(lambda: train(folder)) == 0
    assert (folder / "digest").read_text() == (reference / "digest").read_text()


def short(root) -> None:
    """A kill between two checkpoints, one inside a write, and SIGTERM."""
    folder = root / "killed"
    assert attempt(lambda: train(folder, kill_at(8))) == -signal.SIGKILL

    def die_writing():
        kill_in_write(9)  # six flushes for step 9, so inside the write of step 12
        train(folder)

    assert attempt(die_writing) == -signal.SIGKILL
    left = {path.name for path in (folder / "checkpoints").iterdir()}
    assert ".partial-step-00000012" in left, left
    # The signal comes between steps 16 and 17: there is no step to finish.
    assert attempt(lambda: train(folder, kill_at(16, signal.SIGTERM))) == 75
    assert (folder / "checkpoints" / "step-00000016").exists()
    again = kill_at(20, signal.SIGINT, times=2)
    assert attempt(lambda: train(folder, again)) == 128 + signal.SIGINT
    finish(folder, root / "reference")


def long(root) -> None:
    """Kills at random moments, among them many during writes."""
    generator = random.Random(0)
    for index in range(4):
        folder = root / f"random-{index}"
        for _ in range(5):
            moment = generator.uniform(0.5, 4.0)
            attempt(lambda at=folder: train(at, slow=True), seconds=moment)
        finish(folder, root / "reference")
    for call in range(1, 13):
        folder = root / f"write-{call}"

        def die_writing(at=folder, number=call):
            kill_in_write(number)
            train(at)

        assert attempt(die_writing) == -signal.SIGKILL
        finish(folder, root / "reference")


if __name__ == "__main__":
    work_root = pathlib.Path(sys.argv[2])
    assert attempt(lambda: train(work_root / "reference")) == 0
    {"short": short, "long": long}[sys.argv[1]](work_root)
    print("all equal")
