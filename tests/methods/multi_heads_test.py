"""Multi against heads: what is attacked, what stays as it is, errors."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import PGD, DepthPGD, SegPGD
from kerobust.config import UserError
from kerobust.models import VisionTransformer, save_bundle
from kerobust.tasks import Classification, Depth, Segmentation
from kerobust.types import Tokens
from tests.methods.multi_test import FULL, attacked, make
from tests.methods.tiny import SHAPE, tiny_experiment


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """Returns the folders of three heads on the tiny encoder."""
    folder = tmp_path_factory.mktemp("heads")
    tf.keras.utils.set_random_seed(1)
    encoder = tiny_experiment().model.build(SHAPE)
    made = (Classification(4), Segmentation(3), Depth(bins=4))
    for task in made:
        save_bundle(task.predictor(encoder), folder / task.NAME, {})
    return [str(folder / task.NAME) for task in made]


@pytest.mark.parametrize("number", [0, 1, 2], ids=["classes", "masks", "depths"])
def test_an_attack_on_a_head_leads_it_from_its_answer_to_the_teacher(number, heads):
    method = make(heads=(heads[number],), attacks=("cls",), combine="average", **FULL)
    batch = attacked(method)
    objective = method.attack.members[1].objective
    targets = Tokens(batch["target_cls"], batch["target_patches"])
    views = tf.unstack(batch["adversarial"], axis=1)

    kinds = (PGD, SegPGD, DepthPGD)
    assert type(method.attack.members[1].attack) is kinds[number]
    before, blind, through = (
        tf.reduce_mean(objective(images, targets)).numpy()
        for images in (batch["images"], *views)
    )
    assert through > before and through > blind
    assert np.abs(views[1] - batch["images"]).max() <= method.config.epsilon + 1e-6
    assert np.isfinite(sum(method.loss_terms(batch, True).values()))


def test_heads_are_neither_trained_nor_saved_with_the_student(heads):
    with_heads, without = make(heads=tuple(heads)), make()

    names = [
        [variable.name for variable in method.variables]
        for method in (with_heads, without)
    ]
    assert names[0] == names[1]
    assert len(with_heads.attack.members) == len(without.attack.members) + 3
    chances = [each.chance for each in with_heads.attack.members]
    assert chances == [0.25, 0.5, 0.25, 0.25, 0.25, 0.25]


def test_a_head_of_another_width_is_refused(tmp_path):
    encoder = VisionTransformer(SHAPE[:2], 4, 24, 1, 2)
    save_bundle(Segmentation(3).predictor(encoder), tmp_path / "head", {})
    with pytest.raises(UserError, match="DensePredictor on tokens of width 24"):
        make(heads=(str(tmp_path / "head"),))
