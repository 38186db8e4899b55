"""Kernels: exact integer products and DAC codes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from cimc.runtime import coding, gemm, layout, simd


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_product_of_whole_numbers_is_exact(dtype: type, count: int, rows: int, columns: int, seed: int) -> None:
    if dtype is np.int16 and not gemm.has_avx2():
        pytest.skip("the CPU has no AVX2; floats serve")
    random = np.random.default_rng(seed)
    largest = 2**9 if dtype is np.float32 else 2**15
    codes = random.integers(-largest, largest, (count, rows))
    matrix = random.integers(-1000, 1000, (rows, columns))
    columns_of_panel, rows_of_step = gemm.panel_shape(dtype)
    steps, panels = -(-rows // rows_of_step), -(-columns // columns_of_panel)
    padded = np.zeros((count + gemm.TALL, steps * rows_of_step), dtype)
    padded[:count, :rows] = codes
    places = layout.Places.panels(np.array([0, rows]), layout.column_blocks((0, columns), 1, False), 1, dtype)
    flat = np.zeros(places.shape, dtype)
    layout.put(matrix.astype(np.float32), np.float32(0), np.float32(1), True, places.row_at, places.column_at[0], flat)
    packed = flat.reshape(panels, steps, columns_of_panel, rows_of_step)
    out = np.zeros((count + gemm.TALL, panels * columns_of_panel), gemm.sums_dtype(dtype))
    gemm.multiply(padded, count, packed, out)
    assert (out[:count, :columns] == codes @ matrix).all()


@pytest.mark.skipif(not gemm.has_avx2(), reason="the CPU has no AVX2; no layer is read across")
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.lists(st.integers(1, 20), min_size=1, max_size=3), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_products_across_and_moments_are_exact(columns: int, slices: list[int], vectors: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    cuts = tuple(np.cumsum([0, *slices]).tolist())
    devices = random.integers(-1000, 1000, (cuts[-1], 1, columns)).astype(np.float32)
    units = random.integers(-1000, 1000, (cuts[-1], 2)).astype(np.float32)
    places = layout.Places.across(np.array(cuts), columns + 2)
    matrix = np.zeros((1, *places.shape), np.int16)
    together = np.concatenate([devices[:, 0], units], axis=1)
    for (begin, end), at in zip(pairwise(cuts), places.column_at, strict=True):
        layout.put(together[begin:end], np.float32(0), np.float32(1), True, places.row_at[begin:end], at, matrix[0].reshape(-1))
    wide = 16 * vectors
    for start, (begin, end) in zip(places.starts, pairwise(cuts), strict=True):
        codes = random.integers(0, 256, (end - begin, wide)).astype(np.int16)
        steps = (end - begin + 1) // 2
        words = random.integers(0, 256, (steps, wide + 16, 2)).astype(np.int16)
        words[:, :wide] = np.pad(codes, ((0, 2 * steps - len(codes)), (0, 0))).reshape(steps, 2, wide).transpose(0, 2, 1)
        sums = np.zeros((columns + 2 + gemm.TALL, wide + 16), np.int32)
        gemm.multiply_across(matrix[0], start, steps, columns + 2, words, wide, sums)
        held = np.concatenate([devices[begin:end, 0], units[begin:end]], axis=1)
        assert (sums[: columns + 2, :wide] == held.T @ codes).all()
        moments = np.zeros((2, wide), np.int32)
        gemm.moments_across(words, steps, wide, moments)
        assert (moments == [codes.sum(axis=0), (codes.astype(int) ** 2).sum(axis=0)]).all()


_of_avx2, _of_avx512 = gemm.micro(4, 1, 32), gemm.micro(8, 2, 64)


@njit
def _narrow_vectors(a, panels, out):  # type: ignore[no-untyped-def]
    steps = panels.shape[1]
    for n in range(2 * panels.shape[0]):
        i, p = n % 2 * 4, n // 2
        at, end = i * a.shape[1] * a.itemsize, i * out.shape[1] * out.itemsize + p * 64
        _of_avx2(a, at, a.shape[1] * a.itemsize, panels, p * steps * 64, 64, 0, steps, out, end, out.shape[1] * out.itemsize)


@njit
def _wide_vectors(a, panels, out):  # type: ignore[no-untyped-def]
    steps = panels.shape[1]
    _of_avx512(a, 0, a.shape[1] * a.itemsize, panels, 0, 64, steps * 64, steps, out, 0, out.shape[1] * out.itemsize)


@pytest.mark.skipif(simd.VECTOR < 64, reason="the CPU has no AVX-512")
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_products_have_the_same_bytes_by_vectors_of_any_width(dtype: type) -> None:
    random = np.random.default_rng(0)
    columns, rows = gemm.panel_shape(dtype)
    a = (random.normal(size=(8, 37 * rows)) * 300).astype(dtype)
    panels = (random.normal(size=(2, 37, columns, rows)) * 300).astype(dtype)
    outs = [np.zeros((8, 2 * columns), gemm.sums_dtype(dtype)) for _ in range(3)]
    _narrow_vectors(a, panels, outs[0])
    _wide_vectors(a, panels, outs[1])
    gemm.multiply(a, 8, panels, outs[2])
    assert outs[0].any()
    assert outs[0].tobytes() == outs[1].tobytes() == outs[2].tobytes()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40), st.integers(1, 16), st.floats(0.01, 1000))
def test_codes_are_rounded_clipped_and_counted(values: list[float], bits: int, gain: float) -> None:
    x = np.array(values, np.float32)
    wanted = np.rint(x.astype(np.float64) * gain)
    top, half = 2**bits - 1, 2 ** (bits - 1)

    plain = np.empty((1, x.size), np.uint16)
    assert coding.quantise(x, gain, 0, top, coding.PLAIN, plain) == ((wanted < 0) | (wanted > top)).sum()
    assert (plain[0] == np.clip(wanted, 0, top)).all()

    phases = np.empty((2, x.size), np.uint16)
    assert coding.quantise(x, gain, -top, top, coding.TWO_PHASE, phases) == (np.abs(wanted) > top).sum()
    assert (phases[0].astype(int) - phases[1] == np.clip(wanted, -top, top)).all()
    assert (phases.min(axis=0) == 0).all()

    offset = np.empty((1, x.size), np.uint16)
    assert coding.quantise(x, gain, -half, half - 1, coding.OFFSET, offset) == ((wanted < -half) | (wanted > half - 1)).sum()
    assert (offset[0].astype(int) - half == np.clip(wanted, -half, half - 1)).all()
