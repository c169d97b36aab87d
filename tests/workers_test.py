"""What TF_CONFIG says, and a worker that is alone."""

import json

import numpy as np
import pytest

from kerobust.config import UserError
from kerobust.workers import Place, Workers, announced

PAIR = {"worker": ["a:1", "b:1"]}
LED = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}


def announce(monkeypatch, cluster, role="worker", index=0):
    place = {"cluster": cluster, "task": {"type": role, "index": index}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(place))


def test_without_tf_config_a_process_is_alone(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert announced() == Place(0, 1)
    monkeypatch.setenv("TF_CONFIG", " ")
    assert announced() == Place(0, 1)
    monkeypatch.setenv("TF_CONFIG", '{"environment": "cloud"}')
    assert announced() == Place(0, 1)


@pytest.mark.parametrize(
    ("cluster", "role", "index", "expected"),
    [
        (PAIR, "worker", 0, Place(0, 2)),
        (PAIR, "worker", 1, Place(1, 2)),
        (LED, "chief", 0, Place(0, 3)),
        (LED, "worker", 0, Place(1, 3)),
        (LED, "worker", 1, Place(2, 3)),
        ({"worker": ["a:1"]}, "worker", 0, Place(0, 1)),
    ],
)
def test_the_chief_comes_first_or_else_worker_0(
    monkeypatch, cluster, role, index, expected
):
    announce(monkeypatch, cluster, role, index)

    assert announced() == expected
    assert announced().chief == (expected.index == 0)


@pytest.mark.parametrize(
    ("cluster", "role", "index", "why"),
    [
        (PAIR, "worker", 2, "no worker 2 in the cluster"),
        (PAIR, "worker", -1, "no worker -1 in the cluster"),
        (PAIR, "chief", 0, "no chief 0 in the cluster"),
        ({**PAIR, "ps": ["d:1"]}, "worker", 0, "other roles"),
        (PAIR, "evaluator", 0, "other roles"),
        ({"chief": ["a:1", "b:1"]}, "chief", 0, "several chiefs"),
        ({"worker": 3}, "worker", 0, "has no len()"),
    ],
)
def test_other_places_are_refused(monkeypatch, cluster, role, index, why):
    announce(monkeypatch, cluster, role, index)

    with pytest.raises(UserError, match="`TF_CONFIG` must be JSON") as caught:
        announced()

    assert why in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '"worker"', "null"])
def test_what_is_no_such_json_is_refused(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)

    with pytest.raises(UserError, match=r"`TF_CONFIG` must be JSON.*Received: "):
        announced()


def test_one_worker_exchanges_with_itself(tmp_path):
    alone = Workers()

    assert alone.exchange(b"abc") == [b"abc"]
    assert alone.agreed({"a": [1, None]}) == {"a": [1, None]}
    assert alone.any(True) and not alone.any(False)
    assert alone.by_chief(lambda: tmp_path) is tmp_path
    assert alone.in_turn(lambda: 3) == 3
    assert alone.own(tmp_path) == tmp_path
    assert alone.shares == (range(1), 1)
    assert all(map(alone.mine, range(5)))
    found = [{"x": np.arange(2)}]
    assert alone.collect(found) is found


def test_one_voice_silences_all_but_the_chief(capsys):
    for index in (0, 1):
        with Workers(Place(index, 2)).one_voice():
            print(f"said by {index}")

    chief, said, other = capsys.readouterr().out.splitlines()
    assert chief == "worker 0 of 2 (the chief, who prints and writes)"
    assert (said, other) == ("said by 0", "worker 1 of 2")
