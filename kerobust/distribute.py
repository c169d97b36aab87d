"""Devices and workers: the strategies of the process, and how they share rows."""

import functools
from collections.abc import Callable

import tensorflow as tf

from kerobust.config import UserError
from kerobust.workers import Workers, announced

_joined = Workers()


def start(devices: int = 1) -> Workers:
    """Prepares the devices of this process and joins the workers of TF_CONFIG.

    Comes first of all: once TensorFlow runs, neither can be done.

    Args:
        devices: Number of devices per worker.

    Returns:
        The workers of the run, this process alone without TF_CONFIG.

    Raises:
        UserError: If TF_CONFIG or the devices do not fit, or TensorFlow runs already.
    """
    place = announced()
    if place.count == 1:
        ensure_logical_cpus(devices)
    elif workers().place != place:
        global _joined
        _joined = Workers(place, _multi_worker(devices))
    return workers()


def workers() -> Workers:
    """Returns the workers that `start` has joined."""
    return _joined


def strategy(devices: int = 1) -> tf.distribute.Strategy:
    """Returns the strategy of a training, always the same object.

    Args:
        devices: Number of devices of this worker, at least 1.

    Raises:
        UserError: If the machine has fewer devices.
    """
    return workers().strategy or local_strategy(devices)


def local_strategy(devices: int = 1) -> tf.distribute.Strategy:
    """Returns the strategy of this worker's own devices, always the same object.

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


def _multi_worker(devices: int) -> tf.distribute.Strategy:
    """Returns the strategy of all workers; waits until they are there."""
    gpus = tf.config.list_physical_devices("GPU")
    most = len(gpus) or 1
    if devices > most:
        raise UserError(
            f"`--run.devices` must be at most {most}, the devices of this worker: "
            "one of several workers uses its GPUs, or without any its CPU as one "
            f"device. Received: devices={devices} with TF_CONFIG set."
        )
    try:
        if gpus:
            tf.config.set_visible_devices(gpus[:devices], "GPU")
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise UserError(
            "`TF_CONFIG` must be set before TensorFlow starts: call "
            f"kerobust.distribute.start() first of all. Received: {error}"
        ) from error


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


def replica_index() -> int:
    """Returns which of this worker's replicas runs the code that is traced; or 0.

    Operations with side effects run one after the other wherever they are, so what
    only one replica needs to do must not stand in the others' way.
    """
    context = tf.distribute.get_replica_context()
    if context is None or not tf.distribute.has_strategy():
        return 0
    local = len(tf.distribute.get_strategy().extended.worker_devices)
    return int(tf.get_static_value(context.replica_id_in_sync_group)) % local


def sharing_replicas(rows: int | None) -> int:
    """Returns over how many replicas a call on `rows` rows is to be shared out.

    More than one where eager code stands in the scope of a strategy, outside of its
    replicas, whose devices all belong to this process.
    """
    if not tf.executing_eagerly() or not tf.distribute.in_cross_replica_context():
        return 1
    replicas = replica_count()
    local = len(tf.distribute.get_strategy().extended.worker_devices)
    return replicas if replicas == local and (rows or 0) >= replicas else 1


def over_replicas(function: Callable) -> Callable:
    """Returns `function` of nests of tensors [B, ...] with B shared over replicas.

    Args:
        function: Returns a nest of tensors [B, ...]. Runs once per replica of the
            current strategy, on its rows; the results are joined.
    """
    strategy = tf.distribute.get_strategy()

    def own(*arguments):
        context = tf.distribute.get_replica_context()
        index, count = context.replica_id_in_sync_group, context.num_replicas_in_sync

        def part(tensor):
            rows = tf.shape(tensor)[0]
            return tensor[rows * index // count : rows * (index + 1) // count]

        return function(*tf.nest.map_structure(part, arguments))

    def everywhere(*arguments):
        found = strategy.run(own, args=arguments)
        return tf.nest.map_structure(
            lambda each: tf.concat(strategy.experimental_local_results(each), axis=0),
            found,
        )

    return everywhere
