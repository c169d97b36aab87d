"""Weighted nearest-neighbour classification of features."""

import numpy as np
import tensorflow as tf

from kerobust.config import UserError

_CHUNK = 1024  # Queries per similarity matrix.


def knn_predict(
    bank,
    bank_labels,
    queries,
    k: int = 20,
    temperature: float = 0.07,
    num_classes: int | None = None,
) -> np.ndarray:
    """Returns the class with most weight among the nearest neighbours of each query.

    A neighbour at cosine similarity c votes with weight exp(c / temperature); a tie
    goes to the class with the lower number.

    Args:
        bank: float [M, D], features of labelled examples; norms do not matter.
        bank_labels: int [M], in [0, num_classes).
        queries: float [Q, D].
        k: Number of neighbours, at least 1; a smaller bank votes as a whole.
        temperature: Positive; lower = closer neighbours count more.
        num_classes: Number of classes; None = highest label + 1.

    Returns:
        int32 [Q].

    Raises:
        UserError: If an argument is out of range.

    References:
        Wu et al., 2018, arXiv:1805.01978, section 3.4; Caron et al., 2021,
        arXiv:2104.14294 (k = 20, temperature 0.07).
    """
    bank = np.asarray(bank, np.float32)
    labels = np.asarray(bank_labels, np.int32)
    if num_classes is None:
        num_classes = int(labels.max(initial=0)) + 1
    _check(bank, labels, k, temperature, num_classes)
    directions = tf.math.l2_normalize(bank, axis=1)
    votes = tf.one_hot(labels, num_classes)
    queries = np.asarray(queries, np.float32)
    starts = range(0, len(queries), _CHUNK)
    parts = [
        _vote(directions, votes, queries[start : start + _CHUNK], k, temperature)
        for start in starts
    ]
    return np.concatenate(parts) if parts else np.zeros([0], np.int32)


def knn_votes(
    directions, votes, queries, k: int, temperature: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the nearest neighbours of queries and the weight of each class.

    Args:
        directions: float32 [M, D], rows of length 1.
        votes: float32 [M, K], the class of each row, one-hot.
        queries: float32 [Q, D]; norms do not matter.
        k: Number of neighbours; a smaller bank votes as a whole.
        temperature: See `knn_predict`.

    Returns:
        int32 [Q, k] rows of the bank, nearest first, and float32 [Q, K] weights, in
        units of the weight of the nearest.
    """
    queries = tf.math.l2_normalize(queries, axis=1)
    similarity = tf.matmul(queries, directions, transpose_b=True)
    nearest, index = tf.math.top_k(similarity, min(k, len(directions)))
    # Only ratios of weights matter: the nearest gets 1, which cannot overflow.
    weights = tf.exp((nearest - nearest[:, :1]) / temperature)
    return index, tf.einsum("qk,qkc->qc", weights, tf.gather(votes, index))


def _vote(directions, votes, queries, k, temperature) -> np.ndarray:
    _, scores = knn_votes(directions, votes, queries, k, temperature)
    return tf.argmax(scores, axis=1, output_type=tf.int32).numpy()


def _check(bank, labels, k, temperature, num_classes) -> None:
    if bank.ndim != 2 or not len(bank) or labels.shape != (len(bank),):
        raise UserError(
            "`bank` must be [M, D] with a label for each of its rows and at least one "
            f"row. Received: bank of shape {bank.shape}, labels of {labels.shape}."
        )
    if k < 1 or temperature <= 0:
        raise UserError(
            "`k` must be at least 1 and `temperature` above 0. "
            f"Received: k={k}, temperature={temperature}."
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(
            f"`bank_labels` must lie in [0, {num_classes - 1}]; leave unlabelled "
            f"examples (-1) out of the bank. Received: labels from {labels.min()} to "
            f"{labels.max()}."
        )
