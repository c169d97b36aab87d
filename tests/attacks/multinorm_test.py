"""Evaluation in the union of several balls."""

import json

import numpy as np
import pytest
import tensorflow as tf

from kerobust.attacks import MultiNorm
from tests.attacks.victims import convnet, digits

RADII = {"linf": 0.12, "l2": 0.6}
QUICK = {"version": "custom", "attacks": ["apgd-ce"], "steps": 5, "msd_steps": 10}


@pytest.fixture(scope="module")
def union():
    return MultiNorm(RADII, **QUICK)


@pytest.fixture(scope="module")
def network():
    return convnet()


@pytest.fixture(scope="module")
def report(union, network):
    images, labels = digits(24)
    return union.evaluate(network, images, labels, diagnose=False)


def test_an_example_must_withstand_every_norm_and_the_search_through_all(report):
    flags = [each.robust for each in report.reports.values()]

    assert list(report.reports) == ["linf", "l2", "msd"]
    np.testing.assert_array_equal(report.robust, np.all(flags, axis=0))
    assert report.union_accuracy == report.robust.mean()
    assert report.union_accuracy <= min(report.accuracies.values())
    norms = [report.accuracies[norm] for norm in RADII]
    assert report.average_accuracy == pytest.approx(np.mean(norms))
    assert 0 < report.union_accuracy < report.average_accuracy


def test_every_norm_has_its_own_radius(report):
    for norm, radius in RADII.items():
        assert report.reports[norm].threat == {"epsilon": radius, "norm": norm}
        assert report.reports[norm].norms.max() <= radius * (1 + 1e-5)
    # Of MSD, the smallest share of a radius that holds the change.
    assert report.reports["msd"].norms.max() <= 1 + 1e-5


@pytest.mark.slow
def test_the_closed_form_of_a_linear_model():
    # Logit difference 2 (w.x - c): the label falls if a radius times the dual norm of w
    # exceeds the distance of w.x from c.
    weights = np.array([3.0, -1.0, 1.0, 1.0], np.float32)
    images = tf.fill([3, 2, 2, 1], 0.5).numpy()
    margins = np.array([0.25, 0.35, 0.55], np.float32)

    def model(images):
        score = tf.linalg.matvec(tf.reshape(images, [-1, 4]), weights) - 2.0
        return tf.stack([score, -score], axis=1)

    # Shifted along w so that w.x - 2 is the margin.
    images += (margins[:, None] * weights / 12.0).reshape(3, 2, 2, 1)
    union = MultiNorm({"linf": 0.05, "l2": 0.12, "l1": 0.1}, **QUICK)

    report = union.evaluate(model, images, np.zeros(3, int), diagnose=False)

    # Reach: linf 0.05 * 6 = 0.3, l2 0.12 * sqrt(12) = 0.416, l1 0.1 * 3 = 0.3.
    assert report.reports["linf"].robust.tolist() == [False, True, True]
    assert report.reports["l2"].robust.tolist() == [False, False, True]
    assert report.reports["l1"].robust.tolist() == [False, True, True]
    assert report.robust.tolist() == [False, False, True]


def test_a_dataset_and_a_killed_run_give_the_same(union, network, report, tmp_path):
    images, labels = digits(24)
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(7)
    options = {"diagnose": False, "state_dir": tmp_path, "batch_size": 24}

    def kill(line):
        if "msd" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        union.evaluate(network, batches, progress=kill, **options)
    lines = []
    again = union.evaluate(network, batches, progress=lines.append, **options)

    np.testing.assert_array_equal(again.robust, report.robust)
    assert sum("continuing with 1" in line for line in lines) == 2
    assert json.loads(json.dumps(again.to_dict()))["radii"] == RADII


@pytest.mark.parametrize(
    ("radii", "text"),
    [
        ({}, "`radii` must map at least one norm"),
        ({"linf": 8.0}, "`radii`.*linf to at most 1"),
        ({"l5": 1.0}, "`norm` must be one of"),
    ],
)
def test_what_it_refuses(radii, text):
    with pytest.raises(ValueError, match=text):
        MultiNorm(radii)
