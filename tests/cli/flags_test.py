"""The command line: sources of settings, flag files, switches."""

import dataclasses
import pathlib

import pytest
from absl import flags as absl_flags

from kerobust import evaluate, flags, probe, train
from kerobust.config import UserError
from kerobust.experiment import STAGES, ExperimentConfig
from kerobust.methods import METHODS

ROOT = pathlib.Path(__file__).parents[2]


def test_fractions_are_read_exactly():
    assert flags.parse(["--attack.epsilon=8/255"]).config.attack.epsilon == 8 / 255


def test_the_last_setting_wins_and_its_source_is_known(tmp_path):
    path = tmp_path / "a.flags"
    path.write_text("# comment\n--run.seed=1\n--run.devices=2\n")

    parsed = flags.parse([f"--flagfile={path}", "--run.seed=7"])

    assert parsed.config.run.seed == 7
    assert parsed.sources["run.seed"] == "command line"
    assert parsed.sources["run.devices"] == str(path)


def test_nested_flag_files_are_found_beside_the_file_that_names_them(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "outer.flags").write_text("--flagfile=inner/a.flags\n--run.seed=2\n")
    (tmp_path / "inner" / "a.flags").write_text("--flagfile=b.flags\n--run.seed=1\n")
    (tmp_path / "inner" / "b.flags").write_text("--method=mae\n")

    config = flags.parse([f"--flagfile={tmp_path / 'outer.flags'}"]).config

    assert (config.method, config.run.seed) == ("mae", 2)


def test_booleans_lists_and_empty_values_are_read():
    config = flags.parse(
        [
            "--mae.norm_pix=false",
            "--run.jit_compile",
            "--evaluate.epsilons=1/255,0.1",
            "--evaluate.limit=",
        ]
    ).config

    assert config.mae.norm_pix is False and config.run.jit_compile is True
    assert config.evaluate.epsilons == (1 / 255, 0.1)
    assert config.evaluate.limit is None


def test_a_space_instead_of_the_equals_sign_is_explained():
    with pytest.raises(UserError, match="--run.seed=value"):
        flags.parse(["--run.seed"])
    with pytest.raises(UserError, match="--name=value"):
        flags.parse(["--run.seed=1", "3"])


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/**/*.flags")), ids=str)
def test_every_flag_file_parses_and_names_its_command(path):
    config = flags.parse([f"--flagfile={path}"]).config

    assert config.to_flags()["method"] == config.method
    first = path.read_text().splitlines()[0]
    assert first.startswith("# python -m kerobust.")
    assert str(path.relative_to(ROOT)) in path.read_text()


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/paper/*.flags")), ids=str)
def test_every_published_recipe_names_its_data(path):
    assert "data.name" in flags.parse([f"--flagfile={path}"]).sources


def test_the_list_of_a_published_recipe_is_needed(tmp_path, capsys):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
    path = ROOT / "configs" / "paper" / "rodino_imagenet100.flags"
    given = [f"--flagfile={path}", f"--data.dir={tmp_path}", "--dry_run"]

    assert train.main(["train", *given]) == flags.USER_ERROR
    assert "imagenet_subset:imagenet100.txt" in capsys.readouterr().err


def test_help_lists_the_words_that_a_flag_takes():
    values = absl_flags.FlagValues()
    flags.define(values, {})

    help_of = {name: values[name].help for name in values}
    assert help_of["method"].endswith(f"One of: {', '.join(METHODS)}.")
    assert help_of["run.stages"].endswith(f"Each one of: {', '.join(STAGES)}.")
    fields = {
        f"{section}.{field.name}": field.metadata["choices"]
        for section, part in ExperimentConfig().sections().items()
        for field in dataclasses.fields(part)
    }
    chosen = {name: words for name, words in fields.items() if words}
    assert chosen["attack.norm"] == ("linf", "l2", "l1") and len(chosen) > 30
    for name, words in chosen.items():
        assert help_of[name].lower().endswith(f"one of: {', '.join(words)}.".lower())


def test_help_shows_one_section(capsys):
    assert evaluate.main(["program", "--help=benchmark"]) == 0

    lines = capsys.readouterr().out.splitlines()
    names = [line.strip() for line in lines if line.startswith("  --")]
    assert names.pop() == "--evaluation.encoders="
    assert {name.split(".")[0] for name in names} == {"--benchmark"}


def test_help_of_an_unknown_section_lists_them(capsys):
    assert train.main(["program", "--help=atack"]) == flags.USER_ERROR

    message = capsys.readouterr().err
    assert message.startswith("error: `--help` must be one of: run, data, model, ")
    assert 'Received: atack. Did you mean "attack"?' in message


def test_help_says_how_to_call_the_module(capsys):
    assert train.main([train.__file__, "--help"]) == 0
    first = capsys.readouterr().out
    assert train.main(["/somewhere/program", "--help"]) == 0

    assert "\nUsage: python -m kerobust.train [--flagfile=FILE]" in first
    assert "\nUsage: program [--flagfile=FILE]" in capsys.readouterr().out


@pytest.mark.parametrize("main", [train.main, probe.main, evaluate.main])
def test_help_version_and_config_are_printed(main, capsys):
    assert main(["program", "--version"]) == 0
    assert capsys.readouterr().out.startswith("kerobust ")
    assert main(["program", "--help"]) == 0
    assert "--attack.epsilon=8/255" in capsys.readouterr().out
    assert main(["program", "--print_config", "--attack.epsilon=4/255"]) == 0
    assert "--attack.epsilon=4/255  # command line" in capsys.readouterr().out


@pytest.mark.slow
def test_a_dry_run_estimates_and_writes_nothing(tmp_path, capsys):
    workdir = tmp_path / "run"

    code = train.main(
        [
            "train",
            f"--run.workdir={workdir}",
            "--run.stages=pretrain,finetune",
            "--finetune.batch_size=32",
            "--model.width=16",
            "--dry_run",
        ]
    )

    printed = capsys.readouterr().out
    assert code == 0 and not workdir.exists()
    sizes = "train 1,100; validation 200; test 497"
    assert f"data: digits: 10 classes, 8 x 8 pixels, in memory; {sizes}\n" in printed
    assert "trained parameters" in printed and "minutes" in printed
    assert printed.count("(without activations)") == 2
    assert "time not included" not in printed


def test_debug_shows_the_traceback(capsys):
    assert train.main(["train", "--attack.epsilon=8", "--debug"]) == flags.USER_ERROR
    assert "Traceback" in capsys.readouterr().err
