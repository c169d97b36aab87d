"""Teachers: networks that guide another one and are not trained by gradients."""

from collections.abc import Sequence

import tensorflow as tf

from kerobust.models.weights import copy_weights, named_weights

Pairs = Sequence[tuple[tf.Variable, tf.Variable]]


def frozen_copy(model: tf.keras.Model, **changes) -> tf.keras.Model:
    """Returns a copy with the same weights whose weights are not trainable.

    Args:
        model: Network whose constructor takes what its `get_config` gives.
        **changes: Settings of the copy that differ, such as `drop_path=0`.
    """
    copy = type(model).from_config({**model.get_config(), **changes})
    copy_weights(model, copy)
    copy.trainable = False
    return copy


def average_pairs(teacher: tf.keras.Model, student: tf.keras.Model) -> Pairs:
    """Returns (average, variable) for every trained variable of the student.

    What is not trained, such as the statistics of batch norm, is left out.
    """
    trained = {id(variable) for variable in student.trainable_variables}
    averages = named_weights(teacher)
    return [
        (averages[name], variable)
        for name, variable in named_weights(student).items()
        if id(variable) in trained
    ]


def statistic_pairs(teacher: tf.keras.Model, student: tf.keras.Model) -> Pairs:
    """Returns (average, variable) for what each replica records by itself.

    These are the statistics of batch norm, which `average_pairs` leaves out.
    """
    averages = named_weights(teacher)
    return [
        (averages[name], variable)
        for name, variable in named_weights(student).items()
        if variable.synchronization == tf.VariableSynchronization.ON_READ
    ]


def move_statistics(pairs: Pairs, share: tf.Tensor) -> None:
    """Does what `move_averages` does for the pairs of `statistic_pairs`."""
    for average, variable in pairs:
        average.assign_add(share * (variable - average))


def move_averages(pairs: Pairs, share: tf.Tensor) -> None:
    """Moves every average by a share of its distance to the variable.

    average <- average + share * (variable - average), on every replica.

    Args:
        pairs: See `average_pairs`.
        share: float32 scalar in [0, 1], 1 - momentum; 0 changes no bit.
    """

    def move(average, variable, share):
        average.assign_add(tf.cast(share, average.dtype) * (variable - average))

    def everywhere(strategy, share):
        for average, variable in pairs:
            strategy.extended.update(average, move, args=(variable, share))

    tf.distribute.get_replica_context().merge_call(everywhere, args=(share,))
