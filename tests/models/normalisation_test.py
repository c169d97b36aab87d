"""Tests of kerobust.models.normalisation."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.config import UserError
from kerobust.models.normalisation import normalise, per_channel


def test_each_channel_loses_its_mean_and_is_divided_by_its_std():
    images = tf.constant([0.5, 1.0, 0.0], shape=[1, 1, 1, 3])
    mean, std = per_channel("mean", (0.5, 0.25, 1.0), 3), per_channel("std", (0.5,), 3)

    found = normalise(images, mean, std)

    # (0.5 - 0.5) / 0.5, (1 - 0.25) / 0.5, (0 - 1) / 0.5.
    np.testing.assert_allclose(found, [[[[0.0, 1.5, -2.0]]]])


def test_mean_0_and_std_1_cost_nothing():
    images = tf.ones([1, 1, 1, 2])

    assert normalise(images, per_channel("mean", 0.0, 2), np.ones(2)) is images


def test_a_wrong_number_of_values_is_refused():
    with pytest.raises(UserError, match=r"`--model.std` must .* \(3\).*\(0.5, 0.5\)"):
        per_channel("std", (0.5, 0.5), 3)
