"""Robustness while an encoder trains: measured, and without effect on the training."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from kerobust import train
from kerobust.evaluation import OnlineLinear
from tests.cli.bad_input_test import TINY

pytestmark = pytest.mark.slow

WEIGHTS = "encoder/members/encoder/weights.safetensors"
COMMAND = (
    *TINY,
    "--pretrain.epochs=2",
    "--pretrain.batch_size=64",
    "--mimir.mi_batch=16",
    "--mimir.steps=1",
    "--run.stages=pretrain",
    "--run.checkpoint_steps=5",
    "--attack.epsilon=0.05",
)
MEASURED = ("--pretrain.robust_every=1",)


class InterruptedRunError(Exception):
    """Stands for a power cut."""


def weights(folder, *more):
    assert train.main(["train", *COMMAND, f"--run.workdir={folder}", *more]) == 0
    return load_file(folder / WEIGHTS)


def measured(folder) -> dict[int, list[float]]:
    """Returns the three accuracies by step."""
    rows = (folder / "pretrain" / "metrics.jsonl").read_text().splitlines()
    names = ("linear/clean", "linear/embed", "linear/pgd")
    found = {
        row["step"]: [row.get(name) for name in names] for row in map(json.loads, rows)
    }
    return {step: values for step, values in found.items() if values != [None] * 3}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, weights(folder, *MEASURED)


def test_the_training_is_the_same_bit_for_bit(tmp_path, whole):
    plain = weights(tmp_path)

    assert measured(tmp_path) == {}
    assert plain.keys() == whole[1].keys()
    for name, value in plain.items():
        np.testing.assert_array_equal(whole[1][name], value)


def test_every_epoch_is_measured(whole):
    found = measured(whole[0])

    first, second = found  # Two epochs.
    assert second == 2 * first
    for clean, embed, pgd in found.values():
        assert 1 >= clean >= max(embed, pgd) >= 0


def test_a_run_that_was_cut_off_ends_with_the_same_numbers(
    tmp_path, whole, monkeypatch
):
    call = OnlineLinear.__call__

    def cut_off(self, step):
        if step > min(measured(whole[0])):
            raise InterruptedRunError
        return call(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(OnlineLinear, "__call__", cut_off)
        with pytest.raises(InterruptedRunError):
            weights(tmp_path, *MEASURED)

    resumed = weights(tmp_path, *MEASURED)

    assert measured(tmp_path) == measured(whole[0])
    for name, value in whole[1].items():
        np.testing.assert_array_equal(resumed[name], value)


def test_the_setting_may_change_within_a_run_folder(whole):
    folder, _ = whole

    # Without the setting: it is no part of what the folder was made for.
    assert train.main(["train", *COMMAND, f"--run.workdir={folder}"]) == 0
