"""The read grid is no quantiser of its own: products against closed forms, whatever the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cimc.ir.encoding import quantise
from cimc.runtime.crossbar import Crossbar
from cimc.targets.load import load_target
from tests.runtime.crossbars import PAIR, crossbar, dense, target

ROWS, COLUMNS = 60, 3000
#: No converter but the DAC, whose codes the inputs are.
BARE: dict[str, Any] = {"adc": {"bits": None}, "array": {"rows": None}}


def codes() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (4, ROWS)).astype(np.float32)


def made(seed: int = 0, columns: int = COLUMNS, **device: Any) -> Crossbar:
    matrix = np.random.default_rng(2).uniform(-1, 1, (1, ROWS, columns)).astype(np.float32)
    rounded = device.pop("rounded", True)
    chip = target(PAIR, **BARE, device=device, weights={"rounded": rounded})
    return crossbar(chip, matrix, seed=seed, gain=1.0, signed=False, weight_max=np.ones(1, np.float32))


def weights_of(bar: Crossbar) -> np.ndarray:
    """The weights that are aimed at, float64."""
    steps = quantise(bar.matrix, bar.weight_max, bar.target)[0]
    return steps / ((bar.target.device.levels or 2) - 1)


def error_of(bar: Crossbar, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    wanted = x.astype(np.float64) @ weights_of(bar)
    return bar.multiply(x, dense(bar.matrix), 0).astype(np.float64) - wanted, wanted


def sqnr_db(error: np.ndarray, wanted: np.ndarray) -> float:
    return float(10 * np.log10(np.square(wanted).sum() / np.square(error).sum()))


@pytest.mark.parametrize(
    ("levels", "rounded"), [(None, True), (None, False), (65536, True), (65536, False), (1000, False), (16, True)]
)
def test_without_noise_float32_is_the_limit(levels: int | None, rounded: bool) -> None:
    assert sqnr_db(*error_of(made(levels=levels, rounded=rounded), codes())) > 115


@pytest.mark.parametrize("levels", [None, 16, 65536])
@pytest.mark.parametrize("sigma", [1e-4, 1e-3, 0.01, 0.05, 0.2, 1.0])
def test_programming_errors_of_any_size_add_up_as_they_are(sigma: float, levels: int | None) -> None:
    """Each product is off by the sum of its devices' errors, of variance 2 sigma^2 sum(code^2)."""
    x = codes()
    error, _ = error_of(made(levels=levels, programming={"sigma_us": sigma}), x)
    full = 60.0  # µS of a full weight
    expected = 2 * (sigma / full) ** 2 * np.square(x.astype(np.float64)).sum(axis=1)
    found = np.square(error).mean(axis=1)
    assert np.abs(found / expected - 1).max() < 5 * np.sqrt(2 / COLUMNS)


@pytest.mark.parametrize("mean", [0.001, 0.02, 0.1])
def test_a_mean_programming_error_is_neither_swallowed_nor_doubled(mean: float) -> None:
    """Of offset weights, which no other device takes off."""
    matrix = np.random.default_rng(2).uniform(-1, 1, (1, ROWS, 300)).astype(np.float32)
    chip = target(
        PAIR, **BARE | {"array": {"unit_column": True}}, device={"programming": {"mean_us": mean}, "levels": 16},
        weights={"representation": "offset"},
    )  # fmt: skip
    bar = crossbar(chip, matrix, gain=1.0, signed=False, weight_max=np.ones(1, np.float32))
    held, x = bar.weights()[0].astype(np.float64), codes()
    found, wanted = bar.multiply(x, dense(matrix), 0).astype(np.float64), x @ held
    assert sqnr_db(found - wanted, wanted) > 100


def test_reads_with_noise_average_to_what_is_held() -> None:
    sigma, reads = 0.02, 400
    bar = made(columns=200, levels=None, read_sigma_us=sigma)
    x = np.repeat(codes()[:1], reads, 0)
    error, _ = error_of(bar, x)
    norm = np.sqrt(np.square(x[0].astype(np.float64)).sum())
    one = 2**0.5 * sigma / 60 * norm
    assert error.std(axis=0).mean() == pytest.approx(one, rel=5 / np.sqrt(2 * reads * 200))
    # What is left is the grid's: at most a fifth of sigma a step, uniform.
    left = np.sqrt(np.square(error.mean(axis=0)).mean())
    assert left < 1.5 * one * np.hypot(1 / np.sqrt(reads), 0.2 / 12**0.5)


@pytest.mark.parametrize("some", [False, True])
@pytest.mark.parametrize("levels", [None, 16, 65536])
def test_what_is_written_between_levels_is_read_there(levels: int | None, some: bool) -> None:
    bar, other = made(columns=50, levels=levels), made(columns=50, levels=levels)
    x = codes()
    bar.multiply(x, dense(bar.matrix), 0)
    which = np.array([0, 7, 99, 3001])
    for one in (bar, other):
        one.g_us.reshape(-1)[which] += np.float32([0.013, 0.2, -0.09, 0.4])
    bar.written(which if some else None)
    found, wanted = bar.multiply(x, dense(bar.matrix), 0), other.multiply(x, dense(bar.matrix), 0)
    np.testing.assert_array_equal(found, wanted)
    held = bar.weights()[0].astype(np.float64)
    assert sqnr_db(found - x @ held, x @ held) > 110


@pytest.mark.parametrize("name", ["bulk-rram", "bulk-rram-256", "isaac"])
def test_built_in_chips_keep_their_fast_products(name: str) -> None:
    chip, matrix = load_target(name), np.random.default_rng(0).normal(size=(1, 40, 8)).astype(np.float32)
    bar = crossbar(chip, matrix, range_ua=50.0, gain=100.0)
    assert bar._ready(1).circuit.matrix.dtype in (np.int16, np.float32)
