"""Devices: the one strategy of the process and what replicas need to know."""

import functools

import tensorflow as tf

from kerobust.config import UserError


def strategy(devices: int = 1) -> tf.distribute.Strategy:
    """Returns the process's strategy for `devices` devices, always the same object.

    Two `MirroredStrategy` objects in one process confuse each other's collectives, so
    the object is kept for the life of the process.

    Args:
        devices: Number of devices, at least 1. GPUs are taken when there are enough of
            them, logical CPUs (see `ensure_logical_cpus`) otherwise.

    Raises:
        UserError: If the machine has fewer devices.
    """
    return tf.distribute.get_strategy() if devices == 1 else _mirrored(devices)


@functools.cache
def _mirrored(devices: int) -> tf.distribute.Strategy:
    for kind in ("GPU", "CPU"):
        names = [f"{kind}:{index}" for index in range(devices)]
        if len(tf.config.list_logical_devices(kind)) >= devices:
            return tf.distribute.MirroredStrategy(names)
    found = len(tf.config.list_logical_devices("CPU"))
    raise UserError(
        f"`--run.devices` asks for more devices than TensorFlow sees. Expected at most "
        f"{found}. Received: run.devices={devices}. Lower it, or start a new process: "
        "logical CPU devices must be made before TensorFlow starts."
    )


def ensure_logical_cpus(count: int) -> None:
    """Splits the CPU into `count` logical devices if TensorFlow has not started yet."""
    if count <= 1 or tf.config.list_physical_devices("GPU"):
        return
    cpu = tf.config.list_physical_devices("CPU")[0]
    current = tf.config.get_logical_device_configuration(cpu) or [None]
    if len(current) >= count:
        return
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * count
        )
    except RuntimeError:
        return  # TensorFlow has started: `strategy` reports what is missing.


def replica_count() -> int:
    """Returns how many replicas the current strategy runs."""
    return tf.distribute.get_strategy().num_replicas_in_sync
