"""Least squares for layers whose inputs do not vary."""

import numpy as np
import pytest

from fs_neurons.calibration.corrections import _ridge_regression
from fs_neurons.calibration.moments import Moments, product


def test_constant_inputs_change_the_offset_alone():
    x = np.concatenate([np.full((50, 3), 2.0), np.ones((50, 1))], axis=1)
    y = np.random.default_rng(0).normal(size=(50, 2))
    W = _ridge_regression(x.T @ x, x.T @ y, 0.01)
    assert (W[:-1] == 0).all()
    assert W[-1] == pytest.approx(y.mean(axis=0))


def test_a_product_with_a_gate_of_one_channel():
    x = Moments(np.array([1.0, 2.0, 3.0]), np.array([1.0, 0.0, 4.0]), 1, "propagated")
    gate = Moments(np.array([0.5]), np.array([0.25]), 1, "propagated")
    both = product([x, gate])
    assert both.mean == pytest.approx([0.5, 1.0, 1.5])
    assert both.variance == pytest.approx([2 * 0.5 - 0.25, 4 * 0.5 - 1.0, 13 * 0.5 - 2.25])
