"""Evaluation continues after a kill, and notices results of other evaluations."""

import numpy as np
import pytest

from kerobust.evaluation import evaluate
from tests.evaluation.small import (
    ONE,
    QUICK,
    THREAT,
    assert_same,
    linear_model,
    small_split,
)


@pytest.mark.usefixtures("noise_for_attacks")
def test_a_killed_evaluation_continues_with_identical_results(model, tmp_path):
    reference = evaluate(model, small_split(), THREAT, QUICK)
    lines = []

    def kill(line):
        lines.append(line)
        if len(lines) == 6:  # In the middle of the second of three batches.
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, small_split(), THREAT, QUICK, state_dir=tmp_path, progress=kill)
    again = []
    found = evaluate(
        model, small_split(), THREAT, QUICK, state_dir=tmp_path, progress=again.append
    )

    assert_same(found, reference)
    np.testing.assert_array_equal(
        found.pictures["adversarial"], reference.pictures["adversarial"]
    )
    # Four jobs (three attacks, one more radius) on three batches; six were done. The
    # batches' clean predictions are kept as well.
    assert again[0] == f"continuing with 8 stored batches in {tmp_path}"
    assert len(again) == 1 + 12 - 6
    assert "batch 2 of 3, ETA about " in again[1]
    assert "batch 3 of 3, ETA 0:00" in again[-1]


@pytest.mark.usefixtures("noise_for_attacks")
def test_a_finished_evaluation_is_read_not_repeated(model, tmp_path):
    first = evaluate(model, small_split(), THREAT, QUICK, state_dir=tmp_path)
    lines = []

    second = evaluate(
        model, small_split(), THREAT, QUICK, state_dir=tmp_path, progress=lines.append
    )

    assert first.to_dict() == second.to_dict()  # Seconds included.
    assert len(lines) == 1


@pytest.mark.usefixtures("noise_for_attacks")
def test_another_attack_is_added_to_what_is_there(model, tmp_path):
    evaluate(model, small_split(), THREAT, ONE, state_dir=tmp_path)
    lines = []

    evaluate(
        model, small_split(), THREAT, QUICK, state_dir=tmp_path, progress=lines.append
    )

    assert {line.split()[0] for line in lines[1:]} == {"fgsm", "momentum_pgd"}


@pytest.mark.usefixtures("noise_for_attacks")
@pytest.mark.parametrize(
    "change, message",
    [
        ({"scale": 1.001}, "weights of the model, outputs of the model differ"),
        ({"steps": 4}, "(steps differ)"),
        ({"seed": 1}, "(seed differ)"),
        ({"split": 50}, "examples, labels differ"),
    ],
)
def test_state_of_another_evaluation_is_discarded_and_said(tmp_path, change, message):
    def run(folder, progress=None, scale=1.0, split=60, **settings):
        return evaluate(
            linear_model(scale),
            small_split(split),
            THREAT,
            QUICK.replace(attacks=("fgsm",), **settings),
            state_dir=folder,
            progress=progress,
        )

    run(tmp_path / "shared")
    lines = []
    found = run(tmp_path / "shared", lines.append, **change)

    assert lines[0].startswith("discarding 12 stored batches")
    assert message in lines[0]
    assert_same(found, run(tmp_path / "own", **change))


@pytest.mark.usefixtures("noise_for_attacks")
def test_models_without_weights_are_told_apart_by_their_outputs(model, tmp_path):
    def first(images):
        return model(images, training=False)

    def second(images):
        return 2.0 * model(images, training=False)

    lines = []
    evaluate(first, small_split(), THREAT, QUICK, state_dir=tmp_path)
    evaluate(
        second, small_split(), THREAT, QUICK, state_dir=tmp_path, progress=lines.append
    )

    assert "(outputs of the model differ)" in lines[0]


@pytest.mark.usefixtures("noise_for_attacks")
def test_a_damaged_file_is_made_again(model, tmp_path):
    reference = evaluate(model, small_split(), THREAT, QUICK, state_dir=tmp_path)
    damaged = next(tmp_path.glob("pgd@0.05-000001.npz"))
    damaged.write_bytes(damaged.read_bytes()[:200])

    found = evaluate(model, small_split(), THREAT, QUICK, state_dir=tmp_path)

    assert_same(found, reference)
