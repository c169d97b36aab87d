"""How strongly two sets of features depend on each other, measured on a batch.

All estimators are called with two matrices whose rows belong together and return a
float32 scalar. They compute in float64 whatever the precision policy, and both inputs
receive gradients.
"""

import tensorflow as tf


class _Dependence:
    """Base: moves to float64, calls `_value`, moves back."""

    def __call__(self, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        """Returns the dependence of `first` [m, d1] and `second` [m, d2], a scalar."""
        value = self._value(tf.cast(first, tf.float64), tf.cast(second, tf.float64))
        return tf.cast(value, tf.float32)

    def _value(self, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        """Returns the dependence of float64 matrices, a float64 scalar."""
        raise NotImplementedError(f"{type(self).__name__} computes nothing.")


class NormalizedHSIC(_Dependence):
    """Normalised HSIC, tr(R1 R2) with R = K (K + c I)^-1, between 0 and m - 1.

    K is the centred Gaussian kernel exp(-D / (2 sigma^2 d)) and c = ridge * m. R is
    computed as I - c (K + c I)^-1 through a Cholesky factor.

    Args:
        sigma: Width of the kernel in units of the root mean square over the d features.
        ridge: Regulariser per row.

    References:
        Fukumizu et al., 2008 (NOCCO); Ma et al., 2020, arXiv:1908.01580; used by Xu et
        al. (MIMIR), arXiv:2312.04960.
    """

    def __init__(self, sigma: float = 5.0, ridge: float = 1e-5):
        self.sigma = sigma
        self.ridge = ridge

    def _value(self, first, second):
        return tf.reduce_sum(self._normalised(first) * self._normalised(second))

    def _normalised(self, features):
        kernel = _centre(_scaled_kernel(features, self.sigma))
        size = tf.shape(kernel)[0]
        # tf.cast(1e-5, float64) would pass through float32 and move the 8th digit.
        ridge = tf.constant(self.ridge, tf.float64) * tf.cast(size, tf.float64)
        identity = tf.eye(size, dtype=tf.float64)
        factor = tf.linalg.cholesky(kernel + ridge * identity)
        return identity - ridge * tf.linalg.cholesky_solve(factor, identity)


class HSIC(_Dependence):
    """The empirical Hilbert-Schmidt independence criterion, tr(K1 H K2 H) / (m - 1)^2.

    Args:
        sigma: As in `NormalizedHSIC`.

    References:
        Gretton et al., 2005, "Measuring statistical dependence with Hilbert-Schmidt
        norms", equation 9.
    """

    def __init__(self, sigma: float = 5.0):
        self.sigma = sigma

    def _value(self, first, second):
        first = _scaled_kernel(first, self.sigma)
        second = _scaled_kernel(second, self.sigma)
        size = tf.cast(tf.shape(first)[0], tf.float64)
        freedom = tf.maximum(size - 1.0, 1.0)  # A single row depends on nothing.
        return tf.reduce_sum(_centre(first) * second) / tf.square(freedom)


class RenyiMutualInformation(_Dependence):
    """Matrix-based Renyi mutual information S(1) + S(2) - S(1, 2), in bits.

    S(A) = log2(sum of eigenvalues^alpha) / (1 - alpha) of the kernel exp(-D / s) over
    its trace; the joint kernel is the elementwise product.

    Args:
        alpha: Order of the entropy, above 0 and not 1.
        width: Kernel width s. "neighbours": mean distance to the ten nearest rows (the
            row itself included); "repo": what the authors' code computes, the mean
            distance of the first ten rows to all rows; or a positive number. Widths
            found from the data receive no gradient.

    Raises:
        ValueError: If `alpha` or `width` is none of these.

    References:
        Sanchez Giraldo et al., 2015, arXiv:1211.2459.

    Differences:
        The code released with MIMIR measures this on clean images and without a
        gradient; here the caller chooses the images and the gradient flows.
    """

    NEIGHBOURS = 10

    def __init__(self, alpha: float = 1.01, width: str | float = "neighbours"):
        if alpha <= 0 or alpha == 1:
            raise ValueError(
                f"`alpha` must be above 0 and not 1. Received: alpha={alpha}."
            )
        if isinstance(width, str) and width not in ("neighbours", "repo"):
            raise ValueError(
                '`width` must be "neighbours", "repo" or a positive number. '
                f"Received: width={width}."
            )
        if not isinstance(width, str) and not width > 0:
            raise ValueError(f"`width` must be positive. Received: width={width}.")
        self.alpha = alpha
        self.width = width

    def _value(self, first, second):
        first, second = self._kernel(first), self._kernel(second)
        parts = self._entropy(first) + self._entropy(second)
        return parts - self._entropy(first * second)

    def _kernel(self, features):
        squared = _squared_distances(features)
        return tf.exp(-squared / self._kernel_width(tf.stop_gradient(squared)))

    def _kernel_width(self, squared):
        if not isinstance(self.width, str):
            return tf.constant(self.width, tf.float64)
        ranked = tf.sort(tf.sqrt(squared), axis=1)
        if self.width == "repo":
            width = tf.reduce_mean(ranked[: self.NEIGHBOURS])
        else:
            width = tf.reduce_mean(ranked[:, : self.NEIGHBOURS])
        return tf.where(width > 0, width, tf.ones_like(width))  # All rows equal.

    def _entropy(self, kernel):
        eigenvalues = tf.linalg.eigvalsh(kernel / tf.linalg.trace(kernel))
        alpha = tf.constant(self.alpha, tf.float64)
        total = tf.reduce_sum(tf.pow(tf.abs(eigenvalues), alpha))
        return (
            tf.math.log(total) / tf.math.log(tf.constant(2.0, tf.float64)) / (1 - alpha)
        )


ESTIMATORS = {"nhsic": NormalizedHSIC, "hsic": HSIC, "renyi": RenyiMutualInformation}


def chunk_mean(estimator, first: tf.Tensor, second: tf.Tensor, chunk: int):
    """Averages an estimator over consecutive chunks of rows.

    Kernel estimators depend on the number of rows; with chunks, neither the batch size
    nor the number of replicas changes the value (when `chunk` divides the local batch).

    Args:
        estimator: Callable (first, second) -> float32 scalar.
        first, second: float [m, d1] and [m, d2].
        chunk: Rows per chunk, at least 2. The remainder is a smaller chunk, dropped if
            it has fewer than two rows; fewer rows than `chunk` are one chunk.

    Returns:
        (mean, skipped), float32 scalars. A chunk with non-finite features counts as 0,
        gets a gradient of exactly 0 and is counted in `skipped`; so does a chunk whose
        value is not finite, which the estimators here never return otherwise.
    """
    static = first.shape[0]
    rows = tf.shape(first)[0] if static is None else static
    count = (rows + chunk - 2) // chunk  # A remainder of 2 rows is enough.

    def add(index, total, skipped):
        part = slice(index * chunk, (index + 1) * chunk)
        value, usable = _guarded(estimator, first[part], second[part])
        return index + 1, total + value, skipped + (1.0 - usable)

    state = (0, tf.constant(0.0), tf.constant(0.0))
    if static is None:
        count = tf.maximum(count, 1)
        state = tf.while_loop(lambda index, *_: index < count, add, state)
    else:
        count = max(count, 1)
        for _ in range(count):
            state = add(*state)
    return state[1] / tf.cast(count, tf.float32), state[2]


def _guarded(estimator, first, second):
    """Returns (value or 0, whether the value was usable as 1.0 or 0.0)."""
    usable = _all_finite(first) & _all_finite(second)
    # Replace the inputs, not the result: the gradient of a discarded NaN is NaN.
    first = tf.where(usable, first, tf.zeros_like(first))
    second = tf.where(usable, second, tf.zeros_like(second))
    value = estimator(first, second)
    usable &= tf.math.is_finite(value)
    return tf.where(usable, value, 0.0), tf.cast(usable, tf.float32)


def _all_finite(values):
    return tf.reduce_all(tf.math.is_finite(values))


def _squared_distances(features):
    """Returns squared Euclidean distances between rows, [m, m], never negative."""
    products = tf.matmul(features, features, transpose_b=True)
    squares = tf.linalg.diag_part(products)
    distances = squares[:, tf.newaxis] - 2.0 * products + squares[tf.newaxis]
    return tf.maximum(distances, 0.0)


def _scaled_kernel(features, sigma: float):
    """Returns exp(-D / (2 sigma^2 d)), [m, m], for features [m, d]."""
    scale = tf.constant(2.0 * sigma**2 * features.shape[-1], tf.float64)
    return tf.exp(-_squared_distances(features) / scale)


def _centre(kernel):
    """Returns H K H with H = I - 1/m, in O(m^2)."""
    rows = tf.reduce_mean(kernel, axis=0, keepdims=True)
    columns = tf.reduce_mean(kernel, axis=1, keepdims=True)
    return kernel - rows - columns + tf.reduce_mean(kernel)
