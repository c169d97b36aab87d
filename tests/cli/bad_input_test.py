"""Every mistake ends in one paragraph: flag, expectation, what arrived, the fix."""

import os
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from kerobust import distribute, train
from kerobust.config import UserError
from kerobust.data.datasets import EMBEDDED, PREFIXES
from kerobust.flags import USER_ERROR
from kerobust.models import MaeDecoder
from kerobust.models.bundle import save_bundle
from kerobust.workflows import running

TINY = (
    "--model.width=16",
    "--model.depth=1",
    "--model.heads=2",
    "--mae.decoder_width=16",
    "--mae.decoder_depth=1",
    "--mae.decoder_heads=2",
    "--pretrain.epochs=1",
    "--pretrain.warmup_epochs=0",
    "--finetune.warmup_epochs=0",
    "--pretrain.batch_size=32",
    "--finetune.batch_size=32",
)


def run(tmp_path, capsys, *arguments):
    """Returns (exit code, standard error) of `kerobust.train` in a fresh folder."""
    workdir = f"--run.workdir={tmp_path / 'run'}"
    code = train.main(["train", workdir, *TINY, *arguments])
    return code, capsys.readouterr().err


def assert_refused(outcome, *fragments):
    """One paragraph that holds every fragment; exit code 2; no traceback."""
    code, message = outcome
    assert code == USER_ERROR
    assert "Traceback" not in message
    assert message.startswith("error: ") and message.count("\n") == 1
    for fragment in fragments:
        assert fragment in message


@pytest.mark.parametrize(
    ("argument", "fragments"),
    [
        ("--attack.epsilon=8", ("--attack.epsilon", "epsilon=8", "did you mean 8/255")),
        ("--mimir.epsilon=8", ("--mimir.epsilon", "epsilon=8", "did you mean 8/255")),
        ("--attack.epsilon=-0.1", ("--attack.epsilon", "epsilon=-0.1", "at least 0")),
        ("--attack.epsilon=8/0", ("--attack.epsilon", "8/0", "8/255")),
        ("--attack.norm=linff", ("--attack.norm", "linff", 'Did you mean "linf"')),
        ("--method=mimmir", ("--method", "mimmir", 'Did you mean "mimir"')),
        ("--data.name=digitz", ("--data.name", "digitz", 'Did you mean "digits"')),
        ("--run.stages=pretran", ("--run.stages", "pretran", '"pretrain"')),
        ("--mae.mask_ratio=1", ("--mae.mask_ratio", "mask_ratio=1", "(0, 1)")),
        ("--mae.mask_ratio=0", ("--mae.mask_ratio", "mask_ratio=0", "(0, 1)")),
        ("--mae.mask_ratio=0.99", ("--mae.mask_ratio", "0.99", "16 patches")),
        ("--model.patch_size=3", ("--model.patch_size", "patch_size=3", "8")),
        ("--pretrain.warmup_epochs=9", ("--pretrain.warmup_epochs", "9", "1 epochs")),
        ("--pretrain.epochs=many", ("--pretrain.epochs", "many", "whole number")),
        ("--pretrain.batch_size=4096", ("--pretrain.batch_size", "4096", "1100")),
        ("--mimir.presett=repo", ("--mimir.presett", "Did you mean --mimir.preset?")),
        ("mimir", ("--name=value", "mimir")),
        ("--data.name=secnes", ("scenes, examples:PATH", 'Did you mean "scenes"')),
        ("--run.init_from=nowhere", ("init_from=nowhere, which does not exist. C",)),
        (f"--run.init_from={__file__}", ("`--run.init_from`", "which is a file. Name")),
    ],
)
def test_a_wrong_flag_is_refused(tmp_path, capsys, argument, fragments):
    stages = "--run.stages=finetune" if "init_from" in argument else "--run.log_steps=5"

    outcome = run(tmp_path, capsys, stages, argument)

    assert_refused(outcome, *fragments)
    assert not list(tmp_path.glob("run/*/checkpoints/*"))


def test_a_batch_smaller_than_the_replicas_is_refused(tmp_path, capsys):
    outcome = run(tmp_path, capsys, "--pretrain.batch_size=1", "--run.devices=2")

    assert_refused(outcome, "--pretrain.batch_size", "batch_size=1", "--run.devices")


def test_a_batch_that_cannot_be_cut_into_equal_parts_is_refused(tmp_path, capsys):
    outcome = run(tmp_path, capsys, "--pretrain.accumulation_steps=3")

    assert_refused(
        outcome, "--pretrain.batch_size", "--pretrain.accumulation_steps (3) = 3"
    )


def test_a_label_fraction_that_empties_a_class_is_refused(tmp_path, capsys):
    outcome = run(
        tmp_path,
        capsys,
        "--run.stages=pretrain,finetune",
        "--data.label_fraction=0.001",
    )

    assert_refused(outcome, "--data.label_fraction", "0.001", "class")


@pytest.mark.parametrize(
    ("images", "fragments"),
    [
        (np.full([20, 8, 8, 3], 128.0, np.float32), ("[0, 1]", "255")),
        (np.full([20, 8, 8, 3], np.nan, np.float32), ("NaN",)),
        (np.zeros([20, 8], np.float32), ("shape",)),
        (np.zeros([20, 8, 8, 7], np.float32), ("channel", "7")),
    ],
    ids=["0..255", "nan", "rank", "channels"],
)
def test_wrong_images_are_refused(tmp_path, capsys, images, fragments):
    path = tmp_path / "images.npz"
    np.savez(path, images=images, labels=np.arange(20) % 2)

    outcome = run(tmp_path, capsys, f"--data.name=npz:{path}")

    assert_refused(outcome, "--data.name", *fragments)


def test_missing_empty_and_one_class_folders_are_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "one" / "cats").mkdir(parents=True)
    _jpeg(tmp_path / "one" / "cats" / "a.jpg")
    size = "--data.image_size=8"

    for name in ("absent", "empty", "one"):
        outcome = run(tmp_path, capsys, f"--data.name=folder:{tmp_path / name}", size)

        assert_refused(outcome, "--data.name", name)


@pytest.mark.slow
def test_corrupt_pictures_are_skipped_up_to_a_cap(tmp_path, capsys):
    for kind in ("cats", "dogs"):
        (tmp_path / "pets" / kind).mkdir(parents=True)
        for index in range(40):
            _jpeg(tmp_path / "pets" / kind / f"{index}.jpg")
    (tmp_path / "pets" / "cats" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    folder = (f"--data.name=folder:{tmp_path / 'pets'}", "--data.image_size=8")

    accepted, _ = run(tmp_path, capsys, *folder, "--data.corrupt_cap=0.1")
    refused = run(tmp_path, capsys, *folder, "--data.corrupt_cap=0")

    assert accepted == 0
    assert_refused(refused, "--data.corrupt_cap", "broken.jpg")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Returns the parent of a run folder `run`; only copies may be changed."""
    folder = tmp_path_factory.mktemp("finished")
    flags = (f"--run.workdir={folder / 'run'}", *TINY, "--run.stages=pretrain")
    assert train.main(["train", *flags]) == 0
    return folder


def test_a_workdir_with_another_configuration_is_left_untouched(finished, capsys):
    before = _snapshot(finished / "run")

    outcome = run(finished, capsys, "--mimir.weight=1e-3")

    assert_refused(outcome, "--run.workdir", "--mimir.weight=0.001", "there: 1e-05")
    assert _snapshot(finished / "run") == before


def test_an_unwritable_workdir_is_refused(tmp_path, capsys):
    (tmp_path / "run").write_text("a file, so that no folder can be made here")

    outcome = run(tmp_path, capsys)

    assert_refused(outcome, "--run.workdir", "run")


def test_a_truncated_bundle_is_refused(finished, tmp_path, capsys):
    encoder = shutil.copytree(finished / "run" / "encoder", tmp_path / "encoder")
    weights = next(encoder.rglob("weights.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])

    given = ("--run.stages=finetune", f"--run.init_from={encoder}")
    outcome = run(tmp_path, capsys, *given)

    assert_refused(outcome, "weights.safetensors")


@pytest.mark.parametrize("more", [(), ("--dry_run",)])
def test_what_is_no_encoder_is_not_compared(tmp_path, capsys, more):
    decoder = MaeDecoder((4, 4), 2, input_width=16, width=16, depth=1, heads=2)
    save_bundle(decoder, tmp_path / "decoder", {})
    (tmp_path / "m.keras").write_text("a file of another program")
    (tmp_path / "empty").mkdir()
    names = ("m.keras", "empty", "decoder")

    for name, words in zip(
        names, ("which is a file", "which lacks manifest", "Name an"), strict=True
    ):
        given = f"--evaluation.encoders=mae={tmp_path / name}"
        outcome = run(tmp_path, capsys, "--run.stages=benchmark", given, *more)

        named = f"Received: mae={tmp_path / name}"
        assert_refused(outcome, "`--benchmark.encoders`", named, words)
        assert outcome[1].count("Received") == 1


def test_the_known_data_are_those_that_can_be_loaded(tmp_path, capsys):
    _, message = run(tmp_path, capsys, "--data.name=unheard_of")

    words = message.split("must be one of: ")[1].split(", or an image")[0].split(", ")
    assert {word.split(":")[0] for word in words} == {*PREFIXES, *EMBEDDED}


def test_running_out_of_memory_names_what_to_lower(tmp_path, capsys, monkeypatch):
    def exhausted(experiment):
        message = "Graph execution error:\nOOM when allocating tensor\nHint: none"
        raise tf.errors.ResourceExhaustedError(None, None, message)

    monkeypatch.setattr(running, "pretrain", exhausted)

    outcome = run(tmp_path, capsys)

    words = ("--pretrain.batch_size", "32, 32 and", "16 patches", "OOM when allocating")
    assert_refused(outcome, *words, "--model.patch_size")


def test_a_full_disk_is_not_called_too_little_memory(tmp_path, monkeypatch):
    def full(experiment):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(running, "pretrain", full)

    with pytest.raises(tf.errors.ResourceExhaustedError, match="No space left"):
        train.main(["train", f"--run.workdir={tmp_path / 'run'}", *TINY])


def test_only_encoders_can_be_fine_tuned(tmp_path, capsys):
    decoder = MaeDecoder((4, 4), 2, input_width=16, width=16, depth=1, heads=2)
    save_bundle(decoder, tmp_path / "decoder", {})

    start = f"--run.init_from={tmp_path / 'decoder'}"
    outcome = run(tmp_path, capsys, "--run.stages=finetune", start)

    assert_refused(outcome, "--run.init_from", "hold an encoder", "with MaeDecoder")


def test_devices_are_made_before_a_bundle_starts_tensorflow(
    tmp_path, capsys, monkeypatch
):
    calls = []

    def read(folder):
        calls.append("bundle")
        raise UserError("stop here")

    monkeypatch.setattr(distribute, "ensure_logical_cpus", calls.append)
    monkeypatch.setattr(running, "load_bundle", read)

    run(tmp_path, capsys, "--run.devices=2", "--run.init_from=somewhere")

    assert calls == [2, "bundle"]


def test_a_flag_file_must_exist_and_not_include_itself(tmp_path, capsys):
    loop = tmp_path / "loop.flags"
    loop.write_text("--flagfile=loop.flags\n")

    missing = run(tmp_path, capsys, f"--flagfile={tmp_path / 'absent.flags'}")
    assert_refused(missing, "--flagfile", "absent.flags")
    assert_refused(run(tmp_path, capsys, f"--flagfile={loop}"), "--flagfile", "itself")


def test_a_folder_in_which_another_process_works_is_refused(
    tmp_path, capsys, monkeypatch
):
    first, again = ["--run.seed=0", "--run.stages=pretrain"], []

    def pretrain(experiment):
        if not again:
            again.append(run(tmp_path, capsys, *first))

    monkeypatch.setattr(running, "pretrain", pretrain)

    assert run(tmp_path, capsys, *first)[0] == 0
    assert_refused(*again, "`--run.workdir`", f"process {os.getpid()}", "Wait until")
    assert run(tmp_path, capsys, *first)[0] == 0


def _jpeg(path: pathlib.Path) -> None:
    seed = hash(path.name) % 1000
    pixels = np.random.default_rng(seed).integers(0, 255, [12, 12, 3], np.uint8)
    path.write_bytes(tf.io.encode_jpeg(pixels).numpy())


def _snapshot(folder: pathlib.Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {os.path.relpath(path, folder): path.read_bytes() for path in files}
