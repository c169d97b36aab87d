"""`kerobust.convert`: weights in and out, and every mistake in one paragraph."""

import json
import pickle

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from kerobust import convert, train
from kerobust.models import (
    Classifier,
    ClassifierHead,
    ResNet,
    ResNet18,
    VisionTransformer,
    copy_encoder_weights,
    load_bundle,
    named_weights,
    read_info,
    save_bundle,
)
from kerobust.models.checkpoint_files import read_state
from kerobust.models.export import FORMATS, export, outputs
from kerobust.models.pretrained import _torch_name
from kerobust.models.torch_names import to_torch_names
from kerobust.workflows.training import read_encoder
from tests.cli.bad_input_test import TINY, assert_refused
from tests.models.torch_archive import save

IMAGES = np.random.default_rng(0).uniform(size=[2, 8, 8, 3]).astype(np.float32)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def transformer(**changes):
    settings = {"positions": "learned", "mean": MEAN, "std": STD, **changes}
    return VisionTransformer((8, 8), 4, 64, 1, 1, **settings)


def dino_checkpoint(path, teacher, student):
    """Writes a checkpoint as DINO's training does, heads included."""
    head = {"module.head.mlp.0.bias": np.ones(3, np.float32)}
    parts = {
        name: {
            f"module.backbone.{key}": value
            for key, value in to_torch_names(model).items()
        }
        | head
        for name, model in {"student": student, "teacher": teacher}.items()
    }
    return save(path, **parts)


def run(capsys, *arguments):
    """Returns (exit code, standard output, standard error) of the command."""
    code = convert.main(["convert", *arguments])
    return code, *capsys.readouterr()


def assert_same_outputs(first, second):
    for name, value in outputs(first, IMAGES).items():
        np.testing.assert_allclose(outputs(second, IMAGES)[name], value, atol=1e-5)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Returns (path, teacher, student) of a checkpoint in PyTorch's format."""
    teacher, student = transformer(), transformer()
    path = tmp_path_factory.mktemp("dino") / "dino.pth"
    return dino_checkpoint(path, teacher, student), teacher, student


def test_the_teacher_of_a_checkpoint_becomes_a_bundle_with_a_card(
    tmp_path, capsys, checkpoint
):
    path, teacher, _ = checkpoint
    out = tmp_path / "encoder"

    code, said, _ = run(capsys, "--from=dino", f"--weights={path}", f"--out={out}")

    assert code == 0
    assert_same_outputs(teacher, load_bundle(out))
    origin = read_info(out)["origin"]
    assert origin["source"] == "dino" and origin["part"] == "teacher"
    assert len(origin["SHA-256"]) == 64
    card = (out / "README.md").read_text()
    assert origin["SHA-256"] in card and "Nothing was measured" in card
    for words in (
        "part: teacher",
        "student",
        "head.mlp.0.bias",
        f"{teacher.count_params():,}",
    ):
        assert words in said
    assert "read again, it is equal" in said and "README.md" in said


def test_another_part_size_and_normalisation_can_be_asked_for(
    tmp_path, capsys, checkpoint
):
    path, _, student = checkpoint
    out = tmp_path / "encoder"

    code, said, _ = run(
        capsys,
        *("--from=dino", f"--weights={path}", f"--out={out}", "--image_size=12"),
        *("--checkpoint_key=student", "--mean=0.5,0.5,0.5", "--std=0.25"),
    )

    encoder = load_bundle(out)
    assert code == 0 and "12 x 12" in said
    assert encoder.image_size == (12, 12)
    assert encoder.get_config()["mean"] == [0.5] * 3
    assert encoder.get_config()["std"] == [0.25] * 3
    kernel = student.patch_embedding.kernel
    np.testing.assert_array_equal(encoder.patch_embedding.kernel, kernel)


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_a_bundle_goes_out_in_every_format_and_says_how_to_load_it(
    tmp_path, capsys, monkeypatch, format
):
    model, out = transformer(), tmp_path / "out"
    save_bundle(model, tmp_path / "bundle", {"flags": {"data.name": "digits"}})

    code, _, _ = run(
        capsys,
        *("--from=kerobust", f"--weights={tmp_path / 'bundle'}", f"--out={out}"),
        f"--format={format}",
    )

    assert code == 0
    card = (out / "README.md").read_text()
    assert "--data.name=digits" in card and 'datasets:\n- "digits"' in card
    program = card.split("```python\n")[1].split("```")[0]
    if format != "timm":  # Its program needs PyTorch.
        monkeypatch.chdir(out)
        names = {}
        exec(program, names)
        expected = model(tf.zeros([1, 8, 8, 3])).cls
        np.testing.assert_allclose(names["features"], expected, atol=1e-5)


def test_weights_that_go_out_for_timm_come_in_again(tmp_path, capsys):
    model = transformer()
    export(model, tmp_path / "out", "timm")

    path, out = tmp_path / "out" / "model.safetensors", tmp_path / "back"
    code, _, _ = run(capsys, "--from=timm", f"--weights={path}", f"--out={out}")

    assert code == 0
    assert_same_outputs(model, load_bundle(out))


def test_one_of_several_models_of_a_bundle_is_taken_by_name(tmp_path, capsys):
    first, second = transformer(), Classifier(transformer(), ClassifierHead(3))
    save_bundle({"encoder": first, "probe": second}, tmp_path / "pair", {"seconds": 1})
    where = ("--from=kerobust", f"--weights={tmp_path / 'pair'}")

    run(capsys, *where, f"--out={tmp_path / 'a'}")
    run(capsys, *where, f"--out={tmp_path / 'b'}", "--checkpoint_key=probe")
    wrong = run(capsys, *where, f"--out={tmp_path / 'c'}", "--checkpoint_key=probes")

    assert_same_outputs(first, load_bundle(tmp_path / "a"))
    assert_same_outputs(second, load_bundle(tmp_path / "b"))
    assert read_info(tmp_path / "b")["seconds"] == 1
    assert (
        'pipeline_tag: "image-classification"'
        in (tmp_path / "b" / "README.md").read_text()
    )
    assert_refused((wrong[0], wrong[2]), "--checkpoint_key", 'Did you mean "probe"')


def test_where_a_bundle_came_from_is_kept_when_it_goes_on(tmp_path, capsys, checkpoint):
    path, _, _ = checkpoint
    run(capsys, "--from=dino", f"--weights={path}", f"--out={tmp_path / 'a'}")

    where = ("--from=kerobust", f"--weights={tmp_path / 'a'}")
    run(capsys, *where, f"--out={tmp_path / 'b'}")

    first = read_info(tmp_path / "a")["origin"]
    second = read_info(tmp_path / "b")["origin"]
    assert second["source"] == "kerobust"
    assert {f"earlier {name}": text for name, text in first.items()}.items() <= (
        second.items()
    )


def test_a_converted_encoder_is_one_that_fine_tuning_starts_from(
    tmp_path, capsys, checkpoint
):
    path, teacher, _ = checkpoint
    out = tmp_path / "encoder"
    run(capsys, "--from=dino", f"--weights={path}", f"--out={out}")

    encoder = read_encoder(out)

    target = transformer(final_norm=False)
    copy_encoder_weights(encoder, target)
    np.testing.assert_array_equal(target.positions, teacher.positions)
    np.testing.assert_allclose(
        target.feature_maps(IMAGES)[-1], teacher.feature_maps(IMAGES)[-1], atol=1e-5
    )


@pytest.mark.slow
def test_a_converted_encoder_can_be_fine_tuned(tmp_path, capsys, checkpoint):
    path, _, _ = checkpoint
    out, key = tmp_path / "encoder", "--mean=0.1"
    run(capsys, "--from=dino", f"--weights={path}", f"--out={out}", key, "--std=0.3")

    code = train.main(
        [
            *("train", *TINY, "--run.stages=finetune", "--dry_run"),
            "--finetune.attack=natural",
            *(f"--run.init_from={out}", f"--run.workdir={tmp_path / 'run'}"),
        ]
    )

    said, _ = capsys.readouterr()
    assert code == 0 and f"encoder: {out}, which sets --model: width 64" in said


def test_a_dry_run_reads_and_checks_but_writes_nothing(tmp_path, capsys, checkpoint):
    path, _, _ = checkpoint
    where = (f"--weights={path}", f"--out={tmp_path / 'out'}")

    code, said, _ = run(capsys, "--from=dino", *where, "--dry_run")

    assert code == 0 and "parameters: " in said and "wrote" not in said
    assert not (tmp_path / "out").exists()


class Evil:
    """Pickled, it becomes a call that makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.path),)


def test_a_malicious_file_is_refused_and_does_not_run(tmp_path, capsys):
    path, marker = tmp_path / "evil.pth", tmp_path / "made"
    path.write_bytes(pickle.dumps({"model": Evil(marker)}, 2))

    where = ("--from=dino", f"--weights={path}", f"--out={tmp_path / 'out'}")
    code, _, message = run(capsys, *where)

    assert_refused((code, message), "--weights", "mkdir", "Nothing of it was run")
    assert not marker.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        ({"from": None}, ("`--from` must be given", "from=None")),
        ({"weights": None}, ("`--weights` must be given", "--help")),
        ({"out": None}, ("`--out` must be given",)),
        ({"from": "dinno"}, ("`--from` must be one of: dino", "dinno", '"dino"')),
        ({"format": "onnx"}, ("`--format` must be one of: bundle", "onnx")),
        ({"weights": "no.pth"}, ("`--weights`", "no.pth", "does not exist")),
        ({"weights": "no.onnx"}, ("`--weights`", "no.onnx does not exist")),
        ({"weights": __file__}, ("`--weights`", "convert_test.py", "ends in .pth")),
        ({"from": "kerobust", "weights": "no"}, ("`--weights`", "no does not exist")),
        (
            {"from": "kerobust", "weights": __file__},
            ("`--weights` must name an intact bundle", "convert_test.py, which is a f"),
        ),
        ({"checkpoint_key": "techer"}, ("techer", 'Did you mean "teacher"')),
        ({"image_size": "0"}, ("`--image_size` must be at least 1", "image_size=0")),
        ({"std": "0"}, ("`--std` must be above 0", "std=")),
        ({"mean": "0,0"}, ("`--mean` must have one number or 3", "mean=(0.0, 0.0)")),
        ({"image_size": "13"}, ("`--image_size` must be a multiple of 4", "=13")),
        ({"heads": "5"}, ("heads=5", "64")),
        ({"chekpoint_key": "x"}, ("--chekpoint_key", "mean --checkpoint_key?")),
        ({"attack.epsilon": "1"}, ("`--attack.epsilon` must be a known flag",)),
        ({"from": "deacl", "image_size": "8"}, ("`--image_size` must be empty",)),
        ({"from": "deacl", "format": "timm"}, ("`--format` must not be timm",)),
        ({"stem_padding": "1"}, ("`--stem_padding` must be empty for --from=dino",)),
        ({"from": "kerobust", "mean": "0"}, ("`--mean` must be empty", "mean=")),
    ],
)
def test_a_wrong_flag_is_refused(tmp_path, capsys, checkpoint, change, fragments):
    path, _, _ = checkpoint
    wanted = {"from": "dino", "weights": path, "out": tmp_path / "out", **change}
    flags = [f"--{name}={value}" for name, value in wanted.items() if value is not None]

    code, _, message = run(capsys, *flags)

    assert_refused((code, message), *fragments)
    assert not (tmp_path / "out").exists()


def residual_weights(model):
    """Returns the weights of a `ResNet18` as solo-learn names and lays them out."""
    return {
        f"backbone.{_torch_name(name)}": np.ascontiguousarray(
            np.transpose(each, [3, 2, 0, 1]) if each.ndim == 4 else each
        )
        for name, each in (
            (name, weight.numpy()) for name, weight in named_weights(model).items()
        )
    }


def test_a_residual_network_comes_in_with_the_padding_of_its_training(tmp_path, capsys):
    mean, std = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)
    model = ResNet18(widths=(2, 4, 8, 16), stem_padding=1, mean=mean, std=std)
    path, out = tmp_path / "w.pth", tmp_path / "out"
    save(path, state_dict=residual_weights(model))

    where = ("--from=deacl", f"--weights={path}", f"--out={out}", "--stem_padding=1")
    code, said, _ = run(capsys, *where)

    assert code == 0 and "any size" in said and "part: state_dict" in said
    assert_same_outputs(model, load_bundle(out))


def test_weights_of_another_network_are_refused_name_by_name(tmp_path, capsys):
    arrays = {"conv1.weight": np.zeros([2, 3, 3, 3], np.float32)}
    safetensors.numpy.save_file(arrays, tmp_path / "w.safetensors")

    where = (f"--weights={tmp_path / 'w.safetensors'}", f"--out={tmp_path / 'out'}")
    code, _, message = run(capsys, "--from=dino", *where)

    words = ("missing cls_token", "unexpected conv1.weight")
    assert_refused((code, message), "--weights", *words)


def test_weights_that_are_no_numbers_are_refused(tmp_path, capsys):
    weights = to_torch_names(transformer())
    weights["norm.bias"][0] = np.nan
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file(weights, path)

    where = (f"--weights={path}", f"--out={tmp_path / 'out'}")
    code, _, message = run(capsys, "--from=dino", *where)

    assert_refused((code, message), "--weights", "cls is not finite", "damaged")


def test_a_folder_in_use_is_left_as_it_is(tmp_path, capsys, checkpoint):
    path, _, _ = checkpoint
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("a file")

    for name in ("out", "file"):
        where = (f"--weights={path}", f"--out={tmp_path / name}")
        code, _, message = run(capsys, "--from=dino", *where)
        assert_refused((code, message), "`--out` must be new or empty", name)

    below = run(
        capsys, "--from=dino", f"--weights={path}", f"--out={tmp_path / 'file' / 'x'}"
    )
    assert_refused((below[0], below[2]), "`--out` must be a folder that can be written")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_what_cannot_go_out_is_refused(tmp_path, capsys):
    save_bundle(ResNet(8), tmp_path / "bundle", {})
    where = ("--from=kerobust", f"--weights={tmp_path / 'bundle'}")

    timm = run(capsys, *where, f"--out={tmp_path / 'a'}", "--format=timm")
    keras = run(capsys, *where, f"--out={tmp_path / 'b'}", "--format=safetensors")

    assert_refused((timm[0], timm[2]), "timm", "ResNet")
    assert keras[0] == 0
    arrays = read_state(tmp_path / "b" / "model.safetensors").arrays
    assert "conv1/kernel" in arrays


def test_help_names_the_flags_and_every_source(capsys):
    code, said, _ = run(capsys, "--help")

    assert code == 0
    for name in ("--from=", "--weights=", "--out=", "--format=bundle", "dinov2"):
        assert name in said


def test_the_bundle_and_its_card_hold_json_and_no_path_of_this_machine(
    tmp_path, capsys, checkpoint
):
    path, _, _ = checkpoint
    out = tmp_path / "encoder"
    run(capsys, "--from=dino", f"--weights={path}", f"--out={out}")

    texts = [(out / name).read_text() for name in ("config.json", "README.md")]

    assert json.loads(texts[0])["info"]["origin"]["file"] == "dino.pth"
    assert not [text for text in texts if str(path.parent) in text]
