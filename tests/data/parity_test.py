"""Resizing and decoding against PIL, the reference of published networks."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kerobust.data import DataConfig, load
from kerobust.data.augmentations import resize, square
from kerobust.data.pictures import decode_picture

# Mean absolute difference in grey levels (0..255); the task allows 0.5.
LIMIT = 0.5


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
    assert difference(plain, expected) > 10 * LIMIT


def test_decoding_a_jpeg_is_as_pil_does_it():
    buffer = io.BytesIO()
    Image.fromarray(montage()).save(buffer, "jpeg")

    decoded = decode_picture(tf.constant(buffer.getvalue()), None)

    assert difference(decoded, Image.open(buffer).convert("RGB")) < LIMIT


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

    assert np.mean(differences) < LIMIT
    assert np.max(differences) < 2 * LIMIT


@pytest.mark.data
def test_float_images_are_resized_like_bytes(data_folder):
    path = sorted((data_folder / "imagenet_samples" / "images").glob("*.jpg"))[0]
    pixels = decode_picture(tf.io.read_file(str(path)), None)

    rounded = square(pixels, 96)
    exact = square(tf.cast(pixels, tf.float32) / 255.0, 96) * 255.0

    # Rounding to whole grey levels moves a pixel by at most a half.
    assert np.abs(exact - tf.cast(rounded, tf.float32)).max() < 0.501
