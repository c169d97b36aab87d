"""Proves BUILD without a network, by Debian's Bazel: the script of `make bazel`.

Today's Bazel downloads the rules that MODULE.bazel names. Debian's 4.2.3 has rules for
Python built in, so a workspace in a temporary folder maps `@rules_python` to those; the
other repositories that it asks for are Debian's packages or stubs.
"""

import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv

ROOT = pathlib.Path(__file__).parents[1]
DEBIAN = pathlib.Path("/usr/share/bazel")
PACKAGES = ("bazel-bootstrap", "bazel-rules-java", "bazel-platforms", "bazel-skylib")
MISSING = f"`make bazel` needs Debian's Bazel: apt-get install {' '.join(PACKAGES)}"
NO_BAZEL = 3  # the exit code of a machine without it

# Repository -> where Debian has it.
INSTALLED = {
    "bazel_skylib": DEBIAN / "tools" / "skylib",
    "platforms": DEBIAN / "tools" / "platforms",
    "rules_java": DEBIAN / "rules" / "java",
}

# Repository -> its package and the rules that Bazel 4 has built in. The tools of Bazel
# load `@rules_cc`; Debian's own needs a later Bazel.
NATIVE = {
    "rules_python": ("python", "py_binary py_library py_test"),
    "rules_cc": (
        "cc",
        "cc_binary cc_import cc_library cc_proto_library cc_test cc_toolchain "
        "cc_toolchain_suite fdo_prefetch_hints fdo_profile objc_import objc_library",
    ),
}

# Every test run asks for this target, whether coverage is collected or not.
COVERAGE = """filegroup(
    name = "coverage_report_generator",
    visibility = ["//visibility:public"],
)
"""

# Quick ones that need code alone, goldens, configs/ and benchmarks/, a page of docs/.
TESTS = (
    "attacks/balls_test",
    "losses/dependence_test",
    "experiments_test",
    "data/offline_test",
)

# What is no part of the tree, or no business of Bazel.
LEFT_OUT = (".*", "__pycache__", "*.egg-info", "bazel-*", "build", "dist", "runs")


def stubs() -> dict[str, str]:
    """Returns the files of the repositories that stand for others: path -> text."""
    files = {"remote_coverage_tools/BUILD": COVERAGE}
    for repository, (package, rules) in NATIVE.items():
        lines = [f"{rule} = native.{rule}\n" for rule in rules.split()]
        files[f"{repository}/{package}/BUILD"] = ""
        files[f"{repository}/{package}/defs.bzl"] = "".join(lines)
    return files


def make_workspace(folder: pathlib.Path) -> pathlib.Path:
    """Copies the tree into `folder`, stubs beside it; returns the copy."""
    workspace = folder / "workspace"
    shutil.copytree(ROOT, workspace, ignore=shutil.ignore_patterns(*LEFT_OUT))
    places = dict(INSTALLED)
    for name, text in stubs().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        repository = name.split("/")[0]
        places[repository] = folder / repository
    lines = ['workspace(name = "kerobust")\n']
    for repository, place in places.items():
        (folder / repository).mkdir(exist_ok=True)
        (folder / repository / "WORKSPACE").touch()
        lines += [f'local_repository(name = "{repository}", path = "{place}")\n']
    (workspace / "WORKSPACE").write_text("".join(lines))
    return workspace


def make_interpreter(folder: pathlib.Path) -> pathlib.Path:
    """Makes an environment with the packages of this one; returns its programs.

    Development installs kerobust as a link to the checkout, where Python would find
    what a target fails to depend on. The link is a `.pth` file; those of a folder that
    a `.pth` file names are not followed.
    """
    venv.create(folder, symlinks=True)
    inside = sysconfig.get_path("purelib", vars={"base": str(folder)})
    packages = sysconfig.get_path("purelib")
    (pathlib.Path(inside) / "packages.pth").write_text(f"{packages}\n")
    return folder / "bin"


def prove(bazel: str, folder: pathlib.Path) -> bool:
    """Builds every target and runs `TESTS`; returns whether all went well."""
    workspace = make_workspace(folder)
    programs = make_interpreter(folder / "environment")
    start = [bazel, "--nohome_rc", f"--output_user_root={folder / 'output'}"]
    options = [
        "--experimental_repository_disable_download",  # any attempt is an error
        "--nobuild_runfile_links",  # 150 copies of the tree that nobody runs
        "--noshow_progress",
        "--nosandbox_debug",  # Debian's settings turn it on
        "--test_output=errors",
        f"--test_env=PATH={programs}:/usr/bin:/bin",
    ]
    tests = [f"//:tests/{name}" for name in TESTS]
    try:
        for words in (["build", *options, "//..."], ["test", *options, *tests]):
            if subprocess.run([*start, *words], cwd=workspace).returncode:
                return False
        return True
    finally:
        # The server ends, and what it has write-protected goes.
        subprocess.run([*start, "clean", "--expunge"], cwd=workspace)


def main() -> int:
    """Returns 0 for a sound BUILD, 1 for a faulty one and 3 without Bazel."""
    bazel = shutil.which("bazel")
    if bazel is None or not all(place.is_dir() for place in INSTALLED.values()):
        print(MISSING, file=sys.stderr)
        return NO_BAZEL
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        sound = prove(bazel, pathlib.Path(folder))
    seconds = f"{time.monotonic() - begun:.0f} s"
    print(f"make bazel: {'all is well' if sound else 'failed'} after {seconds}")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
