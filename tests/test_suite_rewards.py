"""`tolerance` against dm_control's own, over every sigmoid and kind of interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from dm_control.utils import rewards

from envs.dmc.suite.rewards import SIGMOIDS, tolerance

VALUES = np.concatenate([np.linspace(-6, 6, 241), [-1e9, 1e9, 0.9, 1.2]])


@pytest.mark.parametrize("bounds", [(0, 0), (1, 1), (-0.25, 0.25), (0.9, math.inf), (-math.inf, 1.2)])
@pytest.mark.parametrize("sigmoid", SIGMOIDS)
def test_tolerance_equals_dm_controls(sigmoid: str, bounds: tuple[float, float]) -> None:
    for margin in (0.0, 0.7, 2.0):
        for value in (0.1, 0.6, *([0.0] if sigmoid in ("cosine", "linear", "quadratic") else [])):
            given = torch.from_numpy(VALUES)
            ours = tolerance(given, bounds, margin, sigmoid, value).numpy()
            with np.errstate(over="ignore"):
                theirs = rewards.tolerance(VALUES, bounds, margin, sigmoid, value)
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-14)
            np.testing.assert_array_equal(given.numpy(), VALUES)  # not written to
