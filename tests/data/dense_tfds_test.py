"""Sets of TensorFlow Datasets with masks and depths: small ones of real builders."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.data import DataConfig, load

CITY = (32, 64)  # The real images have 1024 x 2048 pixels: read with a size only.


def store(folder, name: str, features: dict, splits: dict, file_format="array_record"):
    """Stores records as the set `name` of TensorFlow Datasets."""
    import tensorflow_datasets as tfds

    base, _, part = name.partition("/")
    tfds.dataset_builders.store_as_tfds_dataset(
        name=base,
        config=part or None,
        version=tfds.builder(name, data_dir=folder).info.version,
        features=tfds.features.FeaturesDict(features),
        split_datasets={
            split: tf.data.Dataset.from_tensor_slices(records)
            for split, records in splits.items()
        },
        data_dir=folder,
        file_format=file_format,
        disable_shuffling=True,
    )


def picture(number: int, shape) -> np.ndarray:
    return np.full([*shape, 3], 10 * number, np.uint8)


def shown(split, kind: str):
    """Returns (numbers of the pictures, their maps)."""
    found = split.read(tf.range(split.size), (kind,))
    numbers = np.round(found["images"].numpy()[:, 0, 0, 0] * 25.5).astype(int)
    return numbers.tolist(), found[kind].numpy()


def sizes(source) -> dict[str, int]:
    return {name: split.size for name, split in source.splits.items()}


def store_cityscapes(folder, file_format="array_record"):
    import tensorflow_datasets as tfds

    def records(numbers, ids):
        masks = np.tile(np.asarray(ids, np.uint8)[None, :, None], [CITY[0], 1, 1])
        return {
            "image_id": [f"city_{x}" for x in numbers],
            "image_left": np.stack([picture(x, CITY) for x in numbers]),
            "segmentation_label": np.stack([masks] * len(numbers)),
        }

    image = tfds.features.Image
    features = {
        "image_id": tfds.features.Text(),
        "image_left": image(shape=(*CITY, 3), encoding_format="png"),
        "segmentation_label": image(
            shape=(*CITY, 1), encoding_format="png", use_colormap=True
        ),
    }
    splits = {
        "train": records(range(1, 11), np.arange(64) % 34),
        "validation": records((20, 21), np.arange(64) % 34),
        # As published: nothing but the frame of the picture is known.
        "test": records((22, 23, 24), np.arange(64) % 4),
    }
    name = "cityscapes/semantic_segmentation"
    store(folder, name, features, splits, file_format)
    return DataConfig(name=name, dir=str(folder), image_size=CITY[0])


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_cityscapes_has_19_classes_and_is_tested_on_its_validation_images(
    tmp_path, file_format
):
    config = store_cityscapes(tmp_path, file_format)

    source = load(config)
    numbers, masks = shown(source.splits["test"], "masks")

    assert sizes(source) == {"train": 9, "validation": 1, "test": 2}
    assert numbers == [20, 21] and len(source.mask_names) == 19
    assert source.report["not used"] == ["test"]
    # Nothing is resized: the middle half of 64 columns is shown.
    row = dict(zip(np.arange(16, 48) % 34, masks[0, 0], strict=True))
    # Ids 7, 8, 11, 26 and 33 are road, sidewalk, building, car and bicycle.
    assert [row[x] for x in (7, 8, 11, 26, 33)] == [0, 1, 2, 13, 18]
    assert {row[x] for x in (0, 1, 6, 9, 10, 16, 29, 30)} == {-1}
    assert set(row.values()) == {-1, *range(19)} and (masks == masks[0, 0]).all()
    other = load(config.replace(labels="repo"))
    assert len(other.mask_names) == 20 and other.digest != source.digest
    np.testing.assert_array_equal(shown(other.splits["test"], "masks")[1], masks + 1)


def test_what_does_not_fit_is_refused_before_it_is_read(tmp_path):
    config = store_cityscapes(tmp_path)
    # 12 pairs are used; per pixel 3 bytes for the image and 2 for the mask.
    need = 12 * CITY[0] ** 2 * 5 / 1e9

    with pytest.raises(UserError, match="--data.memory_gigabytes.*12 images and masks"):
        load(config.replace(memory_gigabytes=0.99 * need))
    assert load(config.replace(memory_gigabytes=1.01 * need))
    with pytest.raises(UserError, match="1024 x 2048 pixels are kept in memory"):
        load(config.replace(image_size=None, memory_gigabytes=0.1))


def test_cityscapes_without_masks_is_refused(tmp_path):
    with pytest.raises(UserError, match="segmentation_label.*disparity_map"):
        load(DataConfig(name="cityscapes/stereo_disparity", dir=str(tmp_path)))


def test_scene_parse150_has_the_categories_of_its_first_channel(tmp_path):
    import tensorflow_datasets as tfds

    def records(numbers):
        masks = np.zeros([len(numbers), 11, 20, 3], np.uint8)
        masks[..., 0] = (np.arange(220) % 101).reshape(11, 20)
        masks[..., 1] = 77  # Which object it is.
        images = np.stack([picture(x, (11, 20)) for x in numbers])
        return {"image": images, "annotation": masks}

    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "annotation": tfds.features.Image(encoding_format="png"),
    }
    parts = {"train": records(range(1, 11)), "test": records((20, 21))}
    store(tmp_path, "scene_parse150", features, parts)
    config = DataConfig(name="scene_parse150", dir=str(tmp_path))

    with pytest.raises(UserError, match="--data.image_size.*image_size=None"):
        load(config)
    source = load(config.replace(image_size=11))
    numbers, masks = shown(source.splits["test"], "masks")

    assert numbers == [20, 21] and sizes(source)["test"] == 2
    stored = (np.arange(220) % 101).reshape(11, 20)
    # 9 columns too many: 4.5 is rounded to the even 4.
    np.testing.assert_array_equal(masks[0], stored[:, 4:15] - 1)
    assert len(source.mask_names) == 100 and "ade20k:PATH" in source.summary()


def test_nyu_depth_is_in_metres_and_tested_on_its_validation_images(tmp_path):
    import tensorflow_datasets as tfds

    shape = (480, 640)

    def records(numbers):
        depths = np.stack([np.full(shape, x / 4, np.float16) for x in numbers])
        depths[:, :, 0] = np.nan
        return {
            "image": np.stack([picture(x, shape) for x in numbers]),
            "depth": depths,
        }

    features = {
        "image": tfds.features.Image(shape=(*shape, 3)),
        "depth": tfds.features.Tensor(shape=shape, dtype=np.float16),
    }
    parts = {"train": records(range(1, 6)), "validation": records((20, 21))}
    store(tmp_path, "nyu_depth_v2", features, parts)

    source = load(DataConfig(name="nyu_depth_v2", dir=str(tmp_path)))
    numbers, depths = shown(source.splits["test"], "depths")

    assert sizes(source) == {"train": 4, "validation": 1, "test": 2}
    assert numbers == [20, 21] and source.image_shape == (*shape, 3)
    assert (depths[:, :, 0] == 0).all()
    assert depths[:, 5, 5].tolist() == [5.0, 5.25] and depths.dtype == np.float32
