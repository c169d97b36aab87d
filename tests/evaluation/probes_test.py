"""Heads on frozen encoders: they learn, repeat, and read windows of larger images."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.data import DataConfig, Split, load
from kerobust.data.arrays import Memory
from kerobust.evaluation.probes import fit_heads, whole_image
from kerobust.evaluation.task_config import BenchmarkConfig
from kerobust.models import VisionTransformer
from kerobust.models.sliding import Windowed
from kerobust.tasks import Classification, Depth, Segmentation

TASKS = {
    "classification": Classification(6),
    "segmentation": Segmentation(8),
    "depth": Depth(bins=8),
}
DENSE = {name: TASKS[name] for name in ("segmentation", "depth")}
QUICK = BenchmarkConfig(head_epochs=8, head_batch_size=8, head_rate=1e-2)


@functools.cache
def scenes(count: int = 48) -> Split:
    """Returns training scenes of 16 x 16 pixels."""
    source = load(DataConfig(name="scenes", image_size=16))
    return source.splits["train"].subset(np.arange(count))


def encoder() -> VisionTransformer:
    tf.keras.utils.set_random_seed(3)
    return VisionTransformer((16, 16), 4, 16, 1, 2)


def read(split: Split) -> dict:
    found = split.read(tf.range(split.size), ("masks", "depths"))
    return {name: values.numpy() for name, values in found.items()}


def test_heads_beat_what_needs_no_image_and_leave_the_encoder_alone():
    split, network = scenes(), encoder()
    before = [weight.numpy() for weight in network.weights]
    said: list[str] = []
    heads = fit_heads(TASKS, network, split, QUICK, said.append)
    shown = read(split)

    for task in TASKS.values():
        targets = shown.get(task.TARGET, split.labels)
        outputs = heads[task.NAME](shown["images"])
        value = task.metrics(task.records(outputs, targets).sum(axis=0))
        if task.NAME == "depth":
            blind = np.full_like(targets, task.constant(targets))
        elif task.NAME == "segmentation":
            blind = np.broadcast_to(np.eye(8, dtype=np.float32)[1], (*targets.shape, 8))
        else:
            most = np.bincount(targets).argmax()
            blind = np.broadcast_to(np.eye(6, dtype=np.float32)[most], (split.size, 6))
        floor = task.metrics(task.records(tf.constant(blind), targets).sum(axis=0))
        gain = value[task.MAIN] - floor[task.MAIN]
        assert (gain if task.HIGHER else -gain) > 0.05, task.NAME
    for old, new in zip(before, network.weights, strict=True):
        np.testing.assert_array_equal(old, new.numpy())
    assert "segmentation head: step 1 of 96" in said[0] and "ETA" in said[0]


@pytest.mark.slow
def test_heads_are_the_same_at_every_fit_and_whatever_is_fitted_beside_them():
    quick = QUICK.replace(head_epochs=1)
    both = fit_heads(DENSE, encoder(), scenes(), quick)
    alone = fit_heads({"depth": DENSE["depth"]}, encoder(), scenes(), quick)

    for one, two in zip(both["depth"].weights, alone["depth"].weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), two.numpy())
    other = fit_heads(DENSE, encoder(), scenes(), quick.replace(seed=1))
    kernels = [found["depth"].head.dense.kernel.numpy() for found in (both, other)]
    assert not np.array_equal(*kernels)


def wide(height: int, width: int, masks=None) -> Split:
    """Returns four grey images whose masks are their left and right halves."""
    images = np.full([4, height, width, 3], 0.2, np.float32)
    images[:, :, width // 2 :] = 0.8
    if masks is None:
        masks = np.zeros([4, height, width], np.int16)
        masks[:, :, width // 2 :] = 1
    pictures = Memory(images, {"masks": masks})
    return Split(pictures, np.arange(4), np.full(4, -1))


def test_larger_images_are_read_by_windows():
    split, task = wide(20, 28), Segmentation(2)
    config = QUICK.replace(head_epochs=40, stride=8)
    predictor = fit_heads({"s": task}, encoder(), split, config)["s"]
    model = whole_image(predictor, split.image_shape, config)
    found = split.read(tf.range(4), ("masks",))

    assert isinstance(model, Windowed) and len(model.windows(found["images"])) == 6
    outputs = model(found["images"])
    assert outputs.shape == (4, 20, 28, 2)
    records = task.records(outputs, found["masks"])
    assert task.metrics(records.sum(axis=0))["pixel_accuracy"] > 0.9
    tokens = model.encoder(found["images"])
    assert tokens.cls.shape == (4, 6, 16) and tokens.patches.shape == (4, 96, 16)
    same = whole_image(predictor, (16, 16, 3), config)
    assert same is predictor


@pytest.mark.parametrize(
    ("split", "task", "change", "text"),
    [
        (wide(12, 28), Segmentation(2), {}, "image_size` must be at least 16"),
        (wide(16, 16), Segmentation(1), {}, "Received: label 1"),
        (
            wide(16, 16, np.full([4, 16, 16], -1, np.int16)),
            Segmentation(2),
            {},
            "must have labelled pixels",
        ),
        (
            wide(16, 16),
            Segmentation(2),
            {"tokens_gigabytes": 1e-6},
            "tokens_gigabytes` must be at least 0.0 for the tokens of 8 windows",
        ),
    ],
    ids=["small", "outside", "ignored", "memory"],
)
def test_what_cannot_be_fitted_is_refused(split, task, change, text):
    with pytest.raises(UserError, match=text):
        fit_heads({"s": task}, encoder(), split, QUICK.replace(**change))


def test_a_window_may_be_chosen_smaller_than_the_image():
    free = VisionTransformer((16, 16), 4, 16, 1, 2, interpolation="dino")
    predictor = Segmentation(2).predictor(free)

    assert whole_image(predictor, (24, 32, 3), QUICK) is predictor
    chosen = whole_image(predictor, (24, 32, 3), QUICK.replace(window=16))
    assert isinstance(chosen, Windowed)


def test_an_encoder_of_one_size_that_is_no_square_takes_images_of_its_size():
    oblong = VisionTransformer((16, 24), 4, 16, 1, 2)
    predictor = Segmentation(2).predictor(oblong)

    assert whole_image(predictor, (16, 24, 3), QUICK) is predictor


def test_classifiers_see_whole_images_and_depths_are_averaged_as_they_are():
    free = VisionTransformer((16, 16), 4, 16, 1, 2, interpolation="dino")
    config = QUICK.replace(window=16, average="probabilities")
    images = tf.random.stateless_uniform([2, 24, 32, 3], [0, 1])
    heads = {name: task.predictor(free) for name, task in TASKS.items()}

    models = {
        name: whole_image(each, (24, 32, 3), config) for name, each in heads.items()
    }

    assert models["classification"] is heads["classification"]
    plain = whole_image(heads["depth"], (24, 32, 3), QUICK.replace(window=16))
    np.testing.assert_array_equal(models["depth"](images), plain(images))
    shares = tf.reduce_sum(tf.exp(models["segmentation"](images)), axis=-1)
    np.testing.assert_allclose(shares, 1.0, rtol=1e-5)
