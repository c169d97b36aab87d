"""What an attack on a representation did, in numbers."""

import numpy as np

from kerobust.evaluation.knn import knn_predict
from kerobust.evaluation.results import share


def drift(clean: dict, attacked: dict, norm: str, epsilon: float) -> dict:
    """Returns one entry "drift" of `Representation`.

    Args:
        clean: "features" [N, D], "labels" and "predictions" int [N].
        attacked: "features" and "predictions" under attack.
        norm, epsilon: Of the attack.
    """
    before, after = (
        np.asarray(arrays["features"], np.float64) for arrays in (clean, attacked)
    )
    cosine = cosine_distances(before, after)
    distance = np.linalg.norm(after - before, axis=1)
    right = [arrays["predictions"] == clean["labels"] for arrays in (clean, attacked)]
    return {
        "norm": norm,
        "epsilon": epsilon,
        "cosine": _summary(cosine),
        "distance": _summary(distance),
        "correct": share(right[0] & right[1]),
        "values": [float(f"{value:.6g}") for value in cosine],
    }


def cosine_distances(first, second) -> np.ndarray:
    """Returns 1 - cosine of rows float64 [N, D], in [0, 2]; exactly 0 for equal rows.

    Half the squared distance of the directions; a row of zeros has none and counts as
    at a right angle to everything but itself.
    """
    directions = [
        rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        for rows in (first, second)
    ]
    lone = np.any(directions[0], axis=1) != np.any(directions[1], axis=1)
    squares = np.sum(np.square(directions[0] - directions[1]), axis=1)
    return np.where(lone, 1.0, 0.5 * squares)


def _summary(values: np.ndarray) -> dict[str, float]:
    median, high = np.quantile(values, [0.5, 0.9])
    return {"mean": float(values.mean()), "median": float(median), "q90": float(high)}


def neighbours(
    bank, labels, clean: dict, attacked: dict, counts, temperature: float
) -> list[dict]:
    """Returns the entries "knn" of `Representation`.

    Args:
        bank: float32 [M, D], features that vote, of images that are not attacked.
        labels: int [M].
        clean: "features" float32 [N, D] and "labels" int [N].
        attacked: (norm, epsilon) -> "features" under attack.
        counts: Numbers of neighbours; what the bank cannot give is cut to its size.
        temperature: See `knn_predict`.
    """
    classes = 1 + int(max(labels.max(), clean["labels"].max()))

    def right(features, k: int) -> np.ndarray:
        predicted = knn_predict(bank, labels, features, k, temperature, classes)
        return predicted == clean["labels"]

    found = []
    for k in sorted({min(k, len(bank)) for k in counts}):
        unharmed = right(clean["features"], k)
        for (norm, epsilon), arrays in attacked.items():
            robust = unharmed & right(arrays["features"], k)
            shares = {"clean": share(unharmed), "robust": share(robust)}
            found.append({"norm": norm, "epsilon": epsilon, "k": k, **shares})
    return found


def normalisation_of(encoder) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and std, float64 [C] or [1], that an encoder applies to images."""
    config = encoder.get_config()
    return np.asarray(config.get("mean", [0.0])), np.asarray(config.get("std", [1.0]))


def normalisation_control(encoder, clean: dict) -> dict:
    """Returns the entry "normalisation" of `Representation`.

    Args:
        encoder: What normalises, or does not.
        clean: "labels", "predictions", and "raw_predictions" of images whose
            normalisation had been undone beforehand, int [N].
    """
    mean, std = normalisation_of(encoder)
    return {
        "inside": bool(mean.any() or (std != 1).any()),
        "with": share(clean["predictions"] == clean["labels"]),
        "without": share(clean["raw_predictions"] == clean["labels"]),
    }
