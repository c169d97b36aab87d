"""Batches: what training and evaluation read from a split.

The order of training images and everything random about them is a function of the seed
and the step, so a run that was interrupted goes on with exactly the batches that it
would have seen.
"""

from collections.abc import Callable

import tensorflow as tf

from kerobust.config import UserError
from kerobust.data.augmentations import identity
from kerobust.data.splits import Split
from kerobust.randomness import example_keys, fold_in

# Nothing here needs AutoGraph, whose conversion takes longer than the tracing.
_plain = tf.autograph.experimental.do_not_convert


def training_batches(
    split: Split,
    *,
    batch_size: int,
    steps: int,
    start_step: int = 0,
    seed: int = 0,
    augment: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = identity,
    views: Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]] | None = None,
    partners: bool = False,
    shares: tuple[range, int] = (range(1), 1),
) -> tf.data.Dataset:
    """Returns the batches of steps `start_step` to `steps - 1`.

    Each epoch visits every image at most once (the last, incomplete batch is dropped)
    in an order of its own. Batch s depends on `seed` and s only. Under a distribution
    strategy this is the global batch; keys travel with their example.

    Args:
        split: Examples, at least `batch_size` of them.
        batch_size: Examples per step, over all replicas.
        steps: Number of steps of the whole run.
        start_step: First step to give.
        seed: Of order and keys, at least 0.
        augment: (images float32 [B, H, W, 3], keys int32 [B, 2]) -> images; traced
            without AutoGraph.
        views: (images before `augment`, keys) -> further entries of the batch, tensors
            whose first dimension is B; None = none.
        partners: Whether each batch has a second one beside it, from an order and
            with augmentations of its own, as "partners" float32 [B, H, W, 3].
        shares: (own, count): every batch is cut into `count` shares of consecutive
            rows, and those whose numbers are in `own` are given, one after the other;
            nothing is read for the others. See `Workers.shares`.

    Returns:
        Dataset of {"images": float32 [B, H, W, 3] in [0, 1], "labels": int32 [B],
        "ids": int32 [B], "keys": int32 [B, 2] (one per example and epoch)}.

    Raises:
        UserError: If the split is smaller than one batch.
    """
    if not 1 <= batch_size <= split.size:
        raise UserError(
            f"`batch_size` must be at least 1 and at most the number of training "
            f"images, {split.size}. Received: batch_size={batch_size}."
        )
    words = ("order", "order of partners") if partners else ("order",)
    requests = _positions(split, batch_size, (start_step, steps), seed, words, shares)
    return _pipeline(requests, _training_loader(split, seed, augment, views))


def _positions(split, batch_size: int, span, seed: int, words, shares):
    """Returns what to read: (epoch, positions int32 [orders, rows]) of every share.

    Args:
        split: Examples.
        batch_size: Of all shares together.
        span: First step to give, and the one after the last.
        seed: Of the orders.
        words: One per order.
        shares: See `training_batches`.
    """
    (own, count), (first, last) = shares, span
    per_epoch, rows = split.size // batch_size, batch_size // count
    first_epoch = first // per_epoch
    ids = _on_cpu(split.ids)

    @_plain
    def of_epoch(epoch):
        keys = example_keys(seed, epoch, ids)
        orders = []
        for word in words:
            order = tf.bitcast(fold_in(keys, word), tf.int64)
            order = tf.argsort(order, stable=True)[: per_epoch * batch_size]
            orders.append(tf.reshape(order, [per_epoch, count, 1, rows]))
        positions = tf.concat(orders, axis=2)[:, own.start : own.stop]
        positions = tf.reshape(positions, [-1, len(words), rows])
        positions = tf.data.Dataset.from_tensor_slices(positions)
        return positions.map(lambda batch: (epoch, batch))

    # Steps before the first are skipped as positions, before any image is read.
    epochs = tf.data.Dataset.range(first_epoch, -(-last // per_epoch))
    requests = epochs.flat_map(of_epoch)
    requests = requests.skip((first - first_epoch * per_epoch) * len(own))
    return requests.take(max(0, last - first) * len(own))


def _training_loader(split: Split, seed: int, augment, views) -> Callable:
    ids, labels = _on_cpu(split.ids), _on_cpu(split.labels)

    def load(epoch, positions):
        positions, *others = tf.unstack(positions)
        batch_ids = tf.gather(ids, positions)
        keys = example_keys(seed, epoch, batch_ids)
        originals = split.fetch(positions)
        images = augment(originals, keys)
        more = views(originals, keys) if views is not None else {}
        more["images"] = images
        for other in others:
            other_keys = example_keys(seed, epoch, tf.gather(ids, other))
            other_keys = fold_in(other_keys, "partner")
            more["partners"] = augment(split.fetch(other), other_keys)
        rows = positions.shape[0]
        shaped = {
            name: tf.ensure_shape(value, [rows, *value.shape[1:]])
            for name, value in more.items()
        }
        return {
            **shaped,
            "labels": tf.gather(labels, positions),
            "ids": batch_ids,
            "keys": keys,
        }

    return load


def evaluation_batches(
    split: Split, batch_size: int, annotations: tuple[str, ...] = ()
) -> tf.data.Dataset:
    """Returns every example once, in the split's order, in batches of one size.

    Args:
        split: Examples, at least one.
        batch_size: B.
        annotations: Kinds that the batches hold too: "masks" int32 [B, H, W], "depths"
            float32 [B, H, W].

    Returns:
        Dataset of {"images": float32 [B, H, W, 3] in [0, 1], "labels": int32 [B],
        "ids": int32 [B], "valid": bool [B]}; the last batch is filled up with repeats
        of the last example, whose `valid` is False.

    Raises:
        UserError: If the split is empty or `batch_size` below 1.
    """
    if split.size == 0 or batch_size < 1:
        raise UserError(
            "`batch_size` must be at least 1 and the split must hold an image. "
            f"Received: batch_size={batch_size}, {split.size} images."
        )
    ids, labels = _on_cpu(split.ids), _on_cpu(split.labels)

    def load(start):
        numbers = tf.cast(start, tf.int32) + tf.range(batch_size)
        positions = tf.minimum(numbers, split.size - 1)
        return {
            **split.read(positions, annotations),
            "labels": tf.gather(labels, positions),
            "ids": tf.gather(ids, positions),
            "valid": numbers < split.size,
        }

    starts = tf.data.Dataset.range(0, split.size, batch_size)
    return _pipeline(starts, load)


def _on_cpu(values) -> tf.Tensor:
    with tf.device("CPU:0"):
        return tf.constant(values, tf.int32)


def _pipeline(requests: tf.data.Dataset, load: Callable) -> tf.data.Dataset:
    """Returns the batches that `load` makes of the requests, loaded ahead of time."""
    options = tf.data.Options()
    options.deterministic = True
    batches = requests.map(_plain(load), tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(2).with_options(options)
