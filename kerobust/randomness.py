"""Counter-based random numbers with one key per example.

Draws depend on the example's key and nothing else: not on its batch mates, the
batch size, the replica that holds it or how often the run was resumed.
`tf.random.stateless_*` takes one seed for a whole tensor and cannot promise that.

References:
    Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3" (Threefry-2x32,
    20 rounds).
"""

import math
import zlib

import tensorflow as tf

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def _rotate_left(word: tf.Tensor, bits: int) -> tf.Tensor:
    left = tf.bitwise.left_shift(word, tf.constant(bits, tf.uint32))
    right = tf.bitwise.right_shift(word, tf.constant(32 - bits, tf.uint32))
    return tf.bitwise.bitwise_or(left, right)


@tf.function(autograph=False, reduce_retracing=True)
def threefry(key0, key1, count0, count1):
    """Returns two random words for each counter under each key.

    Args:
        key0, key1: uint32, broadcast against the counters.
        count0, count1: uint32 of one shape.

    Returns:
        Two uint32 tensors of the broadcast shape.
    """
    parity = tf.bitwise.bitwise_xor(
        tf.bitwise.bitwise_xor(key0, key1), tf.constant(_PARITY, tf.uint32)
    )
    schedule = (key0, key1, parity)
    word0, word1 = count0 + key0, count1 + key1
    for block in range(5):
        for bits in _ROTATIONS[block % 2]:
            word0 = word0 + word1
            word1 = tf.bitwise.bitwise_xor(_rotate_left(word1, bits), word0)
        word0 = word0 + schedule[(block + 1) % 3]
        word1 = word1 + schedule[(block + 2) % 3] + tf.constant(block + 1, tf.uint32)
    return word0, word1


def stream(name: str) -> int:
    """Returns the number under which `fold_in` keeps the draws of one purpose apart."""
    return zlib.crc32(name.encode()) & 0x7FFFFFFF


def example_keys(seed: int, epoch, ids) -> tf.Tensor:
    """Returns one key per example from the run's seed, the epoch and the example ids.

    Args:
        seed: Python int.
        epoch: int scalar.
        ids: int [B], numbers that name the examples for good.

    Returns:
        int32 [B, 2].
    """
    ids = tf.cast(ids, tf.int32)
    root = tf.constant([[seed & 0x7FFFFFFF, (seed >> 31) & 0x7FFFFFFF]], tf.int32)
    epoch_key = fold_in(root, epoch)
    return fold_in(tf.tile(epoch_key, [tf.shape(ids)[0], 1]), ids)


def fold_in(keys: tf.Tensor, data) -> tf.Tensor:
    """Returns new keys that are independent of `keys` and differ for each `data`.

    Args:
        keys: int32 [B, 2].
        data: int scalar or [B]; a Python string is turned into its `stream`.

    Returns:
        int32 [B, 2].
    """
    if isinstance(data, str):
        data = stream(data)
    words = _unsigned(keys)
    count = tf.zeros_like(words[:, 0]) + _unsigned(tf.cast(data, tf.int32))
    first, second = threefry(words[:, 0], words[:, 1], count, tf.zeros_like(count))
    return tf.bitcast(tf.stack([first, second], axis=1), tf.int32)


def uniform(keys: tf.Tensor, shape, low=0.0, high=1.0) -> tf.Tensor:
    """Returns uniform draws in [low, high) for each example.

    Args:
        keys: int32 [B, 2].
        shape: Python ints, the shape of one example's draw.
        low, high: float scalars.

    Returns:
        float32 [B, *shape].
    """
    bits = _bits(keys, shape)
    # 24 bits make every value exact in float32, so 1.0 is never reached.
    fraction = tf.cast(
        tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32
    ) * (2.0**-24)
    return low + fraction * (high - low)


def normal(keys: tf.Tensor, shape) -> tf.Tensor:
    """Returns standard normal draws for each example, float32 [B, *shape]."""
    radius = tf.sqrt(-2.0 * tf.math.log1p(-uniform(fold_in(keys, 1), shape)))
    angle = uniform(fold_in(keys, 2), shape, high=2.0 * 3.141592653589793)
    return radius * tf.cos(angle)


def exponential(keys: tf.Tensor, shape) -> tf.Tensor:
    """Returns draws from the exponential law of rate 1, float32 [B, *shape]."""
    return -tf.math.log1p(-uniform(keys, shape))


def _unsigned(values: tf.Tensor) -> tf.Tensor:
    return tf.bitcast(values, tf.uint32)


def _bits(keys: tf.Tensor, shape) -> tf.Tensor:
    """Returns uint32 [B, *shape]; both words of every block are used."""
    shape = [int(side) for side in shape]
    size = math.prod(shape)
    words = _unsigned(keys)
    count = _unsigned(tf.range((size + 1) // 2, dtype=tf.int32))[tf.newaxis]
    first, second = threefry(words[:, :1], words[:, 1:], count, tf.ones_like(count))
    flat = tf.concat([first, second], axis=1)[:, :size]
    return tf.reshape(flat, [-1, *shape])
