"""Counts of segmentations and depth maps: the original numbers and hand-made cases."""

import numpy as np
import pytest

from kerobust.config import UserError
from kerobust.tasks.counts import ClassCounts, DepthErrors
from tests.goldens.closed_form import checks
from tests.losses.depth_test import SHA256

GOLDEN = checks("dense.json", SHA256)["miou"]


def counted(**settings) -> ClassCounts:
    given, found = GOLDEN["inputs"], ClassCounts(4, **settings)
    for labels, predictions in zip(given["label"], given["pred"], strict=True):
        found.update(labels, predictions)  # Row by row: counts add up.
    return found


def test_mean_iou_is_that_of_the_original_code_in_both_conventions():
    expected = GOLDEN["expected"]

    assert counted(void=0).mean_iou == pytest.approx(expected["repo_void0"])
    assert counted().mean_iou == pytest.approx(expected["standard_all_classes"])
    np.testing.assert_allclose(
        counted(void=0).intersection_over_union[1:], expected["per_class_repo"]
    )
    literal = expected["repo_mean_accuracy_literal"]
    assert counted(void=0).mean_precision == pytest.approx(literal)


def test_accuracies_by_hand():
    found = ClassCounts(3)
    found.update([0, 0, 0, 1, -1], [0, 0, 1, 1, 2])

    np.testing.assert_array_equal(found.sums, [[2, 1, 0], [3, 1, 0], [2, 2, 0]])
    assert found.pixel_accuracy == 3 / 4
    assert found.mean_recall == pytest.approx((2 / 3 + 1) / 2)
    assert found.mean_precision == pytest.approx((1 + 1 / 2) / 2)
    assert found.mean_iou == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_predicting_void_on_a_labelled_pixel_is_an_error():
    found = ClassCounts(2, void=0)
    found.update([1, 1, 0], [1, 0, 1])

    assert found.mean_iou == found.pixel_accuracy == 1 / 2


def test_nothing_that_counts_is_no_number_and_no_warning():
    found = ClassCounts(3)
    found.update(np.full([2, 2], -1), np.zeros([2, 2], int))

    assert np.isnan(found.mean_iou) and found.pixel_accuracy == 0.0


@pytest.mark.parametrize(
    ("labels", "predictions", "text"),
    [
        (
            [0, 3],
            [0, 0],
            "from 0 to 2, or -1 where there is no label. Received: label 3 on 1",
        ),
        ([-2, 255], [0, 0], "Received: label -2 on 2 pixels"),
        ([[0, 1]], [0, 1], "masks of shape (1, 2), predictions of shape (2,)"),
    ],
)
def test_what_cannot_be_counted_is_refused(labels, predictions, text):
    with pytest.raises(UserError) as caught:
        ClassCounts(3).update(labels, predictions)

    assert text in str(caught.value)


def test_depth_errors_by_hand():
    found = DepthErrors(most=10)
    found.update([[1.0, 2.0, 0.0, 11.0]], [[1.5, 2.0, 7.0, 1.0]])
    found.update([[4.0]], [[5.0]])
    found.update([[0.0]], [[5.0]])

    assert (found.images, found.pixels) == (2, 3)
    assert found.rmse == pytest.approx(np.sqrt((0.25 + 0 + 1) / 3))
    assert found.rmse_of_images == pytest.approx((np.sqrt(0.125) + 1) / 2)
    assert found.relative_error == pytest.approx((0.5 + 0 + 0.25) / 3)
    assert found.within_a_quarter == pytest.approx(1 / 3)  # 1.25 itself is not below.


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_predictions_that_are_no_depths_are_refused(bad):
    with pytest.raises(UserError, match="finite and above 0 metres"):
        DepthErrors().update([[1.0]], [[bad]])

    DepthErrors().update([[0.0]], [[bad]])  # Nothing is known there.


def test_depths_of_another_size_are_refused():
    with pytest.raises(UserError, match="must have the same size"):
        DepthErrors().update(np.ones([2, 2]), np.ones([2, 3]))
