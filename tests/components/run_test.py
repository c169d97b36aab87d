"""`python -m components.run` from data to shelf."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from kerobust.components import run
from kerobust.components.local_runner import LocalRunner
from kerobust.flags import USER_ERROR

pytest.importorskip("ml_metadata")
ROOT = pathlib.Path(__file__).parents[2]
TINY = (
    *("--model.width=16", "--model.depth=1", "--model.heads=2"),
    *("--mae.decoder_width=16", "--mae.decoder_depth=1", "--mae.decoder_heads=2"),
    *("--mimir.mi_batch=32", "--pretrain.epochs=1", "--pretrain.batch_size=64"),
    *("--pretrain.warmup_epochs=0", "--finetune.epochs=8", "--finetune.attack=natural"),
    *("--finetune.warmup_epochs=0", "--finetune.base_rate=0.02"),
    *("--finetune.layer_decay=1", "--evaluate.attacks=fgsm", "--evaluate.limit=60"),
    *("--evaluate.curve=false", "--evaluate.diagnose=false", "--attack.epsilon=0.05"),
)


def flags(folder, *more) -> list[str]:
    own = (f"--pipeline.root={folder / 'root'}", f"--push.dir={folder / 'shelf'}")
    return ["run", "--pipeline=mimir", *TINY, *own, *more]


def words(output: str) -> dict[str, str]:
    """Component -> what the last line about it says."""
    lines = [line for line in output.splitlines() if line.startswith("[")]
    return {line.split("]")[0][1:]: line.split("] ")[1] for line in lines}


def versions(folder) -> list[str]:
    return sorted(path.name for path in (folder / "shelf" / "model").glob("[0-9]*"))


@pytest.mark.slow
def test_a_pipeline_runs_reuses_judges_and_pushes(tmp_path, capsys):
    assert run.main(flags(tmp_path)) == 0
    first = words(capsys.readouterr().out)
    assert run.main(flags(tmp_path)) == 0
    second = words(capsys.readouterr().out)

    assert list(first) == [
        *("example_gen", "pretrain", "probe", "evaluate", "validate", "push")
    ]
    assert all("has not been run" in text for text in first.values())
    assert all(text.startswith("cached: ") for text in second.values())
    assert versions(tmp_path) == ["1"]

    # Trained far too little: below the last blessed one, so neither blessed nor pushed.
    assert run.main(flags(tmp_path, "--finetune.base_rate=1e-9")) == 0
    output = capsys.readouterr().out
    third = words(output)
    assert third["pretrain"].startswith("cached")
    assert third["probe"].split(": ", 1)[1].startswith("--finetune.base_rate=")
    assert "not blessed" in output and "not pushed" in output
    assert versions(tmp_path) == ["1"]

    # Only the verdict depends on its limits.
    assert run.main(flags(tmp_path, "--validate.min_clean=0.01")) == 0
    fourth = words(capsys.readouterr().out)
    cached = [name for name, text in fourth.items() if text.startswith("cached")]
    assert cached == ["example_gen", "pretrain", "probe", "evaluate"]


@pytest.mark.slow
def test_a_killed_pipeline_goes_on(tmp_path):
    command = [sys.executable, "-m", "components.run", *flags(tmp_path)[1:]]
    command += ["--run.checkpoint_steps=2", "--pretrain.epochs=20"]
    given = {"cwd": ROOT, "env": {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **given)
    deadline = time.monotonic() + 200
    while len(rows(tmp_path)) < 3 and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = rows(tmp_path)

    done = subprocess.run(command, capture_output=True, text=True, **given)

    assert done.returncode == 0, done.stderr
    assert words(done.stdout)["example_gen"].startswith("cached")
    # Rows hold the time at which they were written: the first were not written again.
    assert rows(tmp_path)[:2] == before[:2] and len(before) >= 3
    assert versions(tmp_path) == ["1"]


def rows(folder) -> list[str]:
    """Lines of the log of metrics of the pretraining."""
    found = list(folder.glob("root/pretrain/*/model/pretrain/metrics.jsonl"))
    return found[0].read_text().splitlines() if found else []


def test_errors_of_the_command_line_are_those_of_every_command(tmp_path, capsys):
    code = run.main(flags(tmp_path, "--finetune.epochs=-1"))

    assert code == USER_ERROR
    assert "`--finetune.epochs` must be" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--pipeline=mimr", "`--pipeline.name` must be one of"),
        ("--pipelin.root=x", "--pipeline.root"),
    ],
)
def test_wrong_flags_are_named(capsys, flag, message):
    assert run.main(["run", flag]) == USER_ERROR
    assert message in capsys.readouterr().err


def test_a_dry_run_shows_the_graph_and_writes_nothing(tmp_path, capsys):
    assert run.main(flags(tmp_path, "--dry_run")) == 0

    assert "[probe] {'examples': 'example_gen.examples'" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method=dverge"], "`--method` must be one of"),
        (["--push.dir="], "`--push.dir` must name a folder for the component push"),
        (
            ["--pipeline=deacl", "--method=deacl", "--run.init_from=x"],
            "`--run.init_from` must be empty for the pipeline deacl",
        ),
    ],
)
def test_what_does_not_fit_the_pipeline_is_refused_at_once(
    tmp_path, capsys, more, message
):
    assert run.main(flags(tmp_path, *more)) == USER_ERROR
    assert message in capsys.readouterr().err


def test_nocache_is_the_short_form_of_its_flag(tmp_path, capsys, monkeypatch):
    seen = []

    monkeypatch.setattr(run, "write_page", lambda *arguments: "")

    def fake(self, pipeline, config):
        seen.append((pipeline.name, self.caching))

    monkeypatch.setattr(LocalRunner, "run", fake)
    for more in ((), ("--nocache",), ("--pipeline.nocache",), ("--pipeline=dverge",)):
        assert run.main(flags(tmp_path, *more)) == 0

    assert [each[1] for each in seen] == [True, False, False, True]
    assert [each[0] for each in seen] == ["mimir", "mimir", "mimir", "dverge"]
