"""What every test gets: quiet TensorFlow, two logical CPUs, fixed seeds."""

import os
import pathlib
import random

# Read when TensorFlow is imported or starts, so they stand before the import. Workers
# of pytest-xdist share the cores: one thread each keeps them out of each other's way.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")

import numpy as np
import pytest
import tensorflow as tf

from kerobust.distribute import ensure_logical_cpus

ensure_logical_cpus(2)


# Files of few, long tests: begun last, they would keep one worker waiting.
LONG = (
    *("run_test", "planted_controls_test", "two_replicas_test", "methods_test"),
    *("two_workers_test", "workflows_kill_test", "benchmarks_test"),
)


def pytest_collection_modifyitems(items):
    """Puts the files in `LONG` before all others."""
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(autouse=True)
def fixed_start():
    """Starts each test from the same seeds and leaves the global policy as found."""
    random.seed(0)
    np.random.seed(0)
    tf.random.set_seed(0)
    yield
    tf.keras.mixed_precision.set_global_policy("float32")


@pytest.fixture(scope="session")
def data_folder() -> pathlib.Path:
    """Returns the folder named by KEROBUST_DATA; skips the test by name without it."""
    name = os.environ.get("KEROBUST_DATA")
    if not name:
        pytest.skip("KEROBUST_DATA does not name a folder of image data")
    folder = pathlib.Path(name)
    if not folder.is_dir():
        pytest.fail(f"KEROBUST_DATA must name a folder. Received: {name}.")
    return folder
