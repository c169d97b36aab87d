"""Images without labels: pretraining needs none, testing needs all."""

import json

import numpy as np
import pytest

from kerobust import train
from kerobust.data import DataConfig, load
from tests.cli.bad_input_test import TINY, assert_refused, run


@pytest.mark.slow
@pytest.mark.parametrize("labelled", [0, 40])
def test_pretraining_works_with_no_or_few_labels(tmp_path, labelled):
    images, labels = load(DataConfig()).splits["train"].arrays()
    arrays = {"labels": np.where(np.arange(96) < labelled, labels[:96], -1)}
    np.savez(tmp_path / "few.npz", images=images[:96], **(arrays if labelled else {}))
    folder = tmp_path / "run"

    code = train.main(
        ["train", *TINY, "--pretrain.batch_size=16", "--mimir.mi_batch=16"]
        + [f"--data.name=npz:{tmp_path / 'few.npz'}", f"--run.workdir={folder}"]
    )

    assert code == 0 and (folder / "encoder").is_dir()
    rows = (folder / "pretrain" / "metrics.jsonl").read_text().splitlines()
    measured = any("knn/clean" in json.loads(row) for row in rows)
    assert measured == (labelled > 0)


def test_a_test_set_without_labels_is_refused(tmp_path, capsys):
    images, labels = load(DataConfig()).splits["train"].arrays()
    path = tmp_path / "half.npz"
    np.savez(
        path,
        images_train=images[:96],
        labels_train=labels[:96],
        images_test=images[96:128],
    )

    outcome = run(
        tmp_path,
        capsys,
        f"--data.name=npz:{path}",
        "--run.stages=pretrain,finetune,evaluate",
    )

    assert_refused(outcome, "--data.name", "32 of 32 test images without a label")
