"""The loop of a search, from which examples may leave as soon as they are fooled."""

from collections.abc import Callable

import tensorflow as tf

from kerobust.attacks.candidates import Candidate


def climb(
    step: Callable,
    finish: Callable,
    given,
    moving,
    found,
    steps: int | tf.Tensor,
    leave: bool | tf.Tensor = False,
) -> Candidate:
    """Returns what a search holds after `steps` steps, for every example.

    Args:
        step: (index, given, moving, found) -> (moving, found); index counts from 0.
        finish: (given, moving, found) -> found; once, after the last step.
        given: Nest of tensors with leading B that stay as they are: targets, radii.
        moving: Nest of tensors with leading B that every step replaces.
        found: `Candidate` with values, the best so far. Without `leave` it may be ().
        steps: Number of steps, 0 or more.
        leave: Whether examples with `found.fooled` leave the search, and the batch: the
            others go on as if they had been alone. A bool tensor decides at run time.
    """
    if leave is False:
        _, moving, found = tf.while_loop(
            lambda index, *_: index < steps,
            lambda index, *state: (index + 1, *step(index, given, *state)),
            (0, moving, found),
            parallel_iterations=1,
        )
        return finish(given, moving, found)

    def advance(index, given, moving, found, rows, everyone):
        moving, found = step(index, given, moving, found)
        state = _without_fooled(leave, given, moving, found, rows, everyone)
        return index + 1, *state

    rows = tf.range(tf.shape(found.fooled)[0])
    state = (0, *_without_fooled(leave, given, moving, found, rows, found))
    _, *state, rows, everyone = tf.while_loop(
        lambda index, given, moving, found, rows, _: (
            (index < steps) & (tf.size(rows) > 0)
        ),
        advance,
        state,
        shape_invariants=tf.nest.map_structure(_any_rows, state),
        parallel_iterations=1,
    )

    def last():
        return everyone.replaced(rows, finish(*state))

    return tf.cond(tf.size(rows) > 0, last, lambda: everyone)


def _any_rows(tensor) -> tf.TensorShape:
    if not tf.is_tensor(tensor):
        return tf.TensorShape([])  # The counter.
    return tf.TensorShape([None, *tensor.shape[1:]])


def _without_fooled(leave, given, moving, found, rows, everyone):
    """Returns the state with fooled examples put into `everyone` and left out."""
    stands = ~(found.fooled & leave)
    mine = (given, moving, found, rows)

    def drop():
        standing = tf.where(stands)[:, 0]
        kept = tf.nest.map_structure(lambda each: tf.gather(each, standing), mine)
        return *kept, everyone.replaced(rows, found)

    return tf.cond(tf.reduce_all(stands), lambda: (*mine, everyone), drop)
