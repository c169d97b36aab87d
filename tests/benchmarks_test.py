"""The benchmark scripts on tiny sizes: what they compute and write, not how fast."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import (
    _measure,
    _steps,
    attack_precision,
    attack_throughput,
    dense,
    dverge_step,
    memory,
    mimir_step,
    scaling,
    ssl_step,
    training_options,
)
from benchmarks._attackers import BOUND, CONTENDERS, HALF, OWN
from benchmarks._networks import NETWORKS, random_images
from kerobust.attacks import AttackConfig
from kerobust.experiment import ExperimentConfig
from kerobust.models.bundle import save_bundle
from tests.methods.tiny import SHAPE, tiny_classifier, tiny_experiment

NEEDED = {
    "CleverHans": "cleverhans",
    "Foolbox": "foolbox",
    "ART TensorFlow": "art",
    "ART NumPy": "art",
}


def flags(folder, **settings):
    settings |= {"output": folder}
    return [text for name in settings for text in (f"--{name}", str(settings[name]))]


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text("utf-8"))


def test_every_contender_runs_once_per_round_among_changing_neighbours():
    calls = []
    contenders = {name: lambda name=name: calls.append(name) for name in "abc"}

    seconds = _measure.interleave(contenders, 3, "test")

    assert "".join(calls) == "abc" + "acb" + "cab"
    assert {name: len(values) for name, values in seconds.items()} == {
        "a": 3,
        "b": 3,
        "c": 3,
    }


def test_a_slow_phase_of_the_machine_cancels_in_the_ratio():
    # The second round is ten times slower for both: twice as long in every round.
    found = _measure.spread(_measure.ratios([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]))

    assert found == {"median": 2.0, "low": 2.0, "high": 2.0}


def test_the_spread_shows_median_and_quartiles():
    assert _measure.show([5.0, 1.0, 3.0, 2.0, 4.0], 1) == "3.0 [2.0, 4.0]"


def test_progress_tells_what_is_left(capsys):
    progress = _measure.Progress("work", 2)

    progress.advance()
    progress.advance()

    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("work: 1/2, ")
    assert last == "work: 2/2, 0 s left"


def test_the_file_says_where_the_numbers_are_from(tmp_path):
    path = _measure.write("name", tmp_path, _measure.machine(), {"rounds": [1.0]})

    content = json.loads(path.read_text("utf-8"))
    assert {"benchmark", "date", "commit", "machine", "arguments"} <= set(content)
    assert content["rounds"] == [1.0]
    assert content["machine"]["versions"]["tensorflow"] == tf.__version__


def test_the_vit_has_the_size_of_a_tiny_one():
    assert round(NETWORKS["vit"]().count_params() / 1e6, 2) == 5.36


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(CONTENDERS) - {BOUND, OWN, HALF}))
def test_a_peer_is_as_strong_and_stays_in_the_ball(name):
    pytest.importorskip(NEEDED[name])
    problem = attack_throughput.problem_for("convnet", 4, steps=3)

    result = attack_throughput.compare(problem, [name], 2, "test")

    assert attack_throughput.complaints(result) == []
    assert set(result["seconds"]) == {BOUND, OWN, name}
    assert set(result["strength"]) == {"nobody", OWN, name}


def test_an_unfair_comparison_is_told():
    usual = {"distance": 0.1, "outside": 0.0, "cross_entropy": 2.0}
    strengths = {
        "nobody": {**usual, "distance": 0.0, "cross_entropy": 1.0},
        "good": usual,
        "far": {**usual, "distance": 0.2},
        "bright": {**usual, "outside": 0.5},
        "weak": {**usual, "cross_entropy": 1.9},
    }

    found = attack_throughput.complaints({"epsilon": 0.1, "strength": strengths})

    # The others raise the loss by 1, the weak one by 0.9: 10 % less, 5 % are allowed.
    assert [text.split()[0] for text in found] == ["far", "bright", "weak"]


def test_attack_throughput_writes_table_and_rounds(tmp_path, capsys, monkeypatch):
    names = (BOUND, OWN)
    few = {name: CONTENDERS[name] for name in names}
    monkeypatch.setattr(attack_throughput, "CONTENDERS", few)
    monkeypatch.setattr(attack_throughput, "PACKAGES", ())

    code = attack_throughput.main(
        flags(tmp_path, networks="convnet", rounds=2, batch=4, steps=2)
    )

    assert code == 0
    assert "| convnet, 2 steps | kerobust " in capsys.readouterr().out
    found = read(tmp_path, "attack_throughput")["networks"]["convnet"]
    assert {name: len(found["seconds"][name]) for name in names} == {BOUND: 2, OWN: 2}
    assert set(found["summary"][OWN]) == {
        "images_per_second",
        "share_of_bound",
        "own_over_this",
    }


def test_the_predicted_ratio_is_the_sum_of_the_passes():
    seconds = {
        "mae": [2.0],
        "mimir": [6.0],
        "update": [2.0],
        "attack": [1.5],
        "dependence": [0.5],
    }

    found = mimir_step.summary({"seconds": seconds})

    # Measured 6 / 2; predicted (2 + 1.5 + 0.5) / 2.
    assert found["measured"] == [3.0]
    assert found["predicted"] == [2.0]
    assert found["excess"] == [1.5]
    assert found["mae_excess"] == [1.0]
    assert found["mimir_excess"] == [1.5]


@pytest.mark.slow
def test_mimir_step_writes_table_and_rounds(tmp_path, capsys, monkeypatch):
    setup = mimir_step.Setup(tiny_experiment(), SHAPE)
    monkeypatch.setattr(mimir_step, "SETUPS", {"tiny": lambda: setup})

    code = mimir_step.main(flags(tmp_path, setups="tiny", rounds=2, repeats=1, batch=4))

    assert code == 0
    assert "| tiny, batch 4 " in capsys.readouterr().out
    found = read(tmp_path, "mimir_step")["setups"]["tiny"]
    assert set(found["seconds"]) == {"mae", "mimir", *mimir_step.PASSES}
    assert all(len(values) == 2 for values in found["seconds"].values())
    assert found["settings"]["model.width"] == "16"


@pytest.mark.slow
def test_ssl_step_writes_table_and_rounds(tmp_path, capsys):
    small = flags(tmp_path, rounds=2, batch=4, width=16, depth=1, steps=2)

    code = ssl_step.main(small)

    assert code == 0
    assert "| fare     |" in capsys.readouterr().out
    found = read(tmp_path, "ssl_step")
    for name in ssl_step.METHODS_TIMED:
        seconds = found[name]["seconds"]
        assert set(seconds) == {"step", *ssl_step.PASSES}
        assert all(len(values) == 2 for values in seconds.values())


@pytest.mark.slow
def test_dverge_step_writes_table_and_rounds(tmp_path, capsys):
    small = flags(tmp_path, rounds=2, batch=4, members=2, steps=2)

    code = dverge_step.main(small)

    assert code == 0
    shown = capsys.readouterr().out
    assert "| conv      |" in shown and "times as long as member after member" in shown
    found = read(tmp_path, "dverge_step")
    assert set(found["conv"]["seconds"]) == {"step", *dverge_step.PASSES}
    assert set(found["stacked"]["seconds"]) == {"in turns", "stacked"}


@pytest.mark.slow
def test_dense_writes_both_tables(tmp_path, capsys):
    size = flags(tmp_path, rounds=2, batch=4, steps=2, width=16, depth=1)

    assert dense.main([*size, "--at_once", "35", "9"]) == 0

    assert "MB above predicting" in capsys.readouterr().out
    found = read(tmp_path, "dense")
    for name in (
        *dense.TASKS,
        dense.EMBED,
        "windows, 35 at once",
        "windows, 9 at once",
        "embedding, windows, 9 at once",
    ):
        assert set(found[name]["seconds"]) == {"attack", "passes"}
    assert set(found["memory"]) == {"SegPGD", "EmbedAttack"}
    assert all(set(each) == {"35", "9"} for each in found["memory"].values())


@pytest.mark.slow
def test_scaling_writes_all_tables(tmp_path):
    size = flags(tmp_path, rounds=2, batch=8, width=16, depth=1, steps=1, members=2)
    only = ["--methods", "deacl", "--paper", "mimir_imagenet"]
    # It sets threads, before TensorFlow starts.
    command = [sys.executable, "-m", "benchmarks.scaling", *size, *only]

    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    shown = done.stdout
    assert (
        "| deacl  |" in shown and "| PGD    |" in shown and "| mimir_imagenet" in shown
    )
    found = read(tmp_path, "scaling")
    assert set(found["deacl"]) == {"one device", "two devices", "in parts"}
    assert set(found["peak"]) == {"1", "2", "4"}


def test_the_estimate_of_scaling_is_the_formula():
    # 1 s of work in tenths beside 2 * 9/10 GB at 20 GB/s.
    found = scaling.efficiency(step=1.0, size=1e9, gpus=10)

    assert found == pytest.approx(0.1 / (0.1 + 2 * 0.9 * 1e9 / scaling.BEYOND))
    assert scaling.efficiency(1.0, 1e9, 1) == 1.0


def test_operations_of_a_layer_are_counted_by_tensorflow():
    dense = tf.keras.Sequential(
        [tf.keras.layers.Flatten(), tf.keras.layers.Dense(5, use_bias=False)]
    )
    dense.build([None, 2, 2, 3])

    assert scaling.forward_operations(dense, (2, 2, 3)) == 2 * 12 * 5


def test_the_work_of_a_step_is_counted_in_passes():
    experiment = tiny_experiment(ensemble={"members": 3}, dverge={"steps": 10})

    found = scaling.work(dataclasses.replace(experiment, method="dverge"))

    assert found == (3 * (1 + 20), 3 * 3 * 2)


def test_stacked_members_take_the_step_of_members_in_turns():
    chosen = dverge_step.options(["--members=2", "--batch=4"])
    batch, method = dverge_step.batch_for(4), dverge_step.method_for("conv", chosen)

    turns, stacked = (run() for run in dverge_step.at_once(method, batch).values())

    moved = np.stack(turns) - batch["images"]
    np.testing.assert_allclose(stacked - batch["images"], moved, rtol=1e-3, atol=1e-6)
    assert np.abs(moved).max() > 1e-5


def test_the_excess_is_the_step_over_the_sum_of_its_passes():
    seconds = {"step": [6.0], "teacher": [0.5], "attack": [3.0], "update": [1.5]}

    assert _steps.excess(seconds, ssl_step.PASSES) == [1.2]


@pytest.mark.slow
def test_training_options_writes_table_and_rounds(tmp_path, capsys, monkeypatch):
    setup = mimir_step.Setup(tiny_experiment(), SHAPE)
    monkeypatch.setattr(training_options, "SETUPS", {"tiny": lambda: setup})
    monkeypatch.setattr(training_options, "STEPS_PER_CALL", (2,))

    code = training_options.main(flags(tmp_path, setups="tiny", rounds=2, steps=2))

    assert code == 0
    assert "| tiny    | 2 steps per call " in capsys.readouterr().out
    found = read(tmp_path, "training_options")["setups"]["tiny"]["seconds"]
    assert set(found) == {"default", "2 steps per call", "jit", "repeated batch"}
    assert all(len(values) == 2 for values in found.values())


@pytest.mark.slow
def test_precision_is_compared_on_the_data_and_threat_of_the_bundle(tmp_path, capsys):
    bundle = tmp_path / "model"
    info = {"flags": ExperimentConfig(attack=AttackConfig(0.02)).to_flags()}
    save_bundle(tiny_classifier(), bundle, info)
    few = flags(tmp_path, images=12, batch=8, steps=2, rounds=2)

    code = attack_precision.main([str(bundle), *few])

    assert code == 0
    assert "| 12 of digits |" in capsys.readouterr().out
    (found,) = read(tmp_path, "attack_precision")["networks"].values()
    assert found["images"] == 12 and set(found["robust"]) == {"float32", "bfloat16"}
    assert 0 <= found["p_value"] <= 1


def test_the_setups_are_the_ones_that_are_claimed():
    vit, digits = mimir_step.vit_setup(), mimir_step.digits_setup()

    encoder = vit.experiment.model.build(vit.image_shape)
    assert (encoder.width, encoder.depth, encoder.heads) == (128, 6, 4)
    assert encoder.grid == (8, 8)
    assert digits.experiment.pretrain.batch_size == 64
    assert digits.experiment.mae.mask_ratio == 0.5


def test_the_slope_ignores_the_calls_before_memory_settles():
    megabytes = [*np.linspace(0, 500, 50), *(500 + 0.25 * np.arange(100))]

    assert memory.slope(megabytes, 50) == pytest.approx(0.25)


@pytest.mark.slow
def test_memory_passes_and_frees_victims(tmp_path):
    few = {"calls": 4, "settled": 1, "batch": 2, "steps": 1, "victim_calls": 2}

    # So few calls say nothing about the slope: only past victims can fail this.
    code = memory.main(flags(tmp_path, **few, limit=1000))

    assert code == 0
    found = read(tmp_path, "memory")["ways"]
    assert list(found) == list(memory.WAYS)
    assert found["built"]["past_victims"] == 2
    assert found["victims"]["past_victims"] == 2
    assert found["victims"]["alive_victims"] == 0
    assert all(len(way["resident"]) == 4 for way in found.values())


def test_new_victims_are_judged_beyond_what_building_them_costs():
    built, victims = {"slope": 0.12}, {"slope": 0.15}

    together = {"built": built, "victims": victims}

    assert memory.excess("victims", together) == pytest.approx(0.03)
    # Without the control nothing may be subtracted, and others never get it.
    assert memory.excess("victims", {"victims": victims}) == 0.15
    assert memory.excess("same", together | {"same": {"slope": 0.2}}) == 0.2


@pytest.mark.slow
def test_memory_fails_above_the_limit(tmp_path, monkeypatch):
    held = iter(range(1000))
    monkeypatch.setattr(memory, "resident", lambda: float(next(held)))

    code = memory.main(
        flags(tmp_path, ways="same", calls=6, settled=2, batch=2, steps=1)
    )

    # One MB more after each call: above the limit of 0.1.
    assert code == 1
    assert read(tmp_path, "memory")["ways"]["same"]["slope"] == pytest.approx(1.0)


def test_random_images_are_images():
    images = random_images(3)

    assert images.shape == [3, 32, 32, 3]
    assert 0 <= tf.reduce_min(images) < tf.reduce_max(images) < 1
