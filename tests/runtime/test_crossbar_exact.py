"""Noise-free crossbars: the integer product of a bit-sliced chip, and the closed form of an integrating one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimc.errors import FitError, RunError
from cimc.ir.geometry import Conv
from tests.runtime.crossbars import ISAAC, PAIR, crossbar, dense, reference, target


@pytest.mark.parametrize("encoding", ["two_phase", "offset", "twos_complement", "unsigned"])
def test_bit_sliced_chip_computes_the_integer_product(encoding: str) -> None:
    random = np.random.default_rng(1)
    signed = encoding != "unsigned"
    chip = target(ISAAC, dac={"signed": encoding} if signed else {})
    matrix = random.integers(-32767, 32768, (2, 300, 24))
    matrix[:, :, 3], matrix[:, :, 4] = 32767, -32767
    x = random.integers(-32768 if signed else 0, 32768 if signed else 65536, (9, 600))
    x[0], x[1] = (-32767 if signed else 0), (32767 if signed else 65535)
    bar = crossbar(chip, matrix.astype(np.float64), (0, 128, 256, 300), (0, 15, 24), signed=signed)
    got = bar.multiply(x.astype(np.float64), dense(matrix), 5)
    wanted = np.einsum("ngr,grc->ngc", x.reshape(9, 2, 300), matrix).reshape(9, 48)
    assert np.array_equal(got, wanted)
    assert bar.stats.adc_saturations == 0
    assert np.array_equal(bar.weights(), matrix)


def test_bit_sliced_convolution_with_padding_is_exact_in_offset_encoding() -> None:
    random = np.random.default_rng(2)
    matrix = random.integers(-100, 100, (1, 18, 5)).astype(np.float64)
    x = random.integers(-50, 50, (3, 2, 5, 6)).astype(np.float64)
    geometry = Conv(kernel_shape=(3, 3), strides=(1, 2), dilations=(1, 1), pads=(1, 2, 1, 0))
    bar = crossbar(target(ISAAC, dac={"signed": "offset"}), matrix, weight_max=np.array([32767.0]))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (2, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, :, ::2]
    wanted = np.einsum("nchwij,cijm->nmhw", windows, matrix[0].reshape(2, 3, 3, 5))
    assert np.array_equal(bar.multiply(x, geometry, 0), wanted)


def test_rows_that_leak_half_a_step_are_refused() -> None:
    with pytest.raises(FitError, match="leak"):
        crossbar(target(ISAAC, device={"g_min_us": 1.0}), np.ones((1, 300, 2)), signed=False)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["two_phase", "offset", "unsigned"]),
    st.sampled_from(["pair", "unit", "flipped"]),
    st.integers(1, 60), st.integers(1, 9), st.integers(1, 2), st.integers(2, 10), st.integers(0, 999),
)  # fmt: skip
def test_read_is_the_closed_form(
    encoding: str, kind: str, rows: int, columns: int, groups: int, adc_bits: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    signed = encoding != "unsigned"
    changes: dict[str, dict[str, Any]] = {"dac": {"signed": encoding} if signed else {}, "adc": {"bits": adc_bits}}
    if kind != "pair":
        changes["array"] = {"unit_column": True}
        changes["weights"] = {"representation": "offset", "bits": 7, "cells": 2}
        changes["adc"]["flipped"] = kind == "flipped"
    matrix = random.normal(size=(groups, rows, columns)).astype(np.float32)
    x = (random.normal(size=(5, groups * rows)) if signed else random.random((5, groups * rows))).astype(np.float32)
    cuts = tuple(sorted({0, rows // 2, rows}))
    range_ua = 0.1 * 70 * max(1, rows) * random.uniform(0.1, 1)
    column_cuts = tuple(sorted({0, columns // 2, columns}))
    bar = crossbar(target(PAIR, **changes), matrix, cuts, column_cuts, range_ua=range_ua, gain=60.0, signed=signed)
    wanted, edge, saturated = reference(bar, x)
    got = bar.multiply(x.astype(np.float64), dense(matrix), 0)
    # A read below 2**10 LSB is the difference of two sums of at most (g_min + g_max) / 2 g_min = 4 times that, in float32.
    lsb_error = 4 * 2**10 * 2**-24 * 4
    clear = edge > lsb_error
    np.testing.assert_allclose(got[clear], wanted[clear], rtol=1e-6, atol=1e-6 * np.abs(wanted).max())
    assert clear.mean() > 0.5
    assert abs(bar.stats.adc_saturations - saturated) <= (~clear).sum() * 2 * len(cuts)


def test_saturated_reads_and_clipped_inputs_are_counted() -> None:
    matrix = np.ones((1, 4, 1), np.float32)
    bar = crossbar(target(PAIR), matrix, range_ua=10.0, gain=255.0, signed=False)
    x = np.array([[1, 1, 1, 1], [0.1, 0.1, 0.1, 0.1], [2, 0, 0, -1]], np.float32)
    bar.multiply(x, dense(matrix), 0)
    # Full input: 4 x 7 uA x 255/256 = 27.9 uA on the plus column, 4.0 uA on the minus column.
    assert (bar.stats.adc_saturations, bar.stats.dac_clips) == (1, 2)
    assert (bar.stats.positions, bar.stats.tile_reads, bar.stats.adc_conversions) == (3, 3, 6)


def test_an_unknown_adc_range_is_an_error() -> None:
    matrix = np.ones((1, 4, 1), np.float32)
    with pytest.raises(RunError, match="range"):
        crossbar(target(PAIR), matrix).multiply(np.ones((1, 4), np.float32), dense(matrix), 0)


def test_a_fine_chip_approaches_the_product_of_what_its_devices_hold() -> None:
    """Programming errors and faults act as weights; DAC and ADC of 15 and 22 bits leave little else."""
    random = np.random.default_rng(3)
    matrix = random.normal(size=(1, 80, 6)).astype(np.float32)
    chip = target(
        PAIR, device={"programming": {"sigma_us": 2.0, "mean_us": 1.0}, "stuck_low_rate": 0.02, "levels": None},
        dac={"bits": 15}, adc={"bits": 22},
    )  # fmt: skip
    bar = crossbar(chip, matrix, (0, 50, 80), range_ua=600.0, gain=2**15 / 5)
    x = random.normal(size=(7, 80)).astype(np.float32)
    held = bar.weights()
    assert np.abs(held - matrix).max() > 0.05
    # The conductance grid is the largest error: a tenth of the programming error of 2 µS, uniform, of 60 µS a full weight.
    step = np.abs(matrix).max() * 0.2 / 60 / 12**0.5 * 2**0.5
    error = bar.multiply(x, dense(matrix), 0) - x @ held[0]
    assert np.abs(error).max() < 5 * step * np.linalg.norm(x, axis=1).max()
    assert np.abs(error).max() < np.abs(x @ (held - matrix)[0]).max() / 5
