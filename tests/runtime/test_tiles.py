"""Tiles of the backward pass: the same bytes by vectors of any width."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from cimc.runtime import simd, tiles

_of_avx2, _of_avx512 = tiles.tile(5, 2, 32), tiles.tile(10, 1, 64)


@njit
def _narrow_vectors(a, rows, b, a_from, b_from, count, out, out_rows):  # type: ignore[no-untyped-def]
    for row in range(0, rows.size, 5):
        _of_avx2(a, rows, row, 3, b, 2, 40, a_from, b_from, a_from.size, count, out, out_rows, 1)


@njit
def _wide_vectors(a, rows, b, a_from, b_from, count, out, out_rows):  # type: ignore[no-untyped-def]
    for row in range(0, rows.size, 10):
        _of_avx512(a, rows, row, 3, b, 2, 40, a_from, b_from, a_from.size, count, out, out_rows, 1)


@pytest.mark.skipif(simd.VECTOR < 64, reason="the CPU has no AVX-512")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tiles_have_the_same_bytes_by_vectors_of_any_width(dtype: type) -> None:
    """Rows of factors and of results overlap, as those of windows do."""
    random = np.random.default_rng(0)
    a, b = (random.normal(size=n).astype(dtype) for n in (200, 1000))
    rows, out_rows, a_from, b_from = np.arange(20) * 2, np.arange(20), np.array([0, 50, 7]), np.array([100, 3, 60])
    begin = random.normal(size=80).astype(dtype)
    outs = [begin.copy() for _ in range(3)]
    _narrow_vectors(a, rows, b, a_from, b_from, 11, outs[0], out_rows)
    _wide_vectors(a, rows, b, a_from, b_from, 11, outs[1], out_rows)
    tiles.multiply(a, rows, 3, b, 2, 40, a_from, b_from, 11, outs[2], out_rows, 1)
    assert (outs[0] != begin).any()
    assert outs[0].tobytes() == outs[1].tobytes() == outs[2].tobytes()
