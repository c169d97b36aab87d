"""Encoders with batch norm on two replicas."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from kerobust.distribute import strategy


def assert_trained_as_on_one(make: Callable, images, **tolerance) -> None:
    """Two replicas give the tokens and the statistics of one device.

    Plain batch norm would use, and record, the statistics of half the batch.

    Args:
        make: Returns a new encoder.
        images: float32 [B, H, W, C], B even.
        **tolerance: `rtol` and `atol`.
    """
    devices = strategy(2)
    with devices.scope():
        encoder = make()
    single = make()
    single.set_weights(encoder.get_weights())
    halves = devices.experimental_distribute_values_from_function(
        lambda context: tf.constant(
            np.split(images, 2)[context.replica_id_in_sync_group]
        )
    )

    @tf.function
    def run(images):
        return devices.run(lambda part: encoder(part, training=True).cls, (images,))

    found = tf.concat(devices.experimental_local_results(run(halves)), axis=0)

    expected = single(images, training=True).cls
    np.testing.assert_allclose(found, expected, **tolerance)
    for ours, theirs in zip(encoder.weights, single.weights, strict=True):
        for part in devices.experimental_local_results(ours):
            np.testing.assert_allclose(part, theirs, **tolerance)
