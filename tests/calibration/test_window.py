"""The window with the least expected error, against a search by plain numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cimc.calibration.reads import LayerRead
from cimc.calibration.window import least_error_span
from cimc.ir.program import InputCoding
from cimc.targets.description import Array, Device, Programming, Target
from tests.calibration.models import inputs, weights

F32 = NDArray[np.float32]


def _read(x: F32, sigma_us: float, **device: Any) -> LayerRead:
    """A read without converters; devices from 0 to 10 µS."""
    target = Target(
        name="test",
        array=Array(),
        device=Device(g_min_us=0.0, g_max_us=10.0, programming=Programming(sigma_us=sigma_us), **device),
        weights={"rounded": False},
    )
    return LayerRead(x[:, None], InputCoding(signed=False), (0, x.shape[1]), None, target)


def test_without_errors_the_largest_weight_spans_the_window() -> None:
    rng = np.random.default_rng(0)
    weight = weights(rng, 30, 5)
    span = least_error_span(weight[None], _read(inputs(rng, (50, 30)), 0.0), by_column=True, name="fc")
    assert np.array_equal(span, np.abs(weight).max(0))


@pytest.mark.parametrize("by_column", [True, False])
@pytest.mark.parametrize("sigma_us", [0.1, 0.5, 2.0])
def test_the_expected_error_is_near_the_least(sigma_us: float, by_column: bool) -> None:
    rng = np.random.default_rng(1)
    weight, x = weights(rng, 60, 8), inputs(rng, (300, 60))
    span = least_error_span(weight[None], _read(x, sigma_us), by_column=by_column, name="fc")
    noise = 2 * (sigma_us / 10) ** 2 * np.square(x).sum(1).mean()

    def error(spans: NDArray[np.float64]) -> NDArray[np.float64]:
        clipped = x @ (np.clip(weight, -spans, spans) - weight)
        return np.square(clipped).mean(0) + noise * spans**2

    largest = np.abs(weight).max(0) if by_column else np.full(8, np.abs(weight).max())
    tried = np.stack([error(largest * share) for share in np.linspace(0.05, 1, 96)])
    least = tried.min(0).sum() if by_column else tried.sum(1).min()
    assert error(np.broadcast_to(span.astype(np.float64), (8,))).sum() < 1.05 * least
    assert span.size == (8 if by_column else 1)


def test_sparse_columns_keep_their_weights() -> None:
    """One weight in a column is all its signal: clipping it would lose more than any noise costs."""
    rng = np.random.default_rng(2)
    weight = np.zeros((64, 6), np.float32)
    weight[rng.integers(64, size=6), np.arange(6)] = [1, -2, 3, 0.5, -0.1, 7]
    span = least_error_span(weight[None], _read(inputs(rng, (200, 64)), 0.2), by_column=True, name="fc")
    assert np.array_equal(span, np.abs(weight).max(0))


def test_a_column_of_zeros_has_no_scale() -> None:
    rng = np.random.default_rng(3)
    weight = weights(rng, 20, 3)
    weight[:, 1] = 0
    span = least_error_span(weight[None], _read(inputs(rng, (40, 20)), 1.0), by_column=True, name="fc")
    assert span[1] == 0
    assert (span[[0, 2]] > 0).all()
