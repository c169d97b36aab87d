"""How training and evaluation share out over devices, and what that costs.

`python -m benchmarks.scaling` gives every logical CPU device one thread and compares,
in the same rounds and on the same batch:

- one step of a method on one device and on two (each with half of the batch), and on
  one device in parts (accumulated gradients);
- PGD on one device and on two.

Twice the speed is the most that two devices can give. A second table says how much
memory a step adds, in processes of their own, for the batch at once and in parts.

The third table is an estimate on paper for the settings of configs/paper: bytes that
every device exchanges per step and the work that it does without exchanging anything,
attacks before all. Nothing overlaps in it, so real efficiency should be higher.
"""

import argparse
import os

# Read when TensorFlow is imported, which the imports below do: errors only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from benchmarks import _measure, dverge_step, ssl_step
from benchmarks._pages import ROOT
from benchmarks._steps import shown, timed
from benchmarks.memory import resident
from kerobust import flags
from kerobust.attacks import PGD
from kerobust.distribute import ensure_logical_cpus, strategy
from kerobust.experiment import ExperimentConfig
from kerobust.methods import METHODS
from kerobust.methods.base import Method
from kerobust.methods.start import Length
from kerobust.models.heads import Classifier, ClassifierHead
from kerobust.models.vit import VitConfig

NAME = "scaling"
_VIT_B = ("--model.size=base", "--model.patch_size=16", "--model.positions=learned")
# Settings of configs/paper, and what their starting bundle adds.
PAPER: dict[str, tuple[str, ...]] = {
    "mimir_imagenet": (),
    "rodino_imagenet100": (),
    "deacl_dino_vitb16": _VIT_B,
    "dverge_cifar10_resnet20": (),
}
PARTS = 4
# What the estimate assumes of a GPU: operations per second in float32 with tensor
# cores, and bytes per second to its neighbours within one machine and beyond it.
SPEED, WITHIN, BEYOND, PER_MACHINE = 50e12, 200e9, 20e9, 8


class Work(NamedTuple):
    """Passes per image and step through the whole encoder.

    A pass is a forward, a gradient of images, or a gradient of weights: equally much.
    """

    alone: float
    update: float


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """Returns the settings of a command line."""
    parser = ssl_step.parser_of_sizes(__doc__)
    parser.add_argument("--members", type=int, default=3, help="of the ensemble")
    parser.add_argument(
        "--methods", nargs="*", choices=("deacl", "dverge"), default=["deacl", "dverge"]
    )
    parser.add_argument(
        "--paper", nargs="*", choices=PAPER, default=list(PAPER), help="estimates"
    )
    parser.add_argument("--peak", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def method_for(name: str, chosen: argparse.Namespace) -> tuple[Method, dict]:
    """Returns a compiled method of the current strategy, and a batch for it."""
    if name == "dverge":
        return dverge_step.method_for("conv", chosen), dverge_step.batch_for(
            chosen.batch
        )
    return ssl_step.method_for(name, chosen), ssl_step.batch_for(chosen.batch)


def steps(name: str, chosen: argparse.Namespace) -> dict[str, Callable]:
    """Returns one step of a method on one device, on two, and in parts."""
    kinds = {"one device": (1, 1), "two devices": (2, 1), "in parts": (1, PARTS)}
    return {
        kind: _step(name, chosen, devices, parts)
        for kind, (devices, parts) in kinds.items()
    }


def _step(name: str, chosen, devices: int, parts: int) -> Callable:
    scope = strategy(devices)
    with scope.scope():
        method, batch = method_for(name, chosen)
        method.accumulation_steps = parts
        dataset = tf.data.Dataset.from_tensor_slices(batch).repeat()
        dataset = dataset.batch(chosen.batch, drop_remainder=True).prefetch(2)
        iterator = iter(scope.experimental_distribute_dataset(dataset))
        function = method.make_train_function()

    def run():
        with scope.scope():
            return function(iterator)

    return run


def attacks(chosen: argparse.Namespace) -> dict[str, Callable]:
    """Returns PGD on a classifier, on one device and on two."""
    encoder = VitConfig(
        width=chosen.width, depth=chosen.depth, heads=4, patch_size=4
    ).build(ssl_step.SHAPE)
    images = ssl_step.batch_for(chosen.batch)["images"]
    labels = tf.range(chosen.batch) % 10
    found = {}
    for kind, devices in {"one device": 1, "two devices": 2}.items():
        with strategy(devices).scope():
            own = type(encoder).from_config(encoder.get_config())
            model = Classifier(own, ClassifierHead(10))
            model(images)
            attack = PGD(8 / 255, steps=chosen.steps)
        found[kind] = _in_scope(devices, attack, images, labels, model)
    return found


def _in_scope(devices: int, attack, *arguments) -> Callable:
    def run():
        with strategy(devices).scope():
            return attack(*arguments)

    return run


def peak(chosen: argparse.Namespace, parts: int) -> float:
    """Returns by how many MiB steps in so many parts raise the peak of a process."""
    given = {**vars(chosen), "peak": parts, "batch": PARTS * chosen.batch}
    names = ("batch", "width", "depth", "steps", "members", "peak")
    arguments = [f"--{name}={given[name]}" for name in names]
    command = [sys.executable, "-m", "benchmarks.scaling", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"The process of {parts} parts failed: {done.stderr[-500:]}")
    return float(done.stdout.split()[-1])


def _print_peak(chosen: argparse.Namespace) -> None:
    method, batch = method_for("deacl", chosen)
    method.accumulation_steps = chosen.peak
    dataset = tf.data.Dataset.from_tensors(batch).repeat()
    function, iterator = method.make_train_function(), iter(dataset)
    function.get_concrete_function(iterator)  # Tracing needs memory of its own.
    before = resident()
    # Forgets the peak of the imports (Linux: Documentation/filesystems/proc.rst).
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    for _ in range(3):
        function(iterator)
    print(_high_water() - before)


def _high_water() -> float:
    """Returns the largest resident memory since the last reset in MiB."""
    status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    line = next(x for x in status.splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def work(config: ExperimentConfig) -> Work:
    """Returns the passes of a method's step; heads and decoders are left out."""
    if config.method == "mimir":  # A quarter of the patches is seen.
        return Work(2 * config.mimir.steps / 4, 3 / 4)
    if config.method == "deacl":  # Teacher and attack; clean and attacked view.
        return Work(1 + 2 * config.deacl.steps, 2 * 3)
    if config.method == "rodino":  # Two views of the teacher; three of the student.
        return Work(2 + 2 * config.rodino.steps, 3 * 3)
    members = config.ensemble.members  # Each learns from all others.
    distilled = members * (1 + 2 * config.dverge.steps)
    return Work(distilled, 3 * members * (members - 1))


def estimate(name: str) -> dict[str, str]:
    """Returns the row of a configuration of configs/paper."""
    path = ROOT / "configs" / "paper" / f"{name}.flags"
    config = flags.parse([f"--flagfile={path}", *PAPER[name]]).config
    size = config.data.image_size or 32
    shape, kind = (size, size, 3), METHODS[config.method]
    start = config.model.build(shape) if config.method == "deacl" else None
    more = {"num_classes": 10} if kind.SUPERVISED else {}
    method = kind.from_experiment(config, shape, Length(10, 10), start, **more)
    count = sum(tf.size(item).numpy() for item in method.trained_variables())
    encoder = getattr(method, "encoder", None) or method.members[0]
    passes, operations = work(config), forward_operations(encoder, shape)
    step = config.pretrain.batch_size * operations * sum(passes) / SPEED
    row = {
        "settings": name,
        "trained parameters": f"{count / 1e6:.2f} M",
        "GFLOP per forward": f"{operations / 1e9:.3g}",
        "passes alone": f"{passes.alone:g}",
        "passes of the update": f"{passes.update:g}",
        "MB per all-reduce": f"{4 * count / 1e6:.3g}",
        "one GPU, ms": f"{1000 * step:.3g}",
    }
    for gpus in (8, 64):
        row[f"efficiency on {gpus}"] = f"{efficiency(step, 4 * count, gpus):.0%}"
    return row


def efficiency(step: float, size: float, gpus: int) -> float:
    """Returns the share of time spent computing, a fixed batch on so many GPUs.

    Args:
        step: Seconds that one GPU computes for the batch.
        size: Bytes of all gradients, exchanged in a ring.
        gpus: Number of devices.
    """
    speed = WITHIN if gpus <= PER_MACHINE else BEYOND
    exchange = 2 * (gpus - 1) / gpus * size / speed
    return step / gpus / (step / gpus + exchange)


def forward_operations(model, shape: tuple[int, int, int]) -> int:
    """Returns the floating-point operations of one image's forward, by TensorFlow."""
    signature = tf.TensorSpec([1, *shape], tf.float32)
    graph = tf.function(model, autograph=False).get_concrete_function(signature).graph
    profiler = tf.compat.v1.profiler
    wanted = profiler.ProfileOptionBuilder(
        profiler.ProfileOptionBuilder.float_operation()
    )
    found = profiler.profile(graph, options=wanted.with_empty_output().build())
    return found.total_float_ops


def main(argv: list[str] | None = None) -> int:
    """Measures, prints the tables and writes the JSON file."""
    chosen = options(argv)
    if chosen.peak:
        _print_peak(chosen)
        return 0
    tf.config.threading.set_intra_op_parallelism_threads(1)
    ensure_logical_cpus(2)
    about = _measure.machine(("keras-cv", "tensorflow-addons"))
    contenders = {name: steps(name, chosen) for name in chosen.methods}
    contenders["PGD"] = attacks(chosen)
    results, lines = _side_by_side(contenders, chosen.rounds)
    memory = {parts: peak(chosen, parts) for parts in (1, 2, PARTS)}
    results["peak"] = memory
    rows = [
        {"parts": str(parts), "MiB": f"{size:.0f}", "share": f"{size / memory[1]:.2f}"}
        for parts, size in memory.items()
    ]
    further = [
        (
            f"What three steps of deacl on {PARTS * chosen.batch} images add to the "
            "memory of a process at most, with the batch in parts.",
            rows,
        )
    ]
    if chosen.paper:
        estimates = [estimate(name) for name in chosen.paper]
        results["estimates"] = estimates
        further.append((_assumptions(), estimates))
    sentence = (
        f"Milliseconds on {chosen.batch} images of 32 x 32 pixels, one thread per "
        f"device, attacks of {chosen.steps} steps; speed-up = one device / two "
        f"devices, at most 2; in parts = {PARTS} accumulated gradients. Median and "
        "quartiles of the rounds."
    )
    _measure.report(NAME, chosen, about, sentence, lines, results, further=further)
    return 0


def _side_by_side(contenders, rounds: int) -> tuple[dict, list[dict[str, str]]]:
    """Returns the seconds of all ways in all rounds, and the rows of the table."""
    results: dict = {}
    lines = []
    for name, ways in contenders.items():
        seconds = results[name] = timed(ways, rounds, name)
        one, two = seconds["one device"], seconds["two devices"]
        line = {"what": name, **shown(seconds)}
        line["speed-up"] = _measure.show(_measure.ratios(one, two))
        if "in parts" in seconds:
            slower = _measure.ratios(seconds["in parts"], one)
            line["parts / whole"] = _measure.show(slower)
        lines.append(line)
    return results, lines


def _assumptions() -> str:
    return (
        "On paper, nothing of it measured: the batch of the settings on one GPU that "
        f"computes {SPEED / 1e12:g} TFLOP/s, and shared by 8 of one machine "
        f"({WITHIN / 1e9:g} GB/s) and by 64 of eight ({BEYOND / 1e9:g} GB/s), a ring "
        "all-reduce that overlaps with nothing. Passes alone (attacks, teachers) "
        "exchange nothing."
    )


if __name__ == "__main__":
    raise SystemExit(main())
