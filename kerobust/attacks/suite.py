"""Evaluates models with a fixed sequence of attempts, batch by batch."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

import kerobust
from kerobust.attacks.attempts import Attempt, run_attempts
from kerobust.attacks.checks import check_count, check_images
from kerobust.attacks.diagnostics import diagnose as find_symptoms
from kerobust.attacks.masking.findings import Finding, MaskingError
from kerobust.attacks.suite_report import AutoAttackReport, assemble
from kerobust.attacks.victim import Victim
from kerobust.batch_state import BatchState, array_digest, weights_digest
from kerobust.distribute import workers
from kerobust.progress import Clock

_PROBE = 8  # Examples whose logits tell models apart.


class Suite:
    """Base of evaluations: what is tried, on whatever the model has right.

    Every attempt tries what the earlier ones left standing, and every success is seen
    again in a forward of its own. Randomness belongs to the example: neither the batch
    size nor the order of examples nor interruptions change a result. Workers (see
    `kerobust.distribute.start`) share the batches, replicas of a strategy in whose
    scope the suite is called share the rows of a batch; all workers get the report.

    Args:
        epsilon: Radius of the attempts' ball.
        norm: Name of the ball.
        seed: Seed of all randomness.
        draws: Forwards per point, more than one for models random on purpose.
    """

    def __init__(self, epsilon: float, norm: str, seed: int = 0, draws: int = 1):
        self.epsilon, self.norm = float(epsilon), norm
        self.seed, self.draws = int(seed), draws
        self._victim: Victim | None = None

    def attempts(self, classes: int) -> list[Attempt]:
        """Returns the attempts on a model of some classes; always the same objects."""
        raise NotImplementedError

    def describe(self) -> dict:
        """Returns the settings that results depend on, as JSON values."""
        raise NotImplementedError

    def notes(self, classes: int) -> list[str]:
        """Returns how the suite is adapted to a number of classes, in sentences."""
        return []

    def check_model(self, model) -> None:
        """Raises a `TypeError` unless the suite can attack a model of this kind."""
        if not callable(model):
            raise TypeError(
                "`model` must be callable, images [B, H, W, C] -> logits [B, K]. "
                f"Received: model={model}."
            )

    def evaluate(
        self,
        model: Callable[[tf.Tensor], tf.Tensor],
        images,
        labels=None,
        *,
        batch_size: int = 250,
        state_dir: str | os.PathLike | None = None,
        progress: Callable[[str], None] | None = None,
        diagnose: bool = True,
        strict: bool = False,
        return_adversarial: bool = False,
    ) -> AutoAttackReport:
        """Returns what the model withstands, example by example.

        Args:
            model: Maps images float32 [B, H, W, C] in [0, 1] to logits [B, K]; a Keras
                model is called with `training=False`.
            images: floating [N, H, W, C] in [0, 1]; or a `tf.data.Dataset`, or another
                iterable, of batches (images, labels) of any sizes.
            labels: int [N]; only with an array of images.
            batch_size: Images per batch; does not change results.
            state_dir: Where finished batches are kept, so that a rerun after a kill
                redoes only the batch that was running; None = nowhere.
            progress: Called with a line of text, an ETA in it, after every attempt;
                `print` is one.
            diagnose: Whether signs of masked gradients are looked for first, on at most
                64 images (see `kerobust.attacks.diagnostics`).
            strict: Whether such a sign raises instead of being reported.
            return_adversarial: Whether the report keeps the adversarial images.

        Raises:
            UserError: If the model's outputs are no finite logits.
            TypeError: If `model` is of another kind.
            ValueError: If images or labels are out of range.
            MaskingError: With `strict`, if a sign of masked gradients is found.
        """
        self.check_model(model)
        rows, batches = _batches(images, labels, batch_size)
        if self._victim is None or self._victim.model is not model:
            self._victim = Victim(model, self.draws)
        run = _Run(self, self._victim, state_dir, progress, return_adversarial)
        findings: list[Finding] = []
        for index, (images, labels) in enumerate(batches):
            if diagnose and not index:
                findings += self._diagnose(model, images, labels, strict)
            run.batch(index, images, labels, -(-rows // batch_size) if rows else None)
        found = run.collected()
        if not found:
            raise ValueError("`images` must hold an example. Received: none at all.")
        report = assemble(self, run.attempts, found, findings)
        serious = [each for each in report.findings if each.severity != "info"]
        if strict and serious:
            raise MaskingError(serious)
        return report

    def _diagnose(self, model, images, labels, strict):
        return find_symptoms(
            model,
            images,
            labels,
            self.epsilon,
            self.norm,
            seed=self.seed,
            strict=strict,
            random=self.draws > 1,
        )


class _Run:
    """One evaluation as it goes from batch to batch."""

    def __init__(self, suite: Suite, victim: Victim, state_dir, progress, keep):
        self.suite, self.victim, self.keep = suite, victim, keep
        self.state_dir, self.say = state_dir, progress or (lambda text: None)
        self.attempts: list = []
        self.found: list[dict] = []
        self._state: Any = None
        self._clock: Any = None
        self._work = 0.0
        self._rows = 0
        self._seen = hashlib.sha256()  # What decides the results.

    def batch(self, index: int, images, labels, batches: int | None) -> None:
        """Attacks one batch, unless another worker does or its results are kept."""
        clean = self.victim.logits(images).numpy()
        if labels.max() >= clean.shape[1]:
            raise ValueError(
                "`labels` must be below the number of logits. Received: labels up to "
                f"{labels.max()} for logits of shape {clean.shape}."
            )
        if self._state is None:
            self._begin(clean, batches)
        ids = np.arange(self._rows, self._rows + len(labels))
        self._rows += len(labels)
        key = f"{array_digest(images)[:12]}-{array_digest(labels)[:12]}"
        self._seen.update(key.encode())
        if not workers().mine(index):
            return
        where = f"batch {index + 1}" + (f" of {batches}" if batches else "")

        def done(attempt, standing):
            text = f"{attempt} on {standing} images: {where}"
            self._clock.advance(attempt.cost, index, text)

        def work():
            return self._attack(images, labels, ids, clean, done)

        arrays, fresh = self._state.get(key, index, work)
        if not fresh:
            self._clock.advance(self._work, index, where, fresh)
        self.found.append(arrays)

    def collected(self) -> list[dict]:
        """Returns the results of all batches, those of other workers among them."""
        other = workers().differing(self._seen.hexdigest)
        if other is not None:
            raise ValueError(
                "`model` and `images` must be the same on all workers, in the same "
                f"order. Received: others on worker {other} than on worker 0. Set "
                "seeds, load weights, and do not shuffle."
            )
        return workers().collect(self.found)

    def _begin(self, clean: np.ndarray, batches: int | None) -> None:
        """Sets up what the first batch must be known for."""
        self.attempts = self.suite.attempts(clean.shape[1])
        identity = self._identity(clean.shape[1])
        self._seen.update(str(identity).encode())
        # What a random model says tells it from others as little as from itself.
        probe = clean[:_PROBE] if self.suite.draws == 1 else np.zeros([1, 1])
        given = (self.state_dir, identity, probe, self.say)
        self._state = workers().in_turn(lambda: BatchState(*given))
        self._work = sum(attempt.cost for attempt in self.attempts)
        shares = sum(map(workers().mine, range(batches or 1)))
        self._clock = Clock(self._work * shares, self.say)

    def _attack(self, images, labels, ids, clean, done) -> dict[str, np.ndarray]:
        suite = self.suite
        outcome = run_attempts(
            self.attempts,
            self.victim,
            images,
            labels,
            ids,
            suite.seed,
            suite.epsilon,
            clean=clean,
            done=done,
        )
        broken = outcome.broken_by >= 0
        # What withstood is shown as it is: no search result of it means anything.
        adversarial = np.where(
            broken[:, None, None, None], outcome.adversarial, images
        ).astype(np.float32)
        ball = self.attempts[0].attack.ball
        found = {
            "labels": labels,
            "predictions": np.where(broken, outcome.predictions, clean.argmax(1)),
            "broken_by": outcome.broken_by,
            "norms": ball.norm(tf.constant(adversarial - images)).numpy(),
            "spent": outcome.spent,
            "classes": np.array(clean.shape[1]),
        }
        return found | ({"adversarial": adversarial} if self.keep else {})

    def _identity(self, classes: int) -> dict[str, str]:
        suite = self.suite
        return {
            "version": kerobust.__version__,
            "weights of the model": weights_digest(self.victim.model),
            "attacks": str(suite.describe()),
            "threat": f"{suite.norm} {suite.epsilon!r}",
            "classes": str(classes),
            "adversarial images": str(self.keep),
        }


def gathered(images, labels) -> tuple[np.ndarray, np.ndarray]:
    """Returns all images and labels of arrays, or of an iterable of batches."""
    if labels is not None:
        return np.asarray(images), np.asarray(labels)
    parts = list(_batches(images, None, 1024)[1])
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def _batches(images, labels, batch_size: int) -> tuple[int | None, Iterator]:
    """Returns (number of images if known, batches of checked arrays)."""
    check_count("batch_size", batch_size)
    if labels is None:
        if tf.is_tensor(images) or isinstance(images, np.ndarray):
            raise ValueError(
                "`labels` must be given with an array of images: accuracy needs the "
                f"truth. Received: labels=None, images of shape {images.shape}."
            )
        return None, map(_checked, _regrouped(images, batch_size))
    images, labels = np.asarray(images), np.asarray(labels)
    pairs = (
        (images[start : start + batch_size], labels[start : start + batch_size])
        for start in range(0, len(images), batch_size)
    )
    if len(images) != len(labels) or not len(images):
        raise ValueError(
            "`labels` must have one row per image, and there must be images. Received: "
            f"{len(labels)} labels for {len(images)} images."
        )
    return len(images), (_checked(pair) for pair in pairs)


def _regrouped(batches: Iterable, batch_size: int) -> Iterator:
    """Yields the examples of batches of any sizes in batches of `batch_size`."""
    held: list = []
    for images, labels in batches:
        held += zip(np.asarray(images), np.asarray(labels), strict=True)
        while len(held) >= batch_size:
            yield tuple(map(np.stack, zip(*held[:batch_size], strict=True)))
            held = held[batch_size:]
    if held:
        yield tuple(map(np.stack, zip(*held, strict=True)))


def _checked(pair) -> tuple[np.ndarray, np.ndarray]:
    images, labels = pair
    check_images(images)
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(
            "`labels` must be class indices from 0, int [N]. "
            f"Received: labels of shape {labels.shape} and type {labels.dtype}."
        )
    return images.astype(np.float32), labels.astype(np.int32)
