"""Imagenette: real pictures in train/ and val/, and the same as a listed subset."""

import numpy as np
import pytest

from kerobust.data import DataConfig, load
from tests.data.folder_test import sizes


@pytest.fixture
def root(data_folder):
    """Returns the folder with train/, val/ and classes.txt."""
    return data_folder / "imagenette224"


@pytest.mark.data
def test_real_pictures_are_the_same_in_memory_and_on_disk(root):
    config = DataConfig(name=f"folder:{root}", image_size=64)
    count = len(list(root.glob("val/*/*.JPEG")))

    kept, read = load(config), load(config.replace(memory_gigabytes=0))

    assert kept.num_classes == 10 and kept.image_shape == (64, 64, 3)
    assert sizes(kept) == sizes(read) and sizes(kept)["test"] == count
    assert kept.report["splits"]["test"] == "validation as given"
    some = np.arange(0, count, 10)
    np.testing.assert_array_equal(
        kept.splits["test"].fetch(some), read.splits["test"].fetch(some)
    )


@pytest.mark.data
def test_a_list_of_classes_gives_a_subset_of_the_folder(root, tmp_path):
    listed = (root / "classes.txt").read_text().splitlines()[:3]
    path = tmp_path / "three.txt"
    path.write_text("\n".join(["# wnid, name", *listed]))

    source = load(
        DataConfig(name=f"imagenet_subset:{path}", dir=str(root), image_size=32)
    )

    wnids = sorted(line.split()[0] for line in listed)
    assert source.class_names == tuple(wnids)
    found = [len(list(root.glob(f"val/{wnid}/*"))) for wnid in wnids]
    assert np.bincount(source.splits["test"].labels).tolist() == found
