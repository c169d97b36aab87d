"""Files of PyTorch, safetensors and NumPy, read into arrays by name."""

import hashlib
import json
import pathlib
import tracemalloc
import zipfile

import numpy as np
import pytest

from kerobust.config import UserError
from kerobust.models.checkpoint_files import read_state, read_tree, select_state
from tests.models.torch_archive import entry, write

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
DIGESTS = {
    "torch_dino.pth": "c50bf86bcf58be91",
    "torch_layouts.pth": "e68d0abac6c47c7a",
    "torch_layouts_legacy.pth": "7e6e015876e6c8c1",
    "torch_legacy.pth": "0c16eabc45f32b38",
    "torch_zip.pth": "8685bb8543c3d718",
}


def closed_form(first, *shape):
    """The values that the goldens were filled with, in row-major order."""
    places = np.arange(np.prod(shape, dtype=int))
    return ((places * 7 + first) % 11 - 5).reshape(shape) / 4


@pytest.mark.parametrize("name", sorted(DIGESTS))
def test_the_goldens_are_untouched(name):
    digest = hashlib.sha256((GOLDENS / name).read_bytes()).hexdigest()

    assert digest.startswith(DIGESTS[name])


@pytest.mark.parametrize("name", ["torch_zip.pth", "torch_legacy.pth"])
def test_a_state_dict_comes_back_under_its_names(name):
    state = read_state(GOLDENS / name)

    norm = {"weight": [1, 1], "bias": [0, 0]}
    norm |= {"running_mean": [0, 0], "running_var": [1, 1], "num_batches_tracked": 0}
    expected = {"0.weight": closed_form(0, 2, 3), "0.bias": closed_form(1, 2)}
    expected |= {f"1.{name}": value for name, value in norm.items()}
    assert list(state.arrays) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(state.arrays[name], value)
    assert (state.taken, state.ignored) == ("", ())


@pytest.mark.parametrize("name", ["torch_layouts.pth", "torch_layouts_legacy.pth"])
def test_every_layout_and_type_of_tensor_is_read(name):
    arrays = read_state(GOLDENS / name).arrays

    whole = closed_form(2, 4, 6).astype(np.float32)
    # All values are multiples of 1/4 below 2: exact in every type, bfloat16 too.
    expected = {
        "transposed": whole.T,
        "shared_rows": whole[1:3],
        "every_second": whole[:, ::2],
        "whole": whole,
        "half": closed_form(3, 5).astype(np.float16),
        "bfloat16": closed_form(4, 2, 2).astype(np.float32),
        "double": closed_form(5, 3),
        "long": np.array([2**40, -1]),
        "int": np.array([1, -2], np.int32),
        "short": np.array([3], np.int16),
        "char": np.array([-4], np.int8),
        "byte": np.array([250], np.uint8),
        "bool": np.array([True, False]),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros([0, 3], np.float32),
        "parameter": closed_form(6, 2).astype(np.float32),
    }
    assert list(arrays) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(arrays[name], value, strict=True)
        assert arrays[name].flags.c_contiguous


def test_the_teacher_of_a_whole_training_is_taken_unless_another_part_is_named():
    path = GOLDENS / "torch_dino.pth"

    teacher, student = read_state(path), read_state(path, "student")

    weight = "module.backbone.weight"
    np.testing.assert_array_equal(student.arrays[weight], closed_form(7, 2, 3))
    np.testing.assert_array_equal(teacher.arrays[weight], closed_form(7, 2, 3) + 1)
    rest = ("optimizer", "epoch", "args", "dino_loss", "fp16_scaler")
    assert (teacher.taken, teacher.ignored) == ("teacher", ("student", *rest))
    assert (student.taken, student.ignored[0]) == ("student", "teacher")
    loss = read_state(path, "dino_loss")
    np.testing.assert_array_equal(loss.arrays["center"], closed_form(9, 1, 4))


def test_settings_and_optimizer_of_a_training_are_records():
    tree = read_tree(GOLDENS / "torch_dino.pth")

    assert tree["args"].kind == "argparse.Namespace"
    assert tree["args"]["arch"] == "vit_small" and tree["args"]["patch_size"] == 16
    group = tree["optimizer"]["param_groups"][0]
    assert group["betas"] == (0.9, 0.999) and group["lr"].kind == "numpy.scalar"
    assert tree["epoch"] == 3


def test_a_part_that_is_not_there_or_holds_no_tensors_is_named(tmp_path):
    path = GOLDENS / "torch_dino.pth"

    with pytest.raises(
        UserError, match='=techer.*teacher, opt.*Did you mean "teacher"'
    ):
        read_state(path, "techer")
    with pytest.raises(UserError, match="checkpoint_key=args"):
        read_state(path, "args")
    with pytest.raises(UserError, match="checkpoint_key=epoch.x"):
        read_state(path, "epoch.x")
    with pytest.raises(UserError, match="there is: a list"):
        select_state([1, 2])


@pytest.mark.parametrize(
    ("tree", "taken"),
    [
        ({"model": {"a": 1}, "optimizer": {}}, "model"),
        ({"state_dict": {"backbone": {"a": 1}}}, "state_dict.backbone"),
        ({"student": {"a": 1}, "teacher": {"backbone": {"a": 1}}}, "teacher.backbone"),
        ({"a": 1, "epoch": None}, ""),
    ],
)
def test_the_usual_places_are_searched_in_order(tree, taken):
    def planted(item):
        if isinstance(item, dict):
            return {name: planted(value) for name, value in item.items()}
        return item if item is None else np.ones(2)

    state = select_state(planted(tree))

    assert state.taken == taken and list(state.arrays) == ["a"]


def test_a_part_within_a_part_is_named_with_a_dot():
    tree = {"teacher": {"backbone": {"a": np.ones(1)}, "head": {"b": np.zeros(1)}}}

    state = select_state(tree, "teacher.head")

    assert list(state.arrays) == ["b"] and state.ignored == ("backbone",)


def test_a_tensor_is_the_view_that_its_strides_describe(tmp_path):
    # Elements 0..5; from 1 on, rows a step of 1 and columns a step of 2 apart.
    path = write(tmp_path / "a.pth", entry([2, 2], [1, 2], offset=1))

    (array,) = read_state(path).arrays.values()

    np.testing.assert_array_equal(array, [[1, 3], [2, 4]])


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (entry([7], [1]), "does not fit its storage of 6"),
        (entry([6], [1], offset=1), "does not fit its storage"),
        (entry([2, 3], [4, 1]), "does not fit its storage"),
        (entry([1], [1], offset=6), "does not fit its storage"),
        (entry([2**62], [2**62]), "does not fit its storage"),
        (entry([2**40], [0]), "does not fit its storage"),
        (entry([7], [0]), "does not fit its storage"),
        (entry([6], [-1]), r"strides \(-1,\)"),
        (entry([-1], [1]), r"shape \(-1,\)"),
        (entry([1], [1], offset=-1), "a tensor of shape"),
        (entry([1], [1, 1]), "1 axes, 2 strides"),
        (entry([1] * 33, [1] * 33), "33 axes"),
        (entry([1], [1], elements=-1), "without a key or a size"),
        (entry([1], [1], elements=2**50), "24 bytes instead of 1125899906842624 x 4"),
        (entry([1], [1], elements=5), "24 bytes instead of 5 x 4"),
        (entry([1], [1], kind="Double"), "24 bytes instead of 6 x 8"),
        (entry([1], [1], key="7"), "There is no item named 'archive/data/7'"),
        (entry([1], [1], key="../data.pkl"), "There is no item named"),
        (entry([1], [1], kind="Quint"), "the global torch.QuintStorage"),
        (entry([1], [1]).replace(b"Vstorage", b"Vmodule"), "no storage of numbers"),
        (entry([1], [1]).replace(b"ctorch\nFloat", b"VFloat"), "persistent id"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n(I1\nI0\n))tR", "without a storage"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n(I1\ntR", "with other arguments"),
    ],
)
def test_sizes_that_do_not_fit_the_file_are_refused(tmp_path, tensor, words):
    path = write(tmp_path / "a.pth", tensor)

    with pytest.raises(UserError, match=f"path=.*a.pth.*{words}"):
        read_state(path)


def test_a_storage_has_one_type_and_size(tmp_path):
    path = write(tmp_path / "a.pth", entry([1], [1]), entry([1], [1], kind="Int"))

    with pytest.raises(UserError, match="storage 0 has two types or sizes"):
        read_state(path)


@pytest.mark.parametrize(
    ("kind", "bits"), [("Float", ">f4"), ("BFloat16", ">u2"), ("Long", ">i8")]
)
def test_a_file_of_a_big_endian_machine_is_read_in_its_order(tmp_path, kind, bits):
    # 0x3FC0 is 1.5 as bfloat16: sign 0, exponent 127, upper half of the fraction.
    values = np.array([0x3FC0] * 2 if kind == "BFloat16" else [2, -3], bits)
    tensor = entry([2], [1], kind=kind, elements=2)
    data = {"0": values.tobytes()}
    path = write(tmp_path / "a.pth", tensor, data=data, order=b"big")

    (array,) = read_state(path).arrays.values()

    np.testing.assert_array_equal(array, [1.5, 1.5] if kind == "BFloat16" else [2, -3])
    assert array.dtype.isnative


@pytest.mark.parametrize("name", ["torch_zip.pth", "torch_legacy.pth"])
def test_truncated_files_are_refused(tmp_path, name):
    data, path = (GOLDENS / name).read_bytes(), tmp_path / "cut.pth"

    for length in range(0, len(data), 23):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match="`path` must.*cut.pth"):
            read_state(path)


@pytest.mark.parametrize("name", ["torch_layouts.pth", "torch_layouts_legacy.pth"])
def test_damaged_files_are_read_or_refused_but_never_crash(tmp_path, name):
    data, path = (GOLDENS / name).read_bytes(), tmp_path / "odd.pth"
    generator, refused = np.random.default_rng(0), 0

    for _ in range(300):
        damaged = bytearray(data)
        for place in generator.integers(len(data), size=3):
            damaged[place] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            read_state(path)
        except UserError:
            refused += 1

    assert refused > 50


def test_a_key_too_long_to_be_shown_is_refused(tmp_path):
    # LONG4 of 4,000 bytes: Python refuses to write out more than 4,300 digits.
    key = b"\x8b" + (4000).to_bytes(4, "little") + b"\x7f" * 4000
    tensor = entry([1], [1]) + b"s" + key + b"I1\n"
    path = write(tmp_path / "a.pth", tensor)

    with pytest.raises(UserError, match="intact file of weights.*digits"):
        read_state(path)


def test_a_claimed_length_reads_no_more_than_the_file(tmp_path):
    # A text of 2 ** 40 bytes, in the format before the zip archive.
    path = tmp_path / "a.pth"
    path.write_bytes(b"\x80\x04\x8d" + (2**40).to_bytes(8, "little") + b"short")
    tracemalloc.start()

    with pytest.raises(UserError, match="intact file of weights"):
        read_state(path)

    peak, _ = tracemalloc.get_traced_memory()[1], tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"compression": zipfile.ZIP_DEFLATED}, "compressed entries"),
        ({"order": b"middle"}, "byte order b'middle'"),
    ],
)
def test_archives_of_another_make_are_refused(tmp_path, change, words):
    path = write(tmp_path / "a.pth", entry([1], [1]), **change)

    with pytest.raises(UserError, match=words):
        read_state(path)


def test_an_archive_needs_exactly_one_tree(tmp_path):
    for name in ("a/data.pkl", "b/data.pkl"):
        with zipfile.ZipFile(tmp_path / "two.pth", "a") as archive:
            archive.writestr(name, b"}.")
    with zipfile.ZipFile(tmp_path / "none.pth", "w") as archive:
        archive.writestr("model.txt", b"")

    for name in ("two", "none"):
        with pytest.raises(UserError, match="without a data.pkl, or with several"):
            read_state(tmp_path / f"{name}.pth")


def test_safetensors_are_read_bfloat16_included(tmp_path):
    halves = np.array([0x3FC0, 0xC000], "<u2")  # 1.5 and -2 as bfloat16.
    path = safetensors_file(
        tmp_path / "a.safetensors",
        half=("BF16", [2, 1], halves),
        single=("F32", [2], np.array([3, 4], "<f4")),
    )

    arrays = read_state(path).arrays

    np.testing.assert_array_equal(arrays["half"], np.array([[1.5], [-2]], np.float32))
    np.testing.assert_array_equal(arrays["single"], np.array([3, 4], np.float32))
    assert arrays["half"].dtype == arrays["single"].dtype == np.float32


def test_safetensors_of_unknown_types_or_damaged_ones_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors_file(path, low=("F8_E4M3", [1], np.zeros(1, np.uint8)))
    with pytest.raises(UserError, match="low has numbers of type F8_E4M3"):
        read_state(path)

    safetensors_file(path, single=("F32", [2], np.zeros(2, "<f4")))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="`path` must name an intact file"):
        read_state(path)


def safetensors_file(path, **tensors):
    """Writes arrays under claimed types and shapes, as the format's page describes."""
    header, content = {}, b""
    for name, (kind, shape, values) in tensors.items():
        data = values.tobytes()
        place = [len(content), len(content) + len(data)]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": place}
        content += data
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)
    return path


def test_npz_files_are_read_and_their_pickles_are_not(tmp_path):
    np.savez(tmp_path / "a.npz", kernel=closed_form(0, 2, 3))
    np.savez(tmp_path / "b.npz", kernel=np.array([{}], object))

    state = read_state(tmp_path / "a.npz")

    np.testing.assert_array_equal(state.arrays["kernel"], closed_form(0, 2, 3))
    with pytest.raises(UserError, match="npz file of plain arrays.*b.npz"):
        read_state(tmp_path / "b.npz")


def test_missing_files_and_files_of_another_kind_are_refused(tmp_path):
    (tmp_path / "weights.h5").write_bytes(b"")
    (tmp_path / "page.pth").write_text("<html>404</html>")

    with pytest.raises(UserError, match=r"path=.*no.pth \(it does not exist\)"):
        read_state(tmp_path / "no.pth")
    with pytest.raises(UserError, match=r"ends in .pth, .pt.*weights.h5"):
        read_state(tmp_path / "weights.h5")
    with pytest.raises(
        UserError, match="must name an intact file of weights.*page.pth"
    ):
        read_state(tmp_path / "page.pth")
