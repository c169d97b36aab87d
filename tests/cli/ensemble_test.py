"""`kerobust.evaluate` on the bundle of an ensemble."""

import json

import tensorflow as tf

from kerobust import evaluate
from kerobust.models import Classifier, ClassifierHead, ConvNet, Ensemble, save_bundle


def member(seed):
    tf.keras.utils.set_random_seed(seed)
    encoder = ConvNet((8, 8), hidden=(8, 8), kernel_size=3, padding="same")
    return Classifier(encoder, ClassifierHead(10, pooling="cls", norm=False))


def test_an_ensemble_is_attacked_through_its_members(tmp_path):
    ensemble = Ensemble([member(0), member(1)], combine="votes")
    save_bundle(ensemble, tmp_path / "model", {})

    code = evaluate.main(
        [
            *("evaluate", "--evaluate.attacks=pgd,mora", "--evaluate.steps=3"),
            *("--evaluate.limit=100", "--evaluate.curve=false"),
            *("--evaluate.diagnose=false", "--attack.epsilon=0.2"),
            f"--run.init_from={tmp_path / 'model'}",
            f"--run.workdir={tmp_path / 'run'}",
        ]
    )

    folder = tmp_path / "run" / "evaluate" / "model"
    robust = json.loads((folder / "results.json").read_text())["robust"]
    assert code == 0
    # Untrained members are right by chance, and fooled easily where they can be.
    assert robust["mora"]["accuracy"] < robust["pgd"]["accuracy"]
