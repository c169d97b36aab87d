"""Heads on frozen encoders: the best linear classifier, and trained dense heads."""

import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from kerobust.config import UserError
from kerobust.data import Split, evaluation_batches
from kerobust.evaluation.linear import fit_linear
from kerobust.evaluation.task_config import BenchmarkConfig
from kerobust.models.heads import Classifier, ClassifierHead
from kerobust.models.sliding import Windowed
from kerobust.progress import minutes
from kerobust.tasks import Classification, Task
from kerobust.types import Tokens

_BATCH = 256  # Images whose features are computed at once.
_WARMUP = 0.05  # Share of the steps.
_SAYS = 50  # Steps between two lines of progress.


def linear_probe(
    encoder, split: Split, num_classes: int, features: str = "mean"
) -> Classifier:
    """Returns `encoder` with the linear head that is best for the images of `split`.

    Args:
        encoder: Maps images to `Tokens`.
        split: Labelled images, seen as they are.
        num_classes: Number of classes.
        features: What the head reads, a pooling of `ClassifierHead`.

    References:
        See `fit_linear`. Attacks go through the whole: it is differentiable.
    """
    head = ClassifierHead(num_classes, pooling=features, norm=False)
    probe = Classifier(encoder, head)
    batches = evaluation_batches(split, _BATCH)
    found = tf.concat([probe.features(batch["images"]) for batch in batches], axis=0)
    weights = fit_linear(found[: split.size], split.labels, num_classes)
    probe.head.dense.set_weights(weights)
    return probe


def fit_probe(
    task: Task,
    encoder: tf.keras.Model,
    split: Split,
    config: BenchmarkConfig,
    say: Callable[[str], None] | None = None,
) -> tf.keras.Model:
    """Returns a frozen encoder with a head for a task, fitted on the images of `split`.

    Classifiers get the best linear head. Dense heads are trained on the tokens of the
    images, of their mirror images, or of the windows of both, which are computed once.

    Args:
        task: The task; its `TARGET` must be known for the split.
        encoder: Maps images to `Tokens`; not changed.
        split: Training images.
        config: How dense heads are trained, and windows.
        say: Called with lines of progress.

    Raises:
        UserError: If nothing is labelled, labels are not what the task needs, or the
            tokens do not fit the memory.

    References:
        Kowalczuk et al., 2024, arXiv:2407.12588, appendix (heads and optimiser: AdamW,
        linear warm-up, then a linear fall to 0).

    Differences:
        Windows lie on the grid of the evaluation instead of random places; images are
        mirrored left to right only. The classifier's head is the minimum itself, not
        five epochs of Adam with rate 0.5.
    """
    if isinstance(task, Classification):
        return linear_probe(encoder, split, task.num_classes, task.pooling)
    predictor = task.predictor(encoder)
    tokens, targets = _tokens(task, predictor, split, config)
    _start_head(predictor.head, config.seed)
    _train_head(task, predictor, tokens, targets, config, say or (lambda text: None))
    return predictor


def whole_image(predictor, image_shape, config: BenchmarkConfig):
    """Returns what predicts images of `image_shape`: the predictor, or windows of it.

    Raises:
        UserError: If the images are smaller than a window.
    """
    window = _window(predictor.encoder, image_shape, config)
    if window is None:
        return predictor
    return Windowed(
        predictor,
        window,
        _stride(window, config),
        at_once=config.windows_at_once,
        average=config.average,
    )


def _window(encoder, image_shape, config: BenchmarkConfig) -> int | None:
    """Returns the side of the windows; None = images pass as they are."""
    settings = encoder.get_config()
    size = settings.get("image_size")
    fixed = size is not None and settings.get("interpolation") is None
    side = config.window or (size[0] if fixed else None)
    if side is None or tuple(image_shape[:2]) == (side, side):
        return None
    if min(image_shape[:2]) < side:
        raise UserError(
            f"`--data.image_size` must be at least {side}, the side of a window of the "
            f"encoder. Received: images of {image_shape[0]} x {image_shape[1]} pixels. "
            "Enlarge them, or convert the encoder with positions that are interpolated."
        )
    return side


def _stride(window: int, config: BenchmarkConfig) -> int:
    return config.stride or max(1, 3 * window // 4)


def _tokens(task: Task, predictor, split: Split, config: BenchmarkConfig):
    """Returns the tokens of all windows and their mirror images, and their targets."""
    model = whole_image(predictor, split.image_shape, config)
    windows = model.windows if isinstance(model, Windowed) else lambda images: [images]
    encode = tf.function(lambda x: predictor.encoder(x, training=False))
    found, targets = [], []
    batches = evaluation_batches(split, config.batch_size, (task.TARGET,))
    for number, batch in enumerate(batches):
        rows = tf.where(batch["valid"])[:, 0]
        images, target = (
            tf.gather(batch[name], rows) for name in ("images", task.TARGET)
        )
        for flipped in (False, True):
            if flipped:
                images, target = tf.reverse(images, [2]), tf.reverse(target, [2])
            for image, part in zip(windows(images), windows(target), strict=True):
                found.append(tf.nest.map_structure(lambda x: x.numpy(), encode(image)))
                targets.append(part.numpy())
        if number == 0:
            count = 2 * split.size * len(windows(images))
            _require_memory(count, found[0], config)
    kept = np.concatenate(targets)
    task.check(kept)
    return Tokens(*(np.concatenate(part) for part in zip(*found, strict=True))), kept


def _require_memory(count: int, tokens: Tokens, config: BenchmarkConfig) -> None:
    size = sum(part[0].nbytes for part in tokens)
    need = count * size / 1e9
    config.require(
        need <= config.tokens_gigabytes,
        "tokens_gigabytes",
        f"must be at least {need:.1f} for the tokens of {count:,} windows",
        "Raise it, enlarge --benchmark.stride, or use fewer images.",
    )


def _start_head(head, seed: int) -> None:
    """Gives a head the same small weights at every start."""
    kernel = head.dense.kernel
    draw = tf.random.stateless_truncated_normal(kernel.shape, [seed, 0])
    kernel.assign(0.01 * draw)


def _train_head(task: Task, predictor, tokens: Tokens, targets, config, say) -> None:
    count, size = len(targets), min(config.head_batch_size, len(targets))
    per_epoch = count // size
    total = config.head_epochs * per_epoch
    warmup = max(1, round(_WARMUP * total))
    optimizer = tf.keras.optimizers.AdamW(
        tf.Variable(0.0), weight_decay=config.head_decay
    )
    image = targets.shape[1:3]

    @tf.function
    def step(cls, patches, target):
        with tf.GradientTape() as tape:
            outputs = predictor.read(Tokens(cls, patches), image, training=True)
            loss = task.loss(outputs, target)
        weights = predictor.head.trainable_variables
        optimizer.apply_gradients(
            zip(tape.gradient(loss, weights), weights, strict=True)
        )
        return loss

    started = time.perf_counter()
    for number in range(total):
        epoch, place = divmod(number, per_epoch)
        if place == 0:
            order = np.random.default_rng([config.seed, epoch]).permutation(count)
        rows = order[place * size : (place + 1) * size]
        rise, fall = (number + 1) / warmup, (total - number) / max(total - warmup, 1)
        optimizer.learning_rate.assign(config.head_rate * min(1.0, rise, fall))
        loss = step(tokens.cls[rows], tokens.patches[rows], targets[rows])
        if number % _SAYS == 0:
            spent = time.perf_counter() - started
            left = minutes(spent / (number + 1) * (total - number - 1))
            where = f"{task.NAME} head: step {number + 1} of {total}"
            say(f"{where}, loss {loss:.3f}, ETA {left}")
