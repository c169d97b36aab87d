"""A killed run, started again with the same command, ends with the same weights."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

pytestmark = pytest.mark.slow  # tests/training/kill_test.py kills in every run.

STEPS = 34  # One epoch of 1,100 images at batch 32; the tests below rely on it.
COMMAND = (
    "--run.checkpoint_steps=2",
    "--run.log_steps=5",
    "--model.width=16",
    "--model.depth=1",
    "--model.heads=2",
    "--mae.decoder_width=16",
    "--mae.decoder_depth=1",
    "--mae.decoder_heads=2",
    "--mimir.mi_batch=32",
    "--pretrain.epochs=1",
    "--pretrain.warmup_epochs=0.2",
    "--pretrain.batch_size=32",
    "--pretrain.augment=crop1",
)


RODINO = (
    "--method=rodino",
    "--rodino.steps=1",
    "--dino.prototypes=12",
    "--dino.hidden=16",
    "--dino.bottleneck=8",
    "--dino.frozen_epochs=0.2",
)


def start(workdir, code=None, more=()) -> subprocess.Popen:
    """Starts `kerobust.train`, or `code` followed by it, in a process of its own."""
    arguments = ["train", f"--run.workdir={workdir}", *COMMAND, *more]
    program = f"{code or ''}\nimport sys\nfrom kerobust import train\n"
    program += f"sys.exit(train.main({arguments!r}))"
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(workdir, more=()) -> str:
    process = start(workdir, more=more)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def result(workdir) -> dict[str, np.ndarray]:
    """Returns all exported weights of a finished run, and its last checkpoint."""
    weights = {}
    for path in sorted(workdir.rglob("*.safetensors")):
        for name, value in load_file(path).items():
            weights[f"{path.relative_to(workdir)}:{name}"] = value
    newest = sorted((workdir / "pretrain" / "checkpoints").glob("step-*"))[-1]
    assert newest.name == f"step-{STEPS:08d}"
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(newest / "checkpoint"))
    for name in reader.get_variable_to_shape_map():
        if "_CHECKPOINTABLE_OBJECT_GRAPH" not in name and "save_counter" not in name:
            weights[name] = reader.get_tensor(name)
    return weights


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        if "attack_seconds" not in name:  # A clock, not a state.
            np.testing.assert_array_equal(value, second[name], err_msg=name)


def kill_at_step(step: int, number: int = signal.SIGKILL) -> str:
    """Returns code that kills its own process after the `step`-th update it makes."""
    return f"""
import os, tensorflow as tf
from kerobust.methods.base import Method
class Killer(tf.keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == {step}: os.kill(os.getpid(), {int(number)})
fit = Method.fit
def killed(self, *arguments, **options):
    options["callbacks"] = [Killer(), *options.get("callbacks", [])]
    return fit(self, *arguments, **options)
Method.fit = killed
"""


KILL_IN_A_WRITE = """
import os, signal
rename, count = os.replace, 0
def killed(source, target, *arguments, **options):
    global count
    if "step-" in os.path.basename(str(target)):
        count += 1
        if count == 2: os.kill(os.getpid(), signal.SIGKILL)
    return rename(source, target, *arguments, **options)
os.replace = os.rename = killed
"""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    finish(workdir)
    return result(workdir)


def survive(workdir, code, expected_code, more=()) -> None:
    process = start(workdir, code, more)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == expected_code, output


def test_a_kill_changes_nothing(tmp_path, uninterrupted):
    survive(tmp_path, kill_at_step(17), -signal.SIGKILL)

    finish(tmp_path)

    assert_same(result(tmp_path), uninterrupted)


def test_a_kill_during_a_checkpoint_write_changes_nothing(tmp_path, uninterrupted):
    survive(tmp_path, KILL_IN_A_WRITE, -signal.SIGKILL)

    finish(tmp_path)

    assert_same(result(tmp_path), uninterrupted)


def test_sigterm_saves_and_stops_with_code_75(tmp_path, uninterrupted):
    survive(tmp_path, kill_at_step(7, signal.SIGTERM), 75)
    saved = {path.name for path in (tmp_path / "pretrain/checkpoints").glob("step-*")}
    assert "step-00000008" in saved

    finish(tmp_path)

    assert_same(result(tmp_path), uninterrupted)


def test_a_kill_changes_nothing_of_teacher_head_and_centre(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(whole, RODINO)
    survive(killed, kill_at_step(17), -signal.SIGKILL, RODINO)

    finish(killed, RODINO)

    found = result(whole)
    assert any("centre" in name for name in found)
    assert_same(result(killed), found)


def test_ten_kills_at_random_steps_change_nothing(tmp_path, uninterrupted):
    generator = random.Random(0)
    for _ in range(10):
        survive(tmp_path, kill_at_step(generator.randrange(1, 4)), -signal.SIGKILL)

    finish(tmp_path)

    assert_same(result(tmp_path), uninterrupted)


def test_kills_at_random_moments_lose_one_interval_at_most(tmp_path, uninterrupted):
    generator = random.Random(1)
    for _ in range(3):
        process = start(tmp_path)
        time.sleep(generator.uniform(4.0, 12.0))
        process.kill()
        process.communicate()

    finish(tmp_path)

    assert_same(result(tmp_path), uninterrupted)
