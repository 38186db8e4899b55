"""Reads of single rows of an array: the mean and the noise of the chip's own reads, by any backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cimc
from cimc.runtime.row_read import RowReader
from tests.training.small import data, model

SETTINGS = {"update.rule": "residual_arrays", "update.arrays": 2, "adc.bits": 10, "device.read_sigma_us": 0.2}
READS = 40


def chip(backend: str = "cpu", **settings: Any) -> cimc.Chip:
    program = cimc.compile(model(), target="bulk-rram", calibration={"x": data(32)[0]}, settings=SETTINGS | settings)
    return cimc.Chip(program, 0, backend=backend)


@pytest.mark.parametrize("settings", [{}, {"adc.pair_read": "subtracted"}, {"adc.bits": None, "dac.bits": None}], ids=str)
def test_mean_and_deviation_are_those_of_one_read(settings: dict[str, Any]) -> None:
    """A pair has twice the variance of a device's read noise, and of the rounding of its one or two conversions."""
    crossbar = chip(**settings).crossbars["Gemm_0"]
    reader, rows, device = RowReader(crossbar), np.arange(crossbar.rows), crossbar.target.device
    half_us = (device.g_max_us - device.g_min_us) / 2
    bits = crossbar.target.adc.bits
    top = 2 ** (bits - (settings.get("adc.pair_read") == "subtracted")) - 1 if bits else np.inf
    mean_us, sigma_us = device.programming.error_us(device.g_max_us)
    lsb_us = (device.g_max_us + mean_us + 3 * sigma_us) / top
    rounding = (1 if settings else 2) * lsb_us**2 / 12
    for array in (0, 1):
        held = crossbar.g_us[:, :, array] - crossbar.g_us[:, :, 2 + array]
        error = np.stack([reader.read(array, rows, key) * half_us - held for key in range(READS)])
        expected = np.sqrt(2 * 0.2**2 + rounding)
        assert abs(error.mean()) < 5 * expected / np.sqrt(error.size) + 0.1 * lsb_us
        assert abs(error.std() / expected - 1) < 5 / np.sqrt(2 * error.size) + 0.01
    alone = np.stack([reader.conductances(1, rows, key) - crossbar.g_us[:, :, 1] for key in range(READS)])
    assert abs(alone.std() / np.sqrt(0.2**2 + lsb_us**2 / 12) - 1) < 0.1


def test_the_rows_are_those_that_were_asked_for_and_their_reads_are_counted() -> None:
    quiet = {"device.read_sigma_us": 0.0, "adc.bits": None, "dac.bits": None}
    crossbar = chip(**quiet).crossbars["Gemm_0"]
    before, every = crossbar.stats.transfer_reads, np.arange(crossbar.rows)
    some = np.array([5, 60, 6])
    np.testing.assert_array_equal(RowReader(crossbar).read(0, some, 1), RowReader(crossbar).read(0, every, 1)[:, some])
    assert crossbar.stats.transfer_reads - before == (len(some) + crossbar.rows) * (len(crossbar.column_cuts) - 1)


def test_every_backend_reads_the_same() -> None:
    errors = {"adc.gain_sigma": 0.02, "adc.offset_sigma_lsb": 1.0}
    found = [RowReader(chip(name, **errors).crossbars["Conv_0"]).read(1, np.arange(9), 3) for name in ("cpu", "reference")]
    np.testing.assert_allclose(*found, atol=1e-6)


def test_errors_of_converters_are_in_the_reads() -> None:
    quiet = {"device.read_sigma_us": 0.0, "device.programming.sigma_us": 0.0, "device.programming.mean_us": 0.0}
    plain, wide = (
        RowReader(chip(**quiet, **more).crossbars["Gemm_0"]).read(1, np.arange(64), 3) for more in ({}, {"adc.gain_sigma": 0.05})
    )
    assert np.abs(plain).max() < 0.01
    assert (np.ptp(wide, axis=1) < 0.01).all()  # a line has one converter
    assert np.abs(wide).max() > 0.02
