"""Resizing and decoding against PIL, the reference of published networks."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kerobust.data import DataConfig, load
from kerobust.data.augmentations import (
    crop_boxes,
    random_resized_crop,
    resize,
    square,
)
from kerobust.data.pictures import decode_picture
from kerobust.randomness import example_keys

# Mean absolute difference in grey levels (0..255). Measured: bicubic 0.0002 on digits,
# 0.0013 on photos (worst photo 0.006, worst pixel 2); bilinear 0.017; JPEG decoding 0.
LIMIT = 0.02


def montage() -> np.ndarray:
    """100 real digits side by side, uint8 [80, 80, 3]."""
    images = load(DataConfig()).splits["test"].arrays()[0][:100]
    grid = images.reshape(10, 10, 8, 8, 3).swapaxes(1, 2).reshape(80, 80, 3)
    return np.uint8(np.round(grid * 255))


def pil_square(image: Image.Image, size: int) -> np.ndarray:
    """Resize(size) and CenterCrop(size) of torchvision, in PIL."""
    width, height = image.size
    short = min(width, height)
    width, height = width * size // short, height * size // short
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def difference(first, second) -> float:
    return float(np.abs(np.float64(first) - np.float64(second)).mean())


@pytest.mark.parametrize("size", [17, 40, 64, 96, 224])
@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
def test_resizing_digits_is_as_pil_does_it(size, method):
    image = montage()

    resized = resize(image, (size, size), method).numpy()

    expected = Image.fromarray(image).resize(
        (size, size), getattr(Image.Resampling, method.upper())
    )
    assert difference(resized, expected) < LIMIT


def test_without_antialias_the_difference_would_be_noticed():
    image = montage()

    plain = tf.image.resize(image, (24, 24), "bicubic").numpy()

    expected = Image.fromarray(image).resize((24, 24), Image.Resampling.BICUBIC)
    assert difference(plain, expected) > 10


def test_a_random_resized_crop_is_what_pil_makes_of_the_same_part():
    image = np.float32(montage()[:48, :64, 0])
    keys, scale, ratio = example_keys(0, 0, range(20)), (0.05, 1.0), (0.5, 2.0)

    images = tf.tile((image / 255)[None, :, :, None], [20, 1, 1, 3])
    cropped = random_resized_crop(images, keys, scale, ratio).numpy() * 255

    boxes = crop_boxes(keys, (48, 64), scale, ratio).numpy()
    for found, (top, left, height, width) in zip(cropped, boxes, strict=True):
        part = Image.fromarray(image[top : top + height, left : left + width])
        # Columns, clip, rows, clip: PIL does not clip float images by itself.
        for size in ((64, height), (64, 48)):
            part = np.asarray(part.resize(size, Image.Resampling.BICUBIC))
            part = Image.fromarray(np.clip(part, 0, 255))
        np.testing.assert_allclose(found[..., 1], part, atol=0.01)


def test_decoding_a_jpeg_is_as_pil_does_it():
    buffer = io.BytesIO()
    Image.fromarray(montage()).save(buffer, "jpeg")

    decoded = decode_picture(tf.constant(buffer.getvalue()), None)

    np.testing.assert_array_equal(decoded, Image.open(buffer).convert("RGB"))


@pytest.mark.data
@pytest.mark.parametrize("size", [64, 96, 160, 224])
def test_photos_become_the_squares_that_pil_makes(data_folder, size):
    paths = sorted((data_folder / "imagenet_samples" / "images").glob("*.jpg"))[::25]

    differences = []
    for path in paths:
        with Image.open(path) as image:
            expected = pil_square(image.convert("RGB"), size)
        found = decode_picture(tf.io.read_file(str(path)), size)
        assert found.shape == expected.shape
        differences.append(difference(found, expected))

    assert np.max(differences) < LIMIT


def test_float_images_are_resized_like_bytes():
    pixels = montage()

    rounded = np.float32(square(pixels, 52))
    exact = square(pixels / np.float32(255), 52).numpy() * 255

    # Rounding after each of two passes: half a grey level from the second, and half
    # times the sum of the absolute bicubic weights (below 1.5) from the first.
    assert np.abs(exact - rounded).max() < 0.5 + 0.75
