"""Tests of kerobust.models.pretrained."""

import numpy as np
import pytest

from kerobust.config import UserError
from kerobust.models import Classifier, ClassifierHead, ResNet, load_torch_resnet

IMAGES = np.random.default_rng(0).uniform(size=[2, 8, 8, 3]).astype(np.float32)
WIDTHS = (16, 32, 64)


def torch_arrays(blocks=1, classes=10):
    """What a PyTorch ResNet of that many blocks per stage keeps, values all unlike."""
    shapes = {"conv1.weight": (16, 3, 3, 3), **norm_shapes("bn1", 16)}
    before = 16
    for stage, width in enumerate(WIDTHS):
        for block in range(blocks):
            owner = f"layer{stage + 1}.{block}"
            shapes[f"{owner}.conv1.weight"] = (width, before, 3, 3)
            shapes[f"{owner}.conv2.weight"] = (width, width, 3, 3)
            shapes |= norm_shapes(f"{owner}.bn1", width)
            shapes |= norm_shapes(f"{owner}.bn2", width)
            before = width
    if classes:
        shapes |= {"linear.weight": (classes, 64), "linear.bias": (classes,)}
    generator = np.random.default_rng(1)
    return {
        name: generator.uniform(0.5, 1.5, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def norm_shapes(owner, width):
    names = ("weight", "bias", "running_mean", "running_var")
    return {f"{owner}.{name}": (width,) for name in names}


def classifier(depth=8):
    return Classifier(ResNet(depth), ClassifierHead(10, norm=False))


def test_every_array_becomes_the_weight_of_its_layer(tmp_path):
    arrays, model = torch_arrays(blocks=2), classifier(depth=14)
    # Newer versions of PyTorch count batches; nothing here needs the count.
    counter = {"bn1.num_batches_tracked": np.array(7)}
    np.savez(tmp_path / "resnet.npz", **arrays, **counter)

    load_torch_resnet(model, tmp_path / "resnet.npz")

    # Sorted by their sums, which are all unlike, both sides are the same arrays.
    found = sorted(float(each.sum(dtype=np.float64)) for each in model.get_weights())
    expected = sorted(float(each.sum(dtype=np.float64)) for each in arrays.values())
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    block = model.encoder.stages[1][0]
    kernel = arrays["layer2.0.conv1.weight"]  # [32, 16, 3, 3]
    assert block.conv1.kernel[0, 2, 5, 7] == kernel[7, 5, 0, 2]
    norm = [
        arrays[f"layer2.0.bn2.{name}"]
        for name in ("weight", "bias", "running_mean", "running_var")
    ]
    np.testing.assert_array_equal(block.norm2.get_weights(), norm)
    np.testing.assert_array_equal(
        model.head.dense.kernel, np.transpose(arrays["linear.weight"])
    )
    first = arrays["conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(model.encoder.conv1.kernel, first)


def test_an_encoder_takes_a_file_without_a_head(tmp_path):
    arrays, encoder, whole = torch_arrays(classes=0), ResNet(8), classifier()
    np.savez(tmp_path / "encoder.npz", **arrays)
    np.savez(tmp_path / "whole.npz", **torch_arrays())

    load_torch_resnet(encoder, tmp_path / "encoder.npz")

    load_torch_resnet(whole, tmp_path / "whole.npz")
    np.testing.assert_array_equal(encoder(IMAGES).cls, whole.encoder(IMAGES).cls)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"linear.bias": None}, "with 1 differences: missing linear.bias"),
        ({"layer1.0.bn2.running_var": None}, "missing layer1.0.bn2.running_var"),
        ({"fc.bias": np.zeros(10)}, "with 1 differences: unexpected fc.bias"),
        (
            {"layer3.0.conv2.weight": np.zeros([64, 32, 3, 3])},
            r"layer3.0.conv2.weight has shape \(3, 3, 32, 64\) instead of "
            r"\(3, 3, 64, 64\)",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused_and_change_nothing(
    tmp_path, change, message
):
    model = classifier()
    before = model.get_weights()
    arrays = {**torch_arrays(), **change}
    kept = {name: each for name, each in arrays.items() if each is not None}
    np.savez(tmp_path / "resnet.npz", **kept)

    with pytest.raises(UserError, match=message):
        load_torch_resnet(model, tmp_path / "resnet.npz")

    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_a_deeper_network_names_the_blocks_that_it_lacks(tmp_path):
    np.savez(tmp_path / "resnet.npz", **torch_arrays())

    # Three blocks more, each of two convolutions and two batch norms of four arrays.
    message = "with 30 differences: missing layer1.1.bn1.bias"
    with pytest.raises(UserError, match=message):
        load_torch_resnet(classifier(depth=14), tmp_path / "resnet.npz")


@pytest.mark.parametrize("kind", ["absent", "empty", "text", "array", "pickled"])
def test_files_of_another_kind_are_refused(tmp_path, kind):
    path = tmp_path / "resnet.npz"
    if kind in ("empty", "text"):
        path.write_text("" if kind == "empty" else "weights")
    if kind == "array":
        np.save(tmp_path / "resnet.npy", np.zeros(3))
        (tmp_path / "resnet.npy").rename(path)
    if kind == "pickled":
        np.savez(path, weights=np.array([{}], object))

    message = r"`path` must name an npz file of plain arrays.*path=.*resnet\.npz \("
    with pytest.raises(UserError, match=message):
        load_torch_resnet(classifier(), path)
