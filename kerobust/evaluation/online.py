"""Accuracy of an encoder while it trains, clean and under attack."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from kerobust.attacks import (
    PGD,
    AttackConfig,
    CosineDistance,
    CrossEntropy,
    EmbedAttack,
    TokenDistance,
)
from kerobust.attacks.objectives import infer
from kerobust.config import UserError
from kerobust.data import Split, evaluation_batches
from kerobust.evaluation.knn import knn_predict
from kerobust.evaluation.probes import linear_probe
from kerobust.models.heads import Classifier, ClassifierHead
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


class OnlineLinear:
    """Measures an encoder by the best linear head; call it whenever a number is wanted.

    Every call fits the head anew, uses the same images and random starts, and changes
    nothing of the encoder. Attacks are compiled once.

    Args:
        encoder: Maps images float32 [B, H, W, C] to `Tokens`; called in inference mode.
        labelled: Examples that the head is fitted on.
        queries: Labelled examples that are classified and attacked.
        num_classes: Number of classes.
        threat: Norm and epsilon of the attacks.
        steps: Steps of either attack, at least 1.
        features: What the head reads, a pooling of `ClassifierHead`.
        batch_size: Images per batch.

    Raises:
        UserError: If an example of either split has no label.

    References:
        Kowalczuk et al., 2024, arXiv:2407.12588, figure 2 (robustness per epoch).
    """

    def __init__(
        self,
        encoder: tf.keras.Model,
        labelled: Split,
        queries: Split,
        num_classes: int,
        threat: AttackConfig,
        *,
        steps: int = 10,
        features: str = "cls",
        batch_size: int = 128,
    ):
        _check_labelled("labelled", labelled)
        _check_labelled("queries", queries)
        self.encoder, self.features = encoder, features
        self.labelled, self.queries = labelled, queries
        self.batch_size = batch_size
        head = ClassifierHead(num_classes, pooling=features, norm=False)
        self.probe = Classifier(encoder, head)
        epsilon, norm = threat.epsilon, threat.norm
        # Kept, objectives included: an attack is compiled for each objective.
        self._embed = EmbedAttack(epsilon, norm=norm, steps=steps)
        self._pgd = PGD(epsilon, norm=norm, steps=steps, random_start=True)
        self._distance, self._loss = TokenDistance(encoder), CrossEntropy(self.probe)
        self._compiled = tf.function(lambda images: infer(self.probe, images))

    def __call__(self, step: int = 0) -> dict[str, float]:
        """Returns {"linear/clean", "linear/embed", "linear/pgd"}, in [0, 1].

        Under attack those count that are right without and under it: the attack on the
        class token ("embed") and PGD on the cross-entropy.

        Args:
            step: Ignored; callers that probe at steps pass it.
        """
        del step
        head = self.probe.head
        fitted = linear_probe(
            self.encoder, self.labelled, head.num_classes, self.features
        )
        head.dense.set_weights(fitted.head.dense.get_weights())
        found: dict[str, list[np.ndarray]] = {"clean": [], "embed": [], "pgd": []}
        for batch in evaluation_batches(self.queries, self.batch_size):
            valid = batch["valid"].numpy()
            for name, right in self._right(batch).items():
                found[name].append(right[valid])
        return {
            f"linear/{name}": float(np.mean(np.concatenate(parts)))
            for name, parts in found.items()
        }

    def _right(self, batch) -> dict[str, np.ndarray]:
        """Returns bool [B] by name: what is right, and what attacks leave right."""
        images, labels = batch["images"], batch["labels"]
        keys = fold_in(example_keys(0, 0, batch["ids"]), "online linear")
        attacked = {
            "embed": self._embed(images, None, self._distance, keys=keys),
            "pgd": self._pgd(images, labels, self._loss, keys=keys),
        }
        clean = self._is_right(images, labels)
        return {"clean": clean} | {
            name: clean & self._is_right(each, labels)
            for name, each in attacked.items()
        }

    def _is_right(self, images, labels) -> np.ndarray:
        return np.argmax(self._compiled(images), axis=1) == labels.numpy()


def _check_labelled(name: str, split: Split) -> None:
    missing = int(np.sum(np.asarray(split.labels) < 0))
    if missing or not split.size:
        raise UserError(
            f"`{name}` must hold labelled examples only. Received: {split.size} "
            f"examples, {missing} of them without a label."
        )
