"""`python -m kerobust.doctor`: says what is wrong with this installation, and the cure.

The module imports the standard library only and must start where TensorFlow does not.
Whatever may crash the interpreter (imports, devices, the attack) runs in a child.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

OK, WARN, FAIL = "ok", "warn", "FAIL"
REINSTALL = "pip install -c constraints.txt -e ."

# Distribution -> (first version that works, first that does not, what breaks there).
# `tests/doctor_test.py` keeps this table in step with setup.py.
PINS = {
    "tensorflow": ("2.15", "2.16", "2.16 brings Keras 3"),
    "keras": ("2.15", "2.16", "kerobust is written for tf.keras 2"),
    "keras-cv": ("0.9", "0.10", "other versions are not tested"),
    "tensorflow-addons": ("0.23", "0.24", "other versions are not tested"),
    "tensorflow-datasets": ("4.9", "5", "other versions are not tested"),
    "tensorflow-metadata": ("0", "1.18", "tensorflow_datasets would not import"),
    "importlib-resources": ("0", "99", "tensorflow_datasets would not import"),
    "tensorboard": ("2.15", "2.16", "it must match TensorFlow"),
    "setuptools": ("0", "81", "the tensorboard command would not start"),
    "numpy": ("0", "2", "TensorFlow 2.15 is built for NumPy 1"),
    "protobuf": ("3.20.3", "5", "TensorFlow 2.15 needs protobuf 3 or 4"),
    "absl-py": ("0", "3", "other versions are not tested"),
    "safetensors": ("0", "1", "other versions are not tested"),
    "matplotlib": ("3", "4", "other versions are not tested"),
    "pillow": ("9", "99", "other versions are not tested"),
    "tabulate": ("0", "1", "other versions are not tested"),
}
VARIANTS = {"tensorflow": ("tensorflow-cpu", "tensorflow-macos", "tensorflow-intel")}
MODULES = ("tensorflow", "tensorflow_datasets", "keras_cv", "tensorflow_addons")


class Check(NamedTuple):
    """One line of the doctor: `state name: value - advice`."""

    name: str
    state: str
    value: str
    advice: str = ""

    def __str__(self) -> str:
        advice = f" - {self.advice}" if self.advice else ""
        return f"{self.state:<4} {self.name}: {self.value}{advice}"


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Check:
    """Checks that TensorFlow 2.15 has wheels for this Python."""
    text = ".".join(map(str, version))
    if (3, 10) <= version[:2] <= (3, 11):
        return Check("python", OK, text)
    return Check("python", FAIL, text, "use Python 3.10 or 3.11: `make venv` finds it")


def check_versions(installed=None) -> list[Check]:
    """Compares what is installed, or the given dict name -> version, with `PINS`."""
    find = _installed_version if installed is None else installed.get
    return [_check_version(name, find) for name in PINS]


def _check_version(name: str, find) -> Check:
    low, high, reason = PINS[name]
    found = next(filter(None, map(find, (name, *VARIANTS.get(name, ())))), None)
    if found is None:
        return Check(name, FAIL, "not installed", REINSTALL)
    if _numbers(low) <= _numbers(found) < _numbers(high):
        return Check(name, OK, found)
    above = _numbers(found) >= _numbers(high)
    wanted = f"{name}<{high}" if above else f"{name}>={low}"
    return Check(name, FAIL, found, f'{reason}: pip install "{wanted}"')


def _installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """Returns the leading numbers: `2.15.0rc1` is (2, 15, 0)."""
    numbers = []
    for word in version.split("."):
        digits = word[: len(word) - len(word.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def check_tensorboard() -> Check:
    """Starts the TensorBoard command, which dies without pkg_resources."""
    code, output, error = _child(
        "from tensorboard import main; main.run_main()", "--version"
    )
    if code == 0:
        return Check("tensorboard command", OK, output.strip().split("\n")[-1])
    return Check("tensorboard command", FAIL, _last_line(error, code), REINSTALL)


def check_libraries() -> list[Check]:
    """Imports TensorFlow and its family in a child, lists devices, tries an attack."""
    code, output, error = _child("from kerobust import doctor; doctor.examine()")
    lines = [line for line in output.splitlines() if line.startswith('["')]
    checks = [Check(*json.loads(line)) for line in lines]
    expected = [*(f"import {name}" for name in MODULES), "devices", "attack"]
    missing = [name for name in expected if name not in {c.name for c in checks}]
    if missing:
        reason = f"the interpreter died: {_last_line(error, code)}"
        checks.append(Check(missing[0], FAIL, reason, REINSTALL))
    checks += [Check(name, WARN, "not reached") for name in missing[1:]]
    return checks


def examine() -> None:
    """Runs in the child: prints one JSON list per check as soon as it is known."""
    for name in MODULES:
        _report(f"import {name}", _import_version, name)
    _report("devices", _devices)
    _report("attack", _attack_closed_form)


def _report(name: str, function, *arguments) -> None:
    try:
        check = Check(name, OK, function(*arguments))
    except ModuleNotFoundError as error:
        check = Check(name, FAIL, f"no module named {error.name}", REINSTALL)
    except Exception as error:  # whatever it is, it belongs into the report
        text = f"{type(error).__name__}: {str(error).strip().splitlines()[-1:]}"
        check = Check(name, FAIL, text, REINSTALL)
    print(json.dumps(check), flush=True)


def _import_version(name: str) -> str:
    return getattr(importlib.import_module(name), "__version__", "imported")


def _devices() -> str:
    import tensorflow as tf

    kinds = [device.device_type for device in tf.config.list_physical_devices()]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))


def _attack_closed_form() -> str:
    """Attacks a linear model, where the worst perturbation is known.

    The logits are (w.x, 0) with w = (2, -3, 0.5) and the label is 0, so the loss
    falls with w.x and its maximiser in a ball of 0.125 is x - 0.125 sign(w), which
    the box [0, 1] cuts in the last pixel. All numbers are exact in binary.
    """
    import tensorflow as tf

    from kerobust.attacks import PGD

    weights = tf.constant([[2.0, 0.0], [-3.0, 0.0], [0.5, 0.0]])
    images = tf.constant([0.5, 0.5, 0.0625], shape=[1, 1, 1, 3])
    attack = PGD(epsilon=0.125, steps=4, random_start=False)
    found = attack(images, tf.constant([0]), lambda x: tf.reshape(x, [-1, 3]) @ weights)
    expected = [0.375, 0.625, 0.0]
    error = max(
        abs(a - b) for a, b in zip(found.numpy().ravel(), expected, strict=True)
    )
    if error > 1e-6:
        raise ValueError(f"PGD misses its closed form by {error:.1e}")
    return f"PGD reaches its closed form to {error:.0e}"


def check_gpu(devices: str, driver: str | None) -> list[Check]:
    """Warns when the machine has a GPU driver and TensorFlow sees no GPU."""
    if driver is None or "GPU" in devices:
        return []
    advice = 'for the GPU: pip install "tensorflow[and-cuda]==2.15.1"'
    return [Check("gpu", WARN, "driver found, but TensorFlow sees no GPU", advice)]


def check_machine(folder: pathlib.Path) -> list[Check]:
    """Checks cores, free memory, free disk and write access for a work folder."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    memory, disk = _free_memory(), shutil.disk_usage(existing).free
    return [
        Check("cores", OK, str(cores)),
        _check_room("free memory", memory, 2, "lower --data.memory_gigabytes"),
        _check_room("free disk", disk, 2, "free some or choose another --run.workdir"),
        _check_writing(folder, existing),
    ]


def _free_memory() -> int | None:
    """Returns the free bytes of memory, None where the system does not tell."""
    try:
        text = pathlib.Path("/proc/meminfo").read_text()
    except OSError:
        return None
    sizes = dict(line.split(":") for line in text.splitlines())
    return int(sizes["MemAvailable"].split()[0]) * 1024


def _check_room(name: str, free: int | None, needed: int, advice: str) -> Check:
    if free is None:
        return Check(name, OK, "unknown on this system")
    value = f"{free / 2**30:.1f} GB"
    if free >= needed * 2**30:
        return Check(name, OK, value)
    return Check(name, WARN, value, f"below {needed} GB: {advice}")


def _check_writing(folder: pathlib.Path, existing: pathlib.Path) -> Check:
    try:
        with tempfile.TemporaryFile(dir=existing):
            return Check("work folder", OK, str(folder))
    except OSError as error:
        value = f"{folder} ({error.strerror})"
        return Check("work folder", FAIL, value, "choose another --run.workdir")


def _child(code: str, *arguments: str) -> tuple[int, str, str]:
    """Runs `code` in a new interpreter with this one's module path."""
    path = f"import sys; sys.path[:] = {sys.path!r}; "
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", path + code, *arguments],
        capture_output=True,
        text=True,
        env=environment,
    )
    return result.returncode, result.stdout, result.stderr


def _last_line(error: str, code: int) -> str:
    lines = error.strip().splitlines()
    return lines[-1] if lines and code > 0 else f"exit code {code}"


def diagnose(folder: pathlib.Path) -> list[Check]:
    """Returns every check, in the order in which a user should read them."""
    libraries = check_libraries()
    devices = next((c.value for c in libraries if c.name == "devices"), "")
    return [
        check_python(),
        *check_versions(),
        *libraries,
        *check_gpu(devices, shutil.which("nvidia-smi")),
        check_tensorboard(),
        *check_machine(folder),
    ]


def main(argv: list[str]) -> int:
    """Runs the command line `argv`; returns 1 if any check failed, else 0."""
    parser = argparse.ArgumentParser("python -m kerobust.doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--workdir", default="runs", help="folder where runs will be written"
    )
    options = parser.parse_args(argv[1:])
    checks = diagnose(pathlib.Path(options.workdir).absolute())
    healthy = all(check.state != FAIL for check in checks)
    if options.json:
        rows = [check._asdict() for check in checks]
        print(json.dumps({"ok": healthy, "checks": rows}, indent=2))
    else:
        print(*checks, sep="\n")
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
