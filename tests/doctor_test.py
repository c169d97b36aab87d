"""The doctor: it finds planted faults and starts where TensorFlow does not."""

import ast
import importlib.metadata
import json
import pathlib
import subprocess
import sys
import sysconfig

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from kerobust import doctor

ROOT = pathlib.Path(__file__).parents[1]
HEALTHY = {
    "tensorflow": "2.15.1",
    "keras": "2.15.0",
    "keras-cv": "0.9.0",
    "tensorflow-addons": "0.23.0",
    "tensorflow-datasets": "4.9.10",
    "tensorflow-metadata": "1.17.3",
    "importlib-resources": "7.1.0",
    "tensorboard": "2.15.2",
    "setuptools": "80.9.0",
    "numpy": "1.26.4",
    "protobuf": "4.25.9",
    "absl-py": "1.4.0",
    "safetensors": "0.8.0",
    "matplotlib": "3.10.0",
    "pillow": "13.0.0",
    "tabulate": "0.10.0",
}


def _requirements() -> dict[str, SpecifierSet]:
    """Returns install_requires of setup.py."""
    for node in ast.walk(ast.parse((ROOT / "setup.py").read_text("utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "install_requires":
            parsed = map(Requirement, ast.literal_eval(node.value))
            return {item.name: item.specifier for item in parsed}
    raise LookupError("setup.py has no install_requires")


def _pinned() -> dict[str, str]:
    """Returns constraints.txt as name -> version."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {
        pin.name.lower().replace("_", "-"): next(iter(pin.specifier)).version
        for pin in pins
        if pin.marker is None or pin.marker.evaluate()
    }


def test_every_requirement_is_checked():
    assert set(_requirements()) <= set(doctor.PINS)


@pytest.mark.parametrize("name", sorted(_requirements()))
def test_the_doctor_accepts_what_setup_accepts(name):
    low, high, _ = doctor.PINS[name]
    specifier = _requirements()[name]

    # Where setup.py sets a bound, the doctor has the same one.
    assert low == "0" or not specifier or specifier.contains(low)
    assert not specifier or not specifier.contains(high)


def test_the_constraints_are_healthy():
    pinned = {name: _pinned()[name] for name in doctor.PINS}

    assert {check.state for check in doctor.check_versions(pinned)} == {"ok"}


def test_known_good_versions_are_ok():
    assert {check.state for check in doctor.check_versions(HEALTHY)} == {"ok"}


@pytest.mark.parametrize(
    ("name", "version", "advice"),
    [
        ("tensorflow-metadata", "1.21.0", 'pip install "tensorflow-metadata<1.18"'),
        ("setuptools", "81.0.0", 'pip install "setuptools<81"'),
        ("numpy", "2.0.1", 'pip install "numpy<2"'),
        ("protobuf", "5.28.3", 'pip install "protobuf<5"'),
        ("keras", "3.3.3", 'pip install "keras<2.16"'),
        ("tensorflow", "2.16.1", 'pip install "tensorflow<2.16"'),
        ("tensorflow", "2.14.0", 'pip install "tensorflow>=2.15"'),
        ("tabulate", None, "pip install -c constraints.txt -e ."),
    ],
)
def test_a_known_conflict_is_found_and_its_cure_named(name, version, advice):
    checks = doctor.check_versions({**HEALTHY, name: version})

    (failed,) = [check for check in checks if check.state == "FAIL"]
    assert failed.name == name
    assert failed.value == (version or "not installed")
    assert failed.advice.endswith(advice)


def test_another_distribution_of_tensorflow_counts():
    installed = {**HEALTHY, "tensorflow": None, "tensorflow-cpu": "2.15.1"}

    assert {check.state for check in doctor.check_versions(installed)} == {"ok"}


@pytest.mark.parametrize(
    ("version", "state"),
    [((3, 9, 1), "FAIL"), ((3, 10, 0), "ok"), ((3, 11, 9), "ok"), ((3, 12, 1), "FAIL")],
)
def test_only_pythons_with_tensorflow_wheels_pass(version, state):
    assert doctor.check_python(version).state == state


def test_a_line_reads_state_name_value_advice():
    check = doctor.Check("numpy", "FAIL", "2.0.1", "take 1.26")

    assert str(check) == "FAIL numpy: 2.0.1 - take 1.26"
    assert str(check._replace(state="ok", advice="")) == "ok   numpy: 2.0.1"


def test_a_crash_of_the_interpreter_is_a_line_of_the_report(monkeypatch):
    report = '["import tensorflow", "ok", "2.15.1", ""]\n'
    monkeypatch.setattr(doctor, "_child", lambda code: (-4, report, ""))

    checks = doctor.check_libraries()

    # Signal 4 (illegal instruction) is what a processor without AVX gives.
    states = [check.state for check in checks]
    assert states == ["ok", "FAIL", "warn", "warn", "warn", "warn"]
    assert checks[1].name == "import tensorflow_datasets"
    assert checks[1].value == "the interpreter died: exit code -4"


def test_a_driver_without_a_visible_gpu_is_a_warning():
    (check,) = doctor.check_gpu("1 CPU", "/usr/bin/nvidia-smi")

    assert check.state == "warn"
    assert "tensorflow[and-cuda]==2.15.1" in check.advice
    assert doctor.check_gpu("1 CPU, 1 GPU", "/usr/bin/nvidia-smi") == []
    assert doctor.check_gpu("1 CPU", None) == []


def test_a_full_disk_is_a_warning_and_an_unknown_size_is_not():
    assert doctor._check_room("free disk", 2**30, 2, "").state == "warn"
    assert doctor._check_room("free disk", 2**31, 2, "").state == "ok"
    assert doctor._check_room("free disk", None, 2, "").state == "ok"


def test_a_folder_that_cannot_be_written_fails(tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)

    check = doctor.check_machine(tmp_path / "runs")[-1]

    assert check.state == "FAIL"
    assert check.value == f"{tmp_path / 'runs'} (Permission denied)"
    assert "--run.workdir" in check.advice


def test_checking_a_work_folder_leaves_no_trace(tmp_path):
    folder = tmp_path / "a" / "b"

    check = doctor.check_machine(folder)[-1]

    assert check == doctor.Check("work folder", "ok", str(folder))
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_works_where_tensorflow_is_not_installed(tmp_path):
    # -I -S: no site-packages at all; only the standard library and the checkout.
    standard = [path for path in sys.path if "site-packages" not in path]
    code = (
        f"import sys; sys.path[:] = {[*standard, str(ROOT)]!r}; "
        "from kerobust import doctor; "
        f"sys.exit(doctor.main(['', '--json', '--workdir', {str(tmp_path)!r}]))"
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True)

    assert result.stderr == ""
    assert result.returncode == 1
    report = json.loads(result.stdout)
    rows = {row["name"]: row for row in report["checks"]}
    assert report["ok"] is False
    assert rows["python"]["state"] == "ok"
    assert rows["tensorflow"]["value"] == "not installed"
    assert rows["import tensorflow"]["value"] == "no module named tensorflow"
    assert rows["tensorboard command"]["state"] == "FAIL"
    assert rows["work folder"]["state"] == "ok"


@pytest.mark.slow
def test_the_doctor_passes_in_the_environment_of_the_tests(tmp_path):
    command = [sys.executable, "-m", "kerobust.doctor", "--workdir", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert "FAIL" not in result.stdout
    assert "ok   attack: PGD reaches its closed form to" in result.stdout
    installed = importlib.metadata.version("tensorflow")
    assert f"ok   tensorflow: {installed}" in lines


def test_the_tensorboard_command_is_installed_beside_python():
    command = pathlib.Path(sysconfig.get_path("scripts")) / "tensorboard"
    result = subprocess.run([command, "--version"], capture_output=True, text=True)

    assert result.returncode == 0, result.stderr
