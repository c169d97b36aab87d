"""Workers: processes, on one or several machines, that run the same command together.

They find each other by the environment variable TF_CONFIG, as everywhere in TensorFlow.
Training shares every batch among them (`MultiWorkerMirroredStrategy`), evaluation
shares out batches, and worker 0, the chief, alone writes the run folder, which all of
them must see.
"""

import atexit
import contextlib
import dataclasses
import functools
import io
import json
import os
import pathlib
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from kerobust.config import UserError

_ROLES = ("chief", "worker")  # In the order of their numbers.
_CHUNK = 1 << 24  # Words that travel at once, 64 MiB.


@dataclasses.dataclass(frozen=True)
class Place:
    """Which worker this process is, and of how many."""

    index: int = 0
    count: int = 1

    @property
    def chief(self) -> bool:
        """Whether this process writes what the run leaves behind."""
        return self.index == 0


def announced() -> Place:
    """Returns the place that TF_CONFIG gives this process; (0, 1) without it.

    Raises:
        UserError: If TF_CONFIG is not what TensorFlow documents, or names other roles
            than chief and worker.
    """
    text = os.environ.get("TF_CONFIG", "").strip()
    if not text:
        return Place()
    try:
        found = json.loads(text)
        cluster, task = found.get("cluster", {}), found.get("task", {})
        sizes = {role: len(addresses) for role, addresses in cluster.items()}
        role, index = task.get("type", "worker"), int(task.get("index", 0))
    except (ValueError, AttributeError, TypeError) as error:
        raise _bad_place(text, str(error)) from error
    if not sizes:
        return Place()
    if not {role, *sizes} <= set(_ROLES) or sizes.get("chief", 1) != 1:
        raise _bad_place(text, "other roles, or several chiefs")
    if not 0 <= index < sizes.get(role, 0):
        raise _bad_place(text, f"no {role} {index} in the cluster")
    before = sizes.get("chief", 0) if role == "worker" else 0
    return Place(before + index, sum(sizes.values()))


def _bad_place(text: str, why: str) -> UserError:
    return UserError(
        'The environment variable `TF_CONFIG` must be JSON with "cluster" (one chief '
        'at most, and workers, each with its addresses) and "task" (type and index of '
        f"this process). Received: {text[:200]} ({why}). Correct it, or unset it to "
        "run on one machine."
    )


class Workers:
    """The workers of this process's run, and what they tell each other.

    What is exchanged passes through TensorFlow's collectives, so every worker must make
    the same calls in the same order. One worker alone exchanges with itself.

    Args:
        place: Which of them this process is.
        strategy: `MultiWorkerMirroredStrategy` of them all; None for one worker.
    """

    def __init__(self, place: Place | None = None, strategy=None):
        self.place = place or Place()
        self.strategy = strategy
        self._gather = (
            None if strategy is None else _gatherer(strategy, self.place.count)
        )

    @property
    def shares(self) -> tuple[range, int]:
        """Which shares of a batch this worker's replicas get, and how many there are.

        One worker gets the whole batch, which Keras shares out over its replicas.
        """
        if self.strategy is None:
            return range(1), 1
        every = self.strategy.num_replicas_in_sync
        local, index = every // self.place.count, self.place.index
        return range(index * local, (index + 1) * local), every

    def distributed(self, batches: tf.data.Dataset):
        """Returns batches of this worker's `shares` as `Model.fit` takes them."""
        if self.strategy is None:
            return batches
        # What might end has batches of unknown size on several workers: let it repeat.
        endless = batches.repeat()
        return self.strategy.distribute_datasets_from_function(lambda _: endless)

    def exchange(self, message: bytes = b"") -> list[bytes]:
        """Returns what every worker gave, in their order; waits for all of them."""
        if self._gather is None:
            return [message]
        # Collectives know int32, not bytes, and count to 2**31.
        words = np.frombuffer(message + bytes(-len(message) % 4), np.int32)
        about = self._gather(tf.constant([words.size, -len(message) % 4]))
        counts, padding = about.numpy().reshape([-1, 2]).T
        parts: list[list[np.ndarray]] = [[] for _ in counts]
        for start in range(0, counts.max(initial=0), _CHUNK):
            # An empty share would be left out: each has one word more than it needs.
            own = np.append(words[start : start + _CHUNK], np.int32(0))
            every = self._gather(tf.constant(own)).numpy()
            sizes = np.clip(counts - start, 0, _CHUNK) + 1
            shares = np.split(every, np.cumsum(sizes)[:-1])
            for part, share in zip(parts, shares, strict=True):
                part.append(share[:-1])
        messages = [b"".join(share.tobytes() for share in part) for part in parts]
        return [
            message[: len(message) - extra]
            for message, extra in zip(messages, padding, strict=True)
        ]

    def differing(self, value: Callable[[], str]) -> int | None:
        """Returns the first worker whose value is not the chief's; None = all agree.

        Args:
            value: Makes it; not called where there is nobody to compare with.
        """
        if self.place.count == 1:
            return None
        every = self.exchange(value().encode())
        return next((i for i, each in enumerate(every) if each != every[0]), None)

    def agreed(self, value: Any) -> Any:
        """Returns the chief's value, which JSON must be able to hold."""
        return json.loads(self.exchange(json.dumps(value).encode())[0])

    def any(self, value: bool) -> bool:
        """Returns whether the value of any worker is true."""
        return any(self.exchange(b"true" if value else b""))

    def by_chief(self, work: Callable[[], Any]) -> Any:
        """Returns what `work` gives the chief, who alone does it, as JSON holds it.

        Raises:
            UserError: On every worker, if `work` raises it.
        """
        if self.place.count == 1:
            return work()
        answer = None
        if self.place.chief:
            try:
                answer = {"value": work()}
            except UserError as error:
                answer = {"error": str(error)}
        answer = self.agreed(answer)
        if "error" in answer:
            raise UserError(answer["error"])
        return answer["value"]

    def in_turn(self, work: Callable[[], Any]) -> Any:
        """Returns `work()`, which the workers do one after the other."""
        result = None
        for index in range(self.place.count):
            if index == self.place.index:
                result = work()
            self.exchange()
        return result

    def own(self, folder: str | os.PathLike) -> pathlib.Path:
        """Returns where this worker writes what belongs in `folder`.

        TensorFlow saves only if all workers do; what others than the chief save goes to
        a folder that is removed at the end of the process.
        """
        folder = pathlib.Path(folder)
        if self.place.chief:
            return folder
        return _scratch() / f"{zlib.crc32(str(folder.absolute()).encode()):08x}"

    def mine(self, index: int) -> bool:
        """Returns whether number `index` of what is shared out is for this worker."""
        return index % self.place.count == self.place.index

    def collect(self, own: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        """Returns what all workers found, in the order of what was shared out.

        Args:
            own: Arrays by name of everything that was `mine`, in order.
        """
        if self.place.count == 1:
            return own
        named = {
            f"{i * self.place.count + self.place.index}/{name}": array
            for i, part in enumerate(own)
            for name, array in part.items()
        }
        found: dict[int, dict[str, np.ndarray]] = {}
        for message in self.exchange(_packed(named)):
            for key, array in _unpacked(message).items():
                index, name = key.split("/", 1)
                found.setdefault(int(index), {})[name] = array
        return [found[index] for index in sorted(found)]

    def of_chief(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the chief's arrays by name; those of the others are not looked at."""
        return _unpacked(self.exchange(_packed(arrays) if self.place.chief else b"")[0])

    @contextlib.contextmanager
    def one_voice(self) -> Iterator[None]:
        """Lets the chief alone print; errors are printed by everybody."""
        if self.place.count > 1:
            told = " (the chief, who prints and writes)" if self.place.chief else ""
            print(f"worker {self.place.index} of {self.place.count}{told}", flush=True)
        if self.place.chief:
            yield
            return
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield


def _gatherer(strategy, count: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a compiled function: int32 [N] -> those of all workers in a row."""

    def share(values):
        context = tf.distribute.get_replica_context()
        local = context.num_replicas_in_sync // count
        first = tf.equal(context.replica_id_in_sync_group % local, 0)
        # The slice has a device of its own, at which it can be gathered.
        return context.all_gather(values[: tf.where(first, tf.size(values), 0)], 0)

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.int32)],
        autograph=False,
    )
    def gather(values):
        every = strategy.run(share, args=(values,))
        return strategy.experimental_local_results(every)[0]

    return gather


def _packed(arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _unpacked(message: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(message), allow_pickle=False) as arrays:
        return dict(arrays)


@functools.cache
def _scratch() -> pathlib.Path:
    folder = tempfile.mkdtemp(prefix="kerobust-worker-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return pathlib.Path(folder)
