"""Pickles that would run code are refused, and nothing of them is run."""

import argparse
import collections
import io
import os
import pickle
import zipfile

import pytest

from kerobust.config import UserError
from kerobust.models.checkpoint_files import read_state
from kerobust.models.pickle_values import ForbiddenError, PickleMachine, Record

STAND_INS = {
    "collections.OrderedDict": lambda pairs=(): dict(pairs),
    "argparse.Namespace": lambda: Record("argparse.Namespace", {}),
    "torch.FloatStorage": None,
}


def read(data: bytes):
    return PickleMachine(STAND_INS).read(io.BytesIO(data))


class Calls:
    """Pickled, it becomes a call of `os.mkdir(path)`, as real attacks call a shell."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Restores:
    """Pickled, it becomes an object whose `__setstate__` makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __setstate__(self, state):
        os.mkdir(state["path"])


def checkpoint(path, data: bytes):
    """Writes a checkpoint in PyTorch's format with `data` as its pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
    return path


def malicious(marker) -> dict[str, bytes]:
    """Returns pickles that make the folder `marker` when Python unpickles them."""
    name = b"V" + str(marker).encode() + b"\n"
    nested = collections.OrderedDict(model={"weight": [0.0, (Calls(marker),)]})
    ordered = b"ccollections\nOrderedDict\n"
    state = b"}Vmkdir\ncos\nmkdir\ns"
    return {
        "reduce": pickle.dumps(Calls(marker), 2),
        "reduce_protocol_4": pickle.dumps(Calls(marker), 4),
        "nested": pickle.dumps(nested, 2),
        "setstate": pickle.dumps(Restores(marker), 2),
        "inst": b"(" + name + b"ios\nmkdir\n.",
        "obj": b"(cos\nmkdir\n" + name + b"o.",
        # It waits in the memo and is fetched where a known global has just stood.
        "memo": b"cos\nmkdir\np0\n0" + ordered + b"0g0\n(" + name + b"tR.",
        "getattr": b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(Vos\ntRVmkdir\ntR("
        + name
        + b"tR.",
        "dotted_name": b"\x80\x04\x8c\x07pathlib\x8c\x0aPath.mkdir\x93("
        b"cpathlib\nPath\n(" + name + b"tRtR.",
        # The constructor of a known class is given another function first.
        "state": ordered + b"(tR" + state + b"b(" + name + b"tR.",
    }


@pytest.mark.parametrize("kind", sorted(malicious("x")))
def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path, kind):
    marker = tmp_path / "made"
    path = checkpoint(tmp_path / "evil.pth", malicious(marker)[kind])

    message = "`path` must hold nothing but tensors.*asks for.*Nothing of it was run"
    with pytest.raises(UserError, match=message) as caught:
        read_state(path)

    assert not marker.exists()
    names = {"setstate": "Restores", "getattr": "builtins.getattr"}
    assert f"the global {names.get(kind, '')}" in str(caught.value).replace(
        f"{__name__}.", ""
    )
    assert names.get(kind, "mkdir") in str(caught.value)


@pytest.mark.parametrize("kind", sorted(set(malicious("x")) - {"state"}))
def test_the_refused_pickles_do_run_in_an_ordinary_reader(tmp_path, kind):
    marker = tmp_path / "made"

    pickle.loads(malicious(marker)[kind])

    assert marker.is_dir()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"ccollections\nOrderedDict\n}Vx\nI1\nsb.", "state of a global collections"),
        (b"ctorch\nFloatStorage\n(tR.", "call of a global torch.FloatStorage"),
        (b"Vos\n(tR.", "call of a str"),
        (b"ccollections\nOrderedDict\n]R.", "OrderedDict without arguments"),
        (b"ccollections\nOrderedDict\n(I1\nI2\ntR.", "OrderedDict with other"),
        (b"(ccollections\nOrderedDict\no.", "the opcode OBJ"),
        (b"(icollections\nOrderedDict\n.", "an instance of collections.OrderedDict"),
        (b"\x80\x02\x82\x01.", "the opcode EXT1"),
        (b"\x80\x02}(I1\ntQ.", "a persistent id"),
        (b"]Vx\nI1\ns.", "setting an item of a list"),
        (b"}Vx\na.", "appending to a dict"),
        (b"]}b.", "setting the state of a list"),
        (b"}(tI1\ns.", "a tuple as a key"),
        (b"}]I1\ns.", "a list as a key"),
        (b"\x80\x04I1\nVx\n\x93.", "a global whose name is no text"),
    ],
)
def test_what_no_checkpoint_needs_is_refused(data, words):
    with pytest.raises(ForbiddenError, match=words):
        read(data)


def test_a_key_nested_too_deeply_to_be_hashed_does_not_end_the_process():
    # Hashing it recurses in C once per level; the interpreter would die of it.
    data = b"}" + b"(t" + b"\x85" * 200_000 + b"I1\ns."

    with pytest.raises(ForbiddenError, match="a tuple as a key"):
        read(data)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_back_as_they_were(protocol):
    again = ["shared", -1, 2**70]
    value = {
        "numbers": (0, 255, 65536, -5, 1.5, True, False, None, 1e300),
        "text": ["", "a", "é" * 300, "\n'\\"],
        "nested": {1: {2.5: [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]}},
        "twice": [again, again],
        "ordered": collections.OrderedDict(b=1, a=2),
    }

    found = read(pickle.dumps(value, protocol))

    assert found == value
    assert list(found["ordered"]) == ["b", "a"]
    assert found["twice"][0] is found["twice"][1]


def test_settings_of_a_run_keep_their_names_and_values():
    value = argparse.Namespace(arch="vit_small", scale=(0.4, 1.0), layers=[1, 2])

    found = read(pickle.dumps(value, 2))

    assert found.kind == "argparse.Namespace"
    assert found == {"arch": "vit_small", "scale": (0.4, 1.0), "layers": [1, 2]}


def test_reading_ends_behind_the_first_pickle():
    file = io.BytesIO(pickle.dumps(1, 2) + pickle.dumps([2], 2) + b"rest")
    machine = PickleMachine({})

    assert [machine.read(file), machine.read(file), file.read()] == [1, [2], b"rest"]


def test_every_truncation_is_an_error_and_not_a_value():
    data = pickle.dumps({"a": [1, 2.5, "text"], "b": ({}, b"bytes")}, 3)

    for length in range(len(data)):
        with pytest.raises((ValueError, IndexError, KeyError)):
            read(data[:length])
