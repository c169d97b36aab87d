"""Heads on frozen encoders: the best linear classifier, and trained dense heads."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from kerobust.config import UserError
from kerobust.data import Split, evaluation_batches
from kerobust.evaluation.linear import fit_linear
from kerobust.evaluation.task_config import BenchmarkConfig
from kerobust.models.dense_heads import SegmentationHead
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


def fit_heads(
    tasks: dict[str, Task],
    encoder: tf.keras.Model,
    split: Split,
    config: BenchmarkConfig,
    say: Callable[[str], None] | None = None,
) -> dict[str, tf.keras.Model]:
    """Returns a frozen encoder with a head for each task, fitted on images of `split`.

    Classifiers get the best linear head. Dense heads are trained on the tokens of the
    images and of their mirror images, or of the windows of both; tokens are computed
    once.

    Args:
        tasks: Name -> task, whose `TARGET` must be known for the split.
        encoder: Maps images to `Tokens`; not changed.
        split: Training images.
        config: How dense heads are trained, and windows.
        say: Called with lines of progress.

    Raises:
        UserError: If nothing is labelled, labels are not what a task needs, or the
            tokens do not fit the memory.

    References:
        Kowalczuk et al., 2024, arXiv:2407.12588, appendix (heads and optimiser: AdamW,
        linear warm-up, then a linear fall to 0).

    Differences:
        Windows lie on the grid of the evaluation instead of random places; images are
        mirrored left to right only; tokens are those after the final norm for depth
        too. The classifier's head is the minimum itself, not five epochs of Adam with
        rate 0.5.
    """
    found, dense = {}, {}
    for name, task in tasks.items():
        if isinstance(task, Classification):
            given = (task.num_classes, task.pooling)
            found[name] = linear_probe(encoder, split, *given)
        else:
            dense[name] = task
    if dense:
        cached = _cached(list(dense.values()), encoder, split, config)
        for name, task in dense.items():
            found[name] = task.predictor(encoder)
            _start_head(found[name].head, config.seed)
            _train_head(task, found[name], cached, config, say or (lambda text: None))
    return found


def whole_image(predictor, image_shape, config: BenchmarkConfig):
    """Returns what predicts images of `image_shape`: the predictor, or windows of it.

    Args:
        predictor: See `Windowed`; a `Classifier` always sees whole images.
        image_shape: (H, W, C).
        config: Windows.

    Raises:
        UserError: If the images are smaller than a window.
    """
    if isinstance(predictor, Classifier):
        return predictor
    window = _window(predictor.encoder, image_shape, config)
    if window is None:
        return predictor
    logits = isinstance(predictor.head, SegmentationHead)
    return Windowed(
        predictor,
        window,
        _stride(window, config),
        at_once=config.windows_at_once,
        average=config.average if logits else "logits",  # Of depths the plain mean.
    )


def _window(encoder, image_shape, config: BenchmarkConfig) -> int | None:
    """Returns the side of the windows; None = images pass as they are."""
    settings = encoder.get_config()
    size = settings.get("image_size")
    fixed = size is not None and settings.get("interpolation") is None
    side = config.window or (size[0] if fixed else None)
    whole = size if fixed and config.window is None else (side, side)
    if side is None or tuple(image_shape[:2]) == tuple(whole):
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


class _Cached(NamedTuple):
    """Tokens of windows and their mirror images, and the targets by `Task.TARGET`."""

    tokens: Tokens
    targets: dict[str, np.ndarray]


def _cached(tasks, encoder, split: Split, config: BenchmarkConfig) -> _Cached:
    kinds = tuple({task.TARGET for task in tasks})
    model = whole_image(tasks[0].predictor(encoder), split.image_shape, config)
    cut = model.windows if isinstance(model, Windowed) else lambda images: [images]
    encode = tf.function(lambda images: encoder(images, training=False))
    tokens: list[Tokens] = []
    targets: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    batches = evaluation_batches(split, config.batch_size, kinds)
    for number, batch in enumerate(batches):
        rows = tf.where(batch["valid"])[:, 0]
        for flipped in (False, True):
            shown = {name: tf.gather(batch[name], rows) for name in ("images", *kinds)}
            if flipped:
                shown = {name: tf.reverse(x, [2]) for name, x in shown.items()}
            windows = cut(shown["images"])
            tokens += [Tokens(*(x.numpy() for x in encode(each))) for each in windows]
            for kind in kinds:
                targets[kind] += [each.numpy() for each in cut(shown[kind])]
        if number == 0:
            _require_memory(2 * split.size * len(windows), tokens[0], config)
    whole = {kind: np.concatenate(parts) for kind, parts in targets.items()}
    for task in tasks:
        task.check(whole[task.TARGET])
    return _Cached(Tokens(*map(np.concatenate, zip(*tokens, strict=True))), whole)


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


def _train_head(task: Task, predictor, cached: _Cached, config, say) -> None:
    tokens, targets = cached.tokens, cached.targets[task.TARGET]
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
