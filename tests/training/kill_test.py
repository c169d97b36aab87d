"""Killed trainings, continued, end with the bits of one that was left alone."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    "campaign", ["short", pytest.param("long", marks=pytest.mark.slow)]
)
def test_kills_and_signals_change_no_bit_of_the_result(tmp_path, campaign):
    command = [sys.executable, "-m", "tests.training.child", campaign, str(tmp_path)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}

    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all equal\n")
