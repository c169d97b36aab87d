"""Bad masks and depth maps end in one paragraph, before anything is attacked."""

import numpy as np
import pytest
from PIL import Image

from kerobust import evaluate
from kerobust.models import VisionTransformer, save_bundle
from tests.cli.bad_input_test import assert_refused

SHORT = (
    "--run.stages=benchmark",
    "--data.image_size=16",
    "--benchmark.steps=1",
    "--benchmark.suite_steps=0",
    "--benchmark.curve=false",
    "--benchmark.diagnose=false",
    "--benchmark.head_epochs=1",
    "--benchmark.depth_bins=4",
)
COUNT = 12


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    save_bundle(VisionTransformer((16, 16), 8, 8, 1, 2), folder / "vit", {})
    return f"--evaluation.encoders={folder / 'vit'}"


def written(folder, kind: str, change=lambda number, maps: maps) -> str:
    """Writes images with masks of two classes, or depths of 2 m; returns the flag.

    Args:
        folder: Where.
        kind: "masks" or "depth".
        change: (number of the image, map) -> map to write.
    """
    pictures, maps = ("images", "masks") if kind == "masks" else ("rgb", "depth")
    for name in (pictures, maps):
        (folder / name).mkdir()
    random = np.random.default_rng(0)
    for number in range(COUNT):
        image = random.integers(0, 255, size=(20, 24, 3), dtype="u1")
        Image.fromarray(image).save(folder / pictures / f"{number}.png")
        if kind == "masks":
            found = np.zeros([20, 24], np.uint8)
            found[:, 12:] = 1
        else:
            found = np.full([20, 24], 2000, np.uint16)
        Image.fromarray(change(number, found)).save(folder / maps / f"{number}.png")
    return f"--data.name={kind}:{folder}"


def outcome(capsys, tmp_path, encoder, *flags):
    given = [*SHORT, encoder, f"--run.workdir={tmp_path / 'run'}", *flags]
    return evaluate.main(["evaluate", *given]), capsys.readouterr().err


CASES = {
    "another size": (
        "masks",
        lambda number, mask: mask[:10] if number == 3 else mask,
        (),
        ("--data.name", "images and masks of the same size", "3.png"),
    ),
    "outside the classes": (
        "masks",
        lambda number, mask: mask + 7 * (number == 3),
        ("--benchmark.void=9",),
        ("--benchmark.void", "from 0 to 8", "void=9"),
    ),
    "all ignored": (
        "masks",
        lambda number, mask: np.full_like(mask, 255),
        (),
        ("--data",),
    ),
    "metres as millimetres": (
        "depth",
        lambda number, depth: depth,
        ("--data.depth_unit=1",),
        ("--data.depth_unit",),
    ),
    "nothing measured": (
        "depth",
        lambda number, depth: np.zeros_like(depth),
        (),
        ("--data.name", "depth"),
    ),
    "nothing near enough": (
        "depth",
        lambda number, depth: depth,
        ("--benchmark.depth_most=1",),
        ("depths that count", "Raise the largest depth"),
    ),
    "smaller than a window": (
        "masks",
        lambda number, mask: mask,
        ("--data.image_size=12",),
        ("--data.image_size", "at least 16", "12 x 12"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_maps_end_with_code_2(tmp_path, capsys, encoder, name):
    kind, change, flags, fragments = CASES[name]
    data = written(tmp_path, kind, change)

    assert_refused(outcome(capsys, tmp_path, encoder, data, *flags), *fragments)


@pytest.mark.slow
def test_far_test_depths_are_refused_before_they_are_attacked(
    tmp_path, capsys, encoder
):
    # The test split is the last block of frames, and only it is too far.
    far = written(
        tmp_path, "depth", lambda number, depth: depth * (1 + 9 * (number >= 8))
    )

    found = outcome(capsys, tmp_path, encoder, far, "--benchmark.limit=2")

    assert_refused(found, "depths that count for depth", "--benchmark.limit")


@pytest.mark.parametrize("name", ["scene_parse150", "cityscapes"])
def test_class_0_of_the_usual_masks_is_not_left_out(tmp_path, capsys, encoder, name):
    flags = (f"--data.name={name}", "--benchmark.void=0")

    found = outcome(capsys, tmp_path, encoder, *flags)

    assert_refused(found, "`--benchmark.void` must be empty", "--data.labels=repo")


@pytest.mark.slow
def test_windows_are_for_masks_and_classes_need_none(tmp_path, encoder):
    flags = ("--data.name=scenes", "--data.label_fraction=0.02", "--benchmark.limit=4")
    free = VisionTransformer((16, 16), 8, 8, 1, 2, interpolation="dino")
    save_bundle(free, tmp_path / "free", {})
    given = [*SHORT, *flags, f"--evaluation.encoders={tmp_path / 'free'}"]
    given += ["--data.image_size=24", "--benchmark.window=16"]

    code = evaluate.main(["evaluate", *given, f"--run.workdir={tmp_path / 'run'}"])

    assert code == 0
