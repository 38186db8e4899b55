"""Noise: keyed, Gaussian to the tails, and without memory of neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit
from scipy.special import ndtr, ndtri
from scipy.stats import poisson

from cimc.runtime import rng

DRAWS = 10_000_000


@pytest.fixture(scope="module")
def draws() -> np.ndarray:
    return rng.normals(rng.key("test", 1), 0, DRAWS)


def test_kolmogorov_smirnov_distance_is_below_a_thousandth(draws: np.ndarray) -> None:
    expected = ndtr(np.sort(draws).astype(np.float64))
    rank = np.arange(DRAWS) / DRAWS
    assert max((expected - rank).max(), (rank + 1 / DRAWS - expected).max()) < 1e-3


@pytest.mark.parametrize("sigmas", [2.0, 3.0, 3.5, 4.0, 4.5])
@pytest.mark.parametrize("side", [-1, 1])
def test_tails_hold_as_many_draws_as_a_gaussian(draws: np.ndarray, sigmas: float, side: int) -> None:
    expected = float(ndtr(-sigmas)) * DRAWS
    low, high = poisson.interval(1 - 1e-6, expected)
    assert low <= int((draws * side > sigmas).sum()) <= high


def test_mean_and_variance(draws: np.ndarray) -> None:
    wide = draws.astype(np.float64)
    assert abs(wide.mean()) < 5 / DRAWS**0.5
    assert abs(wide.var() - 1) < 5 * (2 / DRAWS) ** 0.5


def test_quantile_is_that_of_the_normal_distribution() -> None:
    @njit
    def transform(bits: np.ndarray, out: np.ndarray) -> None:
        for i in range(bits.size):
            out[i] = rng.normal_of(bits[i])

    ends = np.array([0, 1, 2, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1], np.uint32)
    bits = np.concatenate([ends, np.arange(0, 2**32, 99991).astype(np.uint32)])
    out = np.empty(bits.size, np.float32)
    transform(bits, out)
    expected = ndtri((bits.astype(np.int32) + 0.5) / 2**32 + 0.5)
    error, size = np.abs(out - expected), np.abs(expected)
    for within, most in ((3.5, 3e-4), (4.5, 3e-3), (5.3, 0.1)):
        assert error[size < within].max() < most
    assert 5.3 < np.abs(out).max() < 5.5


@pytest.mark.parametrize("lag", [1, 2, 3, 7, 8, 16, 256])
def test_neighbours_are_uncorrelated(draws: np.ndarray, lag: int) -> None:
    part = draws[: 1 << 21].astype(np.float64)
    for a, b in ((part[:-lag], part[lag:]), (np.abs(part[:-lag]), np.abs(part[lag:]))):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / a.size**0.5


def test_streams_of_neighbouring_keys_are_uncorrelated() -> None:
    rows = np.stack([rng.normals(seed, 0, 4096) for seed in range(256)]).astype(np.float64)
    correlation = np.corrcoef(rows)[np.triu_indices(256, 1)]
    assert np.abs(correlation).max() < 6 / 4096**0.5
    assert abs((correlation**2).mean() * 4096 - 1) < 5 * (2 / correlation.size) ** 0.5
    assert abs(np.corrcoef(rows[:-1].ravel(), rows[1:].ravel())[0, 1]) < 5 / rows[1:].size ** 0.5


def test_first_draws_over_keys_are_gaussian() -> None:
    first = np.array([rng.normals(rng.key("layer", image), 3, 1)[0] for image in range(20_000)], np.float64)
    assert abs(first.mean()) < 5 / first.size**0.5
    assert abs(first.var() - 1) < 5 * (2 / first.size) ** 0.5


@pytest.mark.parametrize("start", [0, 5, 2**32 - 7, 2**40 + 3])
def test_a_stream_does_not_depend_on_how_it_is_cut(start: int) -> None:
    for stream in (rng.normals, rng.uniforms):
        whole = stream(9, start, 40)
        cut = np.concatenate([stream(9, start, 13), stream(9, start + 13, 27)])
        assert whole.tobytes() == cut.tobytes()
        assert np.unique(whole).size == 40


def test_keys_tell_parts_apart() -> None:
    keys = {rng.key(*parts) for parts in [(1,), ("1",), (1, 2), (12,), ("a", "b"), ("ab",), ("a", 1), (-1,), ()]}
    assert len(keys) == 9
    assert all(0 <= key < 2**64 for key in keys)


def test_uniforms_are_uniform() -> None:
    values = rng.uniforms(4, 0, 1_000_000)
    counts = np.histogram(values, 1000, (0, 1))[0]
    chi_square = ((counts - 1000.0) ** 2 / 1000).sum()
    assert abs(chi_square - 999) < 5 * (2 * 999) ** 0.5
    assert values.min() >= 0
    assert values.max() < 1
