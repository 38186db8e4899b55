"""Weights drawn as a die holds them, against the closed form of their errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cimc.calibration.drawn import drawn_weights
from cimc.targets.load import load_target

#: 20,000 rows: a correlation of 0 or 1/2 has a deviation of 0.007 at most, a variance one of 1 %; five are allowed.
ROWS, SIGMA_US = 20_000, 1.5


@pytest.mark.parametrize(
    ("settings", "shared", "full"),
    [
        ({}, 0.0, 1.0),
        ({"weights.representation": "shared_reference", "device.levels": 255}, 0.5, 0.5),
        ({"weights.representation": "offset", "array.unit_column": True, "device.levels": 3}, 0.5, 0.5),
    ],
    ids=["pair", "shared reference", "offset"],
)
def test_columns_with_one_reference_share_its_error(settings: dict[str, Any], shared: float, full: float) -> None:
    """A weight of 1 spans ``full`` of the window. Offset weights of three levels take off the unit column once."""
    device = {"device.programming.mean_us": 0.0, "device.programming.sigma_us": SIGMA_US, "device.g_min_us": 0.0}
    target = load_target("bulk-rram-256", settings | device)
    weights = np.zeros((1, ROWS, 4))
    held = drawn_weights(weights, np.ones(1), (0, 5000, ROWS), (0, 2, 4), target, np.random.default_rng(1))[0]
    step = 1 / (full * (target.device.g_max_us - target.device.g_min_us))
    error = held - held.mean()
    np.testing.assert_allclose(error.var(axis=0), 2 * (SIGMA_US * step) ** 2, rtol=0.05)
    found = np.corrcoef(error.T)
    expected = np.kron(np.eye(2), np.full((2, 2), shared)) + (1 - shared) * np.eye(4)
    np.testing.assert_allclose(found, expected, atol=0.035)
