"""Images given as .npz files: what is accepted and how mistakes are answered."""

import numpy as np
import pytest

from kerobust.config import UserError
from kerobust.data import DataConfig, load


def save(tmp_path, **arrays) -> DataConfig:
    path = tmp_path / "images.npz"
    np.savez(path, **arrays)
    return DataConfig(name=f"npz:{path}")


def counting(*shape, kind=np.uint8) -> np.ndarray:
    return (np.arange(np.prod(shape)) % 256).astype(kind).reshape(shape)


def all_images(source) -> dict[int, np.ndarray]:
    """Returns id -> image over all splits."""
    return {
        int(name): image
        for split in source.splits.values()
        for name, image in zip(split.ids, split.arrays()[0], strict=True)
    }


def test_bytes_are_divided_by_255_and_ids_are_rows(tmp_path):
    images = counting(20, 4, 5, 3)

    source = load(save(tmp_path, images=images, labels=np.arange(20) % 2))

    assert source.image_shape == (4, 5, 3) and source.num_classes == 2
    found = all_images(source)
    assert sorted(found) == list(range(20))
    for row, image in found.items():
        np.testing.assert_array_equal(image, np.float32(images[row]) / 255)


@pytest.mark.parametrize("shape", [(20, 4, 4), (20, 4, 4, 1)])
def test_grey_is_repeated_to_three_channels(tmp_path, shape):
    images = counting(*shape)

    source = load(save(tmp_path, images=images, labels=np.arange(20) % 2))

    assert source.image_shape == (4, 4, 3)
    for row, image in all_images(source).items():
        for channel in range(3):
            np.testing.assert_array_equal(
                image[..., channel], images[row].reshape(4, 4) / np.float32(255)
            )


def test_floats_are_kept_as_they_are(tmp_path):
    images = np.random.default_rng(0).random([20, 4, 4, 3])

    source = load(save(tmp_path, images=images, labels=np.arange(20) % 2))

    for row, image in all_images(source).items():
        np.testing.assert_array_equal(image, images[row].astype(np.float32))


def test_named_splits_and_class_names_are_kept(tmp_path):
    parts = {
        f"{kind}_{name}": value[:size]
        for name, size in {"train": 8, "validation": 4, "test": 6}.items()
        for kind, value in {
            "images": counting(8, 2, 2, 3),
            "labels": np.arange(8) % 2,
        }.items()
    }

    source = load(save(tmp_path, **parts, class_names=np.array(["cat", "dog"])))

    assert {n: s.size for n, s in source.splits.items()} == {
        "train": 8,
        "validation": 4,
        "test": 6,
    }
    assert source.class_names == ("cat", "dog")
    np.testing.assert_array_equal(source.splits["test"].ids, np.arange(12, 18))


def test_absent_labels_mean_unlabelled(tmp_path):
    source = load(save(tmp_path, images=counting(20, 4, 4, 3)))

    assert source.num_classes == 0 and set(source.splits) == {"train", "validation"}
    assert set(source.splits["train"].labels) == {-1}


def test_images_are_resized_on_request(tmp_path):
    config = save(tmp_path, images=counting(20, 6, 8, 3), labels=np.arange(20) % 2)

    source = load(config.replace(image_size=4))

    assert source.image_shape == (4, 4, 3)
    assert source.splits["train"].arrays()[0].shape[1:] == (4, 4, 3)


GOOD = counting(6, 4, 4, 3)
TWO = np.arange(6) % 2


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": GOOD.astype(np.float32), "labels": TWO}, ("[0, 1]", "by 255")),
        ({"images": GOOD / 50.0 - 1, "labels": TWO}, ("[0, 1]", "normalis")),
        ({"images": np.full([6, 4, 4, 3], np.nan), "labels": TWO}, ("NaN", "6 images")),
        ({"images": GOOD[0, 0], "labels": TWO[:4]}, ("shape [N, H, W, 3]", "(4, 3)")),
        ({"images": GOOD[:0], "labels": TWO[:0]}, ("(0, 4, 4, 3)",)),
        ({"images": counting(6, 4, 4, 7), "labels": TWO}, ("1 or 3 channels", "7")),
        ({"images": counting(6, 3, 4, 4), "labels": TWO}, ("channels come last",)),
        ({"images": GOOD.astype(np.int64), "labels": TWO}, ("uint8 or float", "int64")),
        ({"images": GOOD, "labels": TWO[:5]}, ("label", "(5,)", "6 images")),
        ({"images": GOOD, "labels": TWO / 2}, ("whole-number label", "float64")),
        ({"images": GOOD, "labels": TWO - 2}, ("from 0",)),
        ({"pictures": GOOD}, ("`images`", "pictures")),
        ({"images_test": GOOD, "labels_test": TWO}, ("`images_train`",)),
        (
            {"images_train": GOOD, "images_test": GOOD[:, :2]},
            ("one shape", "all splits"),
        ),
        ({"images": np.array([{}], object)}, (".npz file of plain arrays",)),
        ({"images": GOOD[:2], "labels": TWO[:2]}, ("at least 3 training images",)),
    ],
)
def test_wrong_arrays_are_refused(tmp_path, arrays, words):
    with pytest.raises(UserError) as error:
        load(save(tmp_path, **arrays))

    for word in ("--data.name", "Received: name=npz:", *words):
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("content", "word"), [(None, "exists"), (b"text", "plain"), (b"PK\3\4", "plain")]
)
def test_files_that_are_no_npz_are_refused(tmp_path, content, word):
    path = tmp_path / "images.npz"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(UserError, match=f"--data.name.*{word}.*images.npz"):
        load(DataConfig(name=f"npz:{path}"))
