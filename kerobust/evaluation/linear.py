"""Multinomial logistic regression on features: a linear probe without a schedule."""

import numpy as np

from kerobust.config import UserError

TOLERANCE = 1e-6  # On the largest absolute entry of the gradient.


def fit_linear(
    features, labels, num_classes: int, l2: float = 1e-3, steps: int = 100
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the kernel and bias of the best linear classifier of `features`.

    Minimises mean cross-entropy + l2 / 2 * |kernel|^2 over standardised features by
    Newton's method with conjugate gradients in float64, until no entry of the gradient
    exceeds `TOLERANCE`: there is nothing to tune or to seed. The standardisation is
    folded into the result, which applies to raw features.

    Args:
        features: float [N, D].
        labels: int [N], in [0, num_classes).
        num_classes: Number of classes, at least 2.
        l2: Weight of the penalty, above 0; the bias is free.
        steps: Most Newton steps; a handful is usual.

    Returns:
        kernel float32 [D, K] and bias float32 [K]: logits = features @ kernel + bias.

    Raises:
        UserError: If an argument is out of range.
        RuntimeError: If `steps` did not suffice.

    References:
        Nocedal & Wright, 2006, "Numerical optimization", algorithm 7.1.
    """
    features = np.asarray(features, np.float64)
    labels = np.asarray(labels, np.int64)
    _check(features, labels, num_classes, l2)
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    # Columns that are constant up to float32 rounding carry no information.
    constant = deviation <= 1e-6 * np.abs(features).max(axis=0)
    deviation = np.where(constant, 1.0, deviation)
    scaled = np.where(constant, 0.0, (features - mean) / deviation)
    loss = _Loss(scaled, labels, num_classes, l2)
    weights = _minimise(loss, steps)
    kernel = weights[:-1] / deviation[:, np.newaxis]
    bias = weights[-1] - mean @ kernel
    return kernel.astype(np.float32), bias.astype(np.float32)


class _Loss:
    """The penalised loss and its derivatives at weights [D + 1, K]; last row = bias."""

    def __init__(self, features, labels, num_classes, l2):
        self.features = np.hstack([features, np.ones([len(features), 1])])
        self.onehot = np.eye(num_classes)[labels]
        self.penalty = np.full([self.features.shape[1], 1], l2)
        self.penalty[-1] = 0.0

    def __call__(self, weights) -> float:
        logits = self.features @ weights
        peak = logits.max(axis=1)
        total = np.log(np.exp(logits - peak[:, np.newaxis]).sum(axis=1)) + peak
        fit = np.mean(total - np.sum(logits * self.onehot, axis=1))
        return float(fit + 0.5 * np.sum(self.penalty * weights**2))

    def gradient(self, weights):
        """Returns the gradient and the class probabilities [N, K] it needed."""
        logits = self.features @ weights
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = powers / powers.sum(axis=1, keepdims=True)
        fit = self.features.T @ (shares - self.onehot) / len(shares)
        return fit + self.penalty * weights, shares

    def curvature(self, shares, direction):
        """Returns the Hessian times `direction`."""
        change = shares * (self.features @ direction)
        change -= shares * change.sum(axis=1, keepdims=True)
        return self.features.T @ change / len(shares) + self.penalty * direction


def _minimise(loss: _Loss, steps: int) -> np.ndarray:
    weights = np.zeros([loss.features.shape[1], loss.onehot.shape[1]])
    for _ in range(steps):
        gradient, shares = loss.gradient(weights)
        if np.abs(gradient).max() <= TOLERANCE:
            return weights
        move = _newton_direction(loss, gradient, shares)
        weights = weights + _step_length(loss, weights, gradient, move) * move
    raise RuntimeError(
        f"`steps` must suffice for a gradient below {TOLERANCE}. Received: "
        f"steps={steps}, gradient={np.abs(gradient).max():.2e}. Raise steps or l2."
    )


def _newton_direction(loss: _Loss, gradient, shares) -> np.ndarray:
    """Solves Hessian @ move = -gradient by conjugate gradients, roughly far away."""
    norm = np.linalg.norm(gradient)
    goal = min(0.1, np.sqrt(norm)) * norm
    move, residual = np.zeros_like(gradient), -gradient
    direction, size = residual, np.sum(residual**2)
    while np.sqrt(size) > goal:
        bent = loss.curvature(shares, direction)
        length = size / np.sum(direction * bent)
        move = move + length * direction
        residual = residual - length * bent
        previous, size = size, np.sum(residual**2)
        direction = residual + size / previous * direction
    return move


def _step_length(loss: _Loss, weights, gradient, move) -> float:
    """Halves the step until it brings a tenth of a thousandth of what it promises."""
    start, slope, length = loss(weights), np.sum(gradient * move), 1.0
    while loss(weights + length * move) > start + 1e-4 * length * slope + 1e-15:
        length /= 2
    return length


def _check(features, labels, num_classes, l2) -> None:
    if features.ndim != 2 or not len(features) or labels.shape != (len(features),):
        raise UserError(
            "`features` must be [N, D] with a label for each row and at least one row. "
            f"Received: features of shape {features.shape}, labels of {labels.shape}."
        )
    if not np.isfinite(features).all():
        raise UserError(
            "`features` must be finite. Received: features with NaN or infinity; the "
            "encoder that made them has diverged."
        )
    if num_classes < 2 or l2 <= 0:
        raise UserError(
            "`num_classes` must be at least 2 and `l2` above 0. "
            f"Received: num_classes={num_classes}, l2={l2}."
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(
            f"`labels` must lie in [0, {num_classes - 1}]. Received: labels from "
            f"{labels.min()} to {labels.max()}."
        )
