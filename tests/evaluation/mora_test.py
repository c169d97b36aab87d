"""Ensembles attacked through their members by the evaluation."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import AttackConfig
from kerobust.config import UserError
from kerobust.evaluation import EvaluateConfig, Evaluator, evaluate
from kerobust.models import Ensemble
from tests.evaluation.small import linear_model, small_split

THREAT = AttackConfig(epsilon=0.03)
MORA = EvaluateConfig(
    attacks=("pgd", "autopgd", "mora"),
    steps=4,
    restarts=1,
    batch_size=25,
    epsilons=(0.01, 0.03),
    diagnose=False,
)


class Noisy(tf.keras.Model):
    """A linear classifier of the digits whose weights were disturbed; logits * 1000."""

    def __init__(self, seed):
        super().__init__()
        self.linear = linear_model(1e3)
        kernel, bias = self.linear.get_weights()
        noise = np.random.default_rng(seed).normal(size=kernel.shape)
        self.linear.set_weights([kernel + 0.25 * kernel.std() * noise, bias])

    def call(self, images, training=None, keys=None):
        return self.linear(images, training=training)


@pytest.fixture(scope="module")
def model():
    return Ensemble([Noisy(seed) for seed in range(3)], combine="votes")


@pytest.fixture(scope="module")
def found(model):
    return evaluate(model, small_split(), THREAT, MORA)


@pytest.mark.slow
def test_members_fall_where_the_answer_hides_its_gradient(found):
    pgd, mora = found.robust["pgd"], found.robust["mora"]

    assert found.clean.sum() > 50
    assert pgd.sum() >= found.clean.sum() - 2  # Noise at most.
    assert found.robust["autopgd"].sum() >= found.clean.sum() - 2
    assert mora.sum() < 0.6 * pgd.sum()
    assert not np.any(mora & ~found.clean)
    np.testing.assert_array_equal(found.worst, pgd & found.robust["autopgd"] & mora)
    assert found.norms["mora"]["max"] <= 0.03 * (1 + 1e-4)
    assert not any("left out" in note for note in found.notes)


@pytest.mark.slow
def test_the_curve_stays_that_of_pgd(found):
    assert [point["epsilon"] for point in found.curve] == [0.0, 0.01, 0.03, 0.5]
    correct = {point["epsilon"]: point["correct"] for point in found.curve}
    assert correct[0.0] == found.clean.sum()
    assert correct[0.03] == found.robust["pgd"].sum()


@pytest.mark.slow
def test_batch_size_and_interruptions_change_nothing(model, found, tmp_path):
    only = MORA.replace(attacks=("mora",), curve=False, batch_size=17)
    lines: list = []

    def kill(line):
        lines.append(line)
        if len(lines) == 2:
            raise KeyboardInterrupt

    parts, given = Evaluator(THREAT, only), (model, small_split())
    with pytest.raises(KeyboardInterrupt):
        parts(*given, state_dir=tmp_path, progress=kill)
    resumed = parts(*given, state_dir=tmp_path)

    np.testing.assert_array_equal(resumed.robust["mora"], found.robust["mora"])
    (file,) = tmp_path.glob("mora@*0000.npz")
    with np.load(file) as kept:
        assert kept["spent"].shape == (5, 3)
        # Everyone that is right meets the first balance: at most 4 gradients each.
        assert 17 < kept["spent"][0, 1] <= 17 * 4
        assert (np.diff(kept["spent"][:, 1]) <= 0).all()


def test_a_model_that_is_no_ensemble_is_attacked_by_the_rest():
    given = MORA.replace(attacks=("mora", "pgd", "embed"), curve=False)

    found = evaluate(linear_model(), small_split(), THREAT, given)

    assert set(found.robust) == {"pgd"}
    assert any("no ensemble, so mora was left out" in note for note in found.notes)
    assert any("encoder, so embed was left out" in note for note in found.notes)


def test_a_model_that_is_no_ensemble_and_mora_alone_are_refused():
    alone = MORA.replace(attacks=("mora",))

    message = "must name another attack than mora .* no ensemble.*mora.* Add pgd"
    with pytest.raises(UserError, match=message):
        evaluate(linear_model(), small_split(), THREAT, alone)
