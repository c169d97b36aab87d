"""Tests of the devices: one strategy per process, and honest errors."""

import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.distribute import ensure_logical_cpus, replica_count, strategy

ROOT = pathlib.Path(__file__).parents[1]


def test_one_device_needs_no_mirrors():
    assert not isinstance(strategy(1), tf.distribute.MirroredStrategy)
    assert strategy(1).num_replicas_in_sync == 1
    assert replica_count() == 1


def test_strategy_is_the_same_object_every_time():
    assert strategy(2) is strategy(2)
    assert strategy(2).num_replicas_in_sync == 2


def test_replicas_are_counted_inside_a_step():
    @tf.function
    def counts():
        return strategy(2).run(lambda: tf.constant(replica_count()))

    local = strategy(2).experimental_local_results(counts())

    assert [int(count) for count in local] == [2, 2]


def test_more_devices_than_the_machine_has_are_refused():
    with pytest.raises(UserError) as caught:
        strategy(64)

    text = str(caught.value)
    assert text.startswith("`--run.devices` asks for more devices than TensorFlow sees")
    assert "run.devices=64" in text


def test_splitting_the_cpu_after_the_start_leaves_it_as_it_is():
    before = tf.config.list_logical_devices("CPU")

    ensure_logical_cpus(len(before) + 3)

    assert tf.config.list_logical_devices("CPU") == before


def test_cpu_is_split_before_the_start():
    code = """
import tensorflow as tf
from kerobust.distribute import ensure_logical_cpus, strategy
ensure_logical_cpus(1)
ensure_logical_cpus(3)
ensure_logical_cpus(2)
print(len(tf.config.list_logical_devices("CPU")), strategy(3).num_replicas_in_sync)
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.stdout.strip() == "3 3", done.stderr


def test_nobody_else_makes_a_mirrored_strategy():
    # A second object in one process aborts the collectives of the first: the tests of
    # one worker would then fail by the order in which they run.
    makers = [
        str(path.relative_to(ROOT))
        for folder in ("kerobust", "tests", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "Mirrored" + "Strategy(" in path.read_text()
    ]

    assert makers == ["kerobust/distribute.py"]
