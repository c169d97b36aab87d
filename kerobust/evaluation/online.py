"""Nearest-neighbour accuracy of an encoder while it trains, clean and under attack."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from kerobust.attacks import PGD, AttackConfig, CosineDistance
from kerobust.attacks.objectives import infer
from kerobust.config import UserError
from kerobust.data import Split, evaluation_batches
from kerobust.evaluation.knn import knn_predict
from kerobust.randomness import example_keys, fold_in
from kerobust.types import Tokens


class OnlineKnn:
    """Measures an encoder by weighted kNN; call it whenever a number is wanted.

    The attack turns the features of the queries away from their clean direction and
    knows neither labels nor bank. Every call uses the same random starts.

    Args:
        encoder: Maps images float32 [B, H, W, C] to `Tokens` (features = class token
            and mean patch token side by side) or to features [B, D]; called in
            inference mode.
        bank: Labelled examples that vote.
        queries: Labelled examples that are classified.
        threat: Norm and epsilon of the attack.
        steps: Steps of the attack, at least 1.
        k: Number of neighbours.
        temperature: See `knn_predict`.
        batch_size: Images per batch.

    Raises:
        UserError: If an example of either split has no label.
    """

    def __init__(
        self,
        encoder: Callable,
        bank: Split,
        queries: Split,
        threat: AttackConfig,
        steps: int = 5,
        *,
        k: int = 20,
        temperature: float = 0.07,
        batch_size: int = 128,
    ):
        _check_labelled("bank", bank)
        _check_labelled("queries", queries)
        self.encoder = encoder
        self.bank = bank
        self.queries = queries
        self.k = k
        self.temperature = temperature
        self.batch_size = batch_size
        # At the clean image the gradient is zero: the attack must start elsewhere.
        self.attack = PGD(
            threat.epsilon, norm=threat.norm, steps=steps, random_start=True
        )
        self._compiled = tf.function(self._features)
        self._objective = CosineDistance(self._features)

    def __call__(self, step: int = 0) -> dict[str, float]:
        """Returns {"knn/clean", "knn/robust"}, accuracies in [0, 1].

        Robust counts queries that are right without and under the attack.

        Args:
            step: Ignored; callers that probe at steps pass it.
        """
        del step
        bank, labels = self._bank()
        clean, robust = [], []
        for batch in evaluation_batches(self.queries, self.batch_size):
            valid, truth = batch["valid"].numpy(), batch["labels"].numpy()
            features = self._compiled(batch["images"])
            keys = fold_in(example_keys(0, 0, batch["ids"]), "online knn")
            adversarial = self.attack(
                batch["images"], features, self._objective, keys=keys
            )
            attacked = self._compiled(adversarial)
            right, withstood = (
                knn_predict(bank, labels, item, self.k, self.temperature) == truth
                for item in (features, attacked)
            )
            clean.append(right[valid])
            robust.append((right & withstood)[valid])
        return {
            "knn/clean": float(np.mean(np.concatenate(clean))),
            "knn/robust": float(np.mean(np.concatenate(robust))),
        }

    def _bank(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns features [M, D] and labels [M] of the bank."""
        features, labels = [], []
        for batch in evaluation_batches(self.bank, self.batch_size):
            valid = batch["valid"].numpy()
            features.append(self._compiled(batch["images"]).numpy()[valid])
            labels.append(batch["labels"].numpy()[valid])
        return np.concatenate(features), np.concatenate(labels)

    def _features(self, images: tf.Tensor) -> tf.Tensor:
        """Returns features of length 1, float32 [B, D]."""
        found = infer(self.encoder, images)
        if isinstance(found, Tokens):
            mean = tf.reduce_mean(found.patches, axis=1)
            found = tf.concat([found.cls, mean], axis=1)
        return tf.math.l2_normalize(found, axis=1)


def _check_labelled(name: str, split: Split) -> None:
    missing = int(np.sum(np.asarray(split.labels) < 0))
    if missing or not split.size:
        raise UserError(
            f"`{name}` must hold labelled examples only. Received: {split.size} "
            f"examples, {missing} of them without a label."
        )
