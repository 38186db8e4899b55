"""Noisy crossbars: variance in closed form, and the same bytes whatever the threads or the split."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from cimc.ir.encoding import encode
from cimc.ir.geometry import Conv, ConvTranspose, Dense
from cimc.runtime import layout
from cimc.threads import set_threads
from tests.runtime.crossbars import ISAAC, PAIR, crossbar, dense, target

NOISE: dict[str, Any] = {"read_sigma_us": 1.5, "programming": {"sigma_us": 1.0}, "stuck_high_rate": 0.01}


@pytest.fixture(autouse=True)
def default_threads() -> Iterator[None]:
    yield
    set_threads(None)


def test_read_noise_has_the_variance_of_independent_devices() -> None:
    """One Gaussian an output: (V sigma)**2 * sum((code / 2**bits)**2), and of a pair the sum of both."""
    random = np.random.default_rng(0)
    matrix = random.normal(size=(1, 40, 3)).astype(np.float32)
    chip = target(PAIR, device={"read_sigma_us": 1.5}, adc={"bits": None})
    bar = crossbar(chip, matrix, (0, 25, 40), gain=200.0, signed=True)
    x = random.uniform(-1, 1, 40).astype(np.float32)
    n = 20_000
    y = bar.multiply(np.tile(x, (n, 1)), dense(matrix), 1).astype(np.float64)
    codes = np.rint(x.astype(np.float64) * 200)
    step_us = 60 / 15
    weight_step = np.abs(matrix).max() / 15
    sigma = 1.5 * np.sqrt(2 * (codes**2).sum()) / step_us * weight_step / 200
    noiseless = crossbar(target(PAIR, adc={"bits": None}), matrix, (0, 25, 40), gain=200.0, signed=True)
    expected = noiseless.multiply(x[None], dense(matrix), 1)[0]
    assert np.abs(y.mean(axis=0) - expected).max() < 5 * sigma / n**0.5
    assert np.abs(y.std(axis=0) / sigma - 1).max() < 5 / (2 * n) ** 0.5
    assert np.abs(np.corrcoef(y.T)[np.triu_indices(3, 1)]).max() < 5 / n**0.5


def test_converter_noise_adds_to_read_noise() -> None:
    matrix = np.array([[[1.0], [-0.5]]], np.float32)
    chip = target(PAIR, device={"read_sigma_us": 4.0}, adc={"bits": 12, "sigma_lsb": 5.0})
    bar = crossbar(chip, matrix, range_ua=20.0, gain=255.0, signed=False)
    n = 40_000
    x = np.tile(np.array([0.7, 0.9], np.float32), (n, 1))
    y = bar.multiply(x, dense(matrix), 1).astype(np.float64)
    lsb = 20.0 / 4095
    codes = np.rint(np.array([0.7, 0.9]) * 255) / 256
    read = (0.1 * 4.0) ** 2 * (codes**2).sum()
    variance_ua = 2 * (read + (5.0**2 + 1 / 12) * lsb**2)
    sigma = variance_ua**0.5 * 256 / (0.1 * 4.0) / 15 / 255
    assert abs(y.std() / sigma - 1) < 5 / (2 * n) ** 0.5


def test_noise_changes_with_every_part_of_its_key() -> None:
    matrix = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32)
    chip = target(PAIR, device={"read_sigma_us": 1.5}, adc={"bits": None})
    bar = crossbar(chip, matrix, (0, 3, 6), gain=200.0)
    quiet = crossbar(target(PAIR, adc={"bits": None}), matrix, (0, 3, 6), gain=200.0)
    geometry = Dense(input_perm=(0, 1, 2), kept=2, output_dims=(6,), output_perm=(0, 1, 2))
    x = np.ones((3, 4, 12), np.float32)
    noise = bar.multiply(x, geometry, 1) - quiet.multiply(x, geometry, 1)
    other = bar.multiply(x, geometry, 2) - quiet.multiply(x, geometry, 2)
    assert np.unique(np.stack([noise, other]).round(7)).size > 0.98 * noise.size * 2
    later = bar.multiply(x[:1], geometry, 1, first_image=2) - quiet.multiply(x[:1], geometry, 1)
    assert np.array_equal(later[0], noise[2])


def test_noise_of_neighbours_is_uncorrelated() -> None:
    """Slices and phases, of which one is driven at a time, then images, positions and columns of two groups."""
    matrix = np.random.default_rng(0).normal(size=(2, 6, 8)).astype(np.float32)
    noisy, quiet = (
        crossbar(target(PAIR, device={"read_sigma_us": sigma}, adc={"bits": None}), matrix, (0, 3, 6), gain=200.0, signed=True)
        for sigma in (1.5, 0.0)
    )
    geometry = Dense(input_perm=(0, 1, 2), kept=2, output_dims=(16,), output_perm=(0, 1, 2))
    parts = []
    for begin, sign in ((0, 1), (0, -1), (3, 1), (3, -1)):
        x = np.zeros((50, 60, 2, 6), np.float32)
        x[..., begin : begin + 3] = sign
        x = x.reshape(50, 60, 12)
        parts.append(noisy.multiply(x, geometry, 1) - quiet.multiply(x, geometry, 1))
    noise = np.stack(parts).reshape(2, 2, 50, 60, 16).astype(np.float64)
    for axis, size in enumerate(noise.shape):
        first, second = noise.take(range(size - 1), axis), noise.take(range(1, size), axis)
        for a, b in ((first, second), (np.abs(first), np.abs(second))):
            assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / a.size**0.5


CHIPS: dict[str, Any] = {
    "two_phase": target(PAIR, device=NOISE, adc={"sigma_lsb": 1.0}),
    "offset": target(PAIR, device=NOISE, dac={"signed": "offset"}),
    "real inputs": target(PAIR, device=NOISE, dac={"bits": None}),
    "real inputs and outputs": target(PAIR, device=NOISE, dac={"bits": None}, adc={"bits": None}),
    "wide codes": target(PAIR, device=NOISE, dac={"bits": 16}),
    "bit-sliced": target(ISAAC, device={"read_sigma_us": 20.0, "programming": {"sigma_us": 5.0}}, dac={"bits": 6}),
    "two's complement": target(ISAAC, device={"read_sigma_us": 20.0}, dac={"bits": 6, "signed": "twos_complement"}),
    "many levels": target(PAIR, device={**NOISE, "levels": 40_001}),
    "ideal": target({}),
}
CONV = Conv(kernel_shape=(3, 3), strides=(1, 1), dilations=(1, 1), pads=(1, 1, 1, 1))
SPREAD = ConvTranspose(kernel_shape=(3, 3), strides=(2, 2), dilations=(1, 1), pads=(0, 0, 0, 0), output_padding=(0, 0))
CASES: dict[str, Any] = {
    "dense": (dense(np.empty((1, 600, 70))), (1, 600, 70), (45, 600)),
    "conv": (CONV, (2, 27, 5), (7, 6, 9, 8)),
    "spread": (SPREAD, (1, 30, 36), (6, 30, 5, 4)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", CHIPS)
def test_bytes_do_not_depend_on_threads_or_batch_splits(name: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    geometry, shape, x_shape = CASES[case]
    random = np.random.default_rng(0)
    matrix = random.normal(size=shape).astype(np.float32)
    x = random.normal(size=x_shape).astype(np.float32)
    rows, columns = shape[1:]
    cuts = (*range(0, rows, 128), rows)
    gain = 1.0 if CHIPS[name].dac.bits is None else 2.0 ** CHIPS[name].dac.bits / 5
    columns_cut = (*range(0, columns, 15), columns) if columns % 15 else (0, columns)
    monkeypatch.setattr(layout, "BLOCK_WIDTH", 64)
    monkeypatch.setattr("cimc.runtime.plan.SMALL", 0)

    def run(threads: int, splits: tuple[int, ...]) -> bytes:
        set_threads(threads)
        bar = crossbar(CHIPS[name], matrix, cuts, columns_cut, range_ua=100.0, gain=gain, signed=True)
        ends = (0, *splits, len(x))
        parts = [bar.multiply(x[b:e], geometry, 3, first_image=b) for b, e in pairwise(ends)]
        return np.concatenate(parts).tobytes()

    whole = run(1, ())
    assert run(2, ()) == whole
    assert run(1, (1, 3)) == whole
    assert run(2, (5,)) == whole


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", CHIPS)
def test_no_images_give_no_results(name: str, case: str) -> None:
    geometry, shape, x_shape = CASES[case]
    bar = crossbar(CHIPS[name], np.ones(shape, np.float32), (*range(0, shape[1], 128), shape[1]), range_ua=100.0)
    empty = bar.multiply(np.empty((0, *x_shape[1:]), np.float32), geometry, 0)
    assert empty.shape == (0, *bar.multiply(np.zeros((1, *x_shape[1:]), np.float32), geometry, 0).shape[1:])


def test_the_same_seed_programs_the_same_chip_and_another_one_does_not() -> None:
    matrix = np.random.default_rng(0).normal(size=(3, 50, 7)).astype(np.float32)
    set_threads(2)
    first, again, other = (crossbar(CHIPS["two_phase"], matrix, (0, 20, 50), seed=seed).g_us for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert (first != other).mean() > 0.9
    released = crossbar(CHIPS["two_phase"], matrix, (0, 20, 50), seed=1)
    assert released.g_us.tobytes() == first.tobytes()
    released.release()
    assert released.g_us.tobytes() == first.tobytes()


def test_programming_does_not_depend_on_how_a_layer_is_cut_up(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = np.random.default_rng(0).normal(size=(3, 50, 7)).astype(np.float32)
    chip = target(ISAAC, device={"programming": {"sigma_us": 5.0}, "stuck_low_rate": 0.05})
    whole = crossbar(chip, matrix, (0, 20, 50), signed=False)
    expected, coefficients = whole.g_us.tobytes(), whole.coefficients
    monkeypatch.setattr("cimc.runtime.arrays.fabricate.CHUNK", 1)
    cut = crossbar(chip, matrix, (0, 20, 50), signed=False)
    assert cut.g_us.tobytes() == expected
    assert np.array_equal(cut.coefficients.alpha, coefficients.alpha)
    assert np.array_equal(cut.coefficients.weight_step, coefficients.weight_step)


@pytest.mark.parametrize("weights", [{}, {"rounded": False}, {"bits": 3}])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_perfect_pairs_hold_what_the_encoding_says(weights: dict[str, Any], dtype: type) -> None:
    matrix = np.random.default_rng(0).normal(size=(3, 50, 7)).astype(dtype)
    matrix[1] = 0
    largest = np.abs(matrix).max(axis=1).reshape(-1).astype(np.float32) * np.float32(0.7)
    chip = target(PAIR, weights=weights)
    bar = crossbar(chip, matrix, (0, 20, 50), weight_max=largest)
    wanted = encode(matrix, largest, (0, 20, 50), chip)
    assert np.array_equal(bar.g_us, wanted.g_us)
    assert np.array_equal(bar.coefficients.alpha, wanted.coefficients.alpha)
    assert np.array_equal(bar.coefficients.weight_step, wanted.coefficients.weight_step)


def test_conductances_can_be_set_and_written() -> None:
    matrix = np.random.default_rng(0).normal(size=(1, 8, 2)).astype(np.float32)
    x = np.ones((1, 8), np.float32)
    bar = crossbar(target(PAIR, adc={"bits": None}), matrix, gain=200.0)
    before = bar.multiply(x, dense(matrix), 0)
    saved = bar.g_us.copy()
    bar.g_us[...] = 10.0
    bar.written()
    assert np.array_equal(bar.multiply(x, dense(matrix), 0), np.zeros((1, 2)))
    bar.set_conductances(saved)
    assert np.array_equal(bar.multiply(x, dense(matrix), 0), before)


@pytest.mark.parametrize("columns", [3, 70])
@pytest.mark.parametrize("largest_us", [30.0, 1e6])
@pytest.mark.parametrize("parts", [0, 1, 3])
def test_what_was_written_is_read_as_a_chip_that_held_it_from_the_start(columns: int, largest_us: float, parts: int) -> None:
    random = np.random.default_rng(0)
    matrix = random.normal(size=(2, 9, columns)).astype(np.float32)
    x = random.normal(size=(5, 18)).astype(np.float32)
    chip = target(PAIR, device={"read_sigma_us": 1.0})
    used, new = (crossbar(chip, matrix, (0, 4, 9), range_ua=20.0, gain=50.0, signed=True) for _ in range(2))
    used.multiply(x, dense(matrix), 0)
    g_us = random.uniform(1, largest_us, used.g_us.shape).astype(np.float32)
    if parts:
        # In several goes, half of all devices, some of them twice.
        flat = used.g_us.reshape(-1)
        for devices in np.split(random.choice(flat.size, 3 * (flat.size // 6)), parts):
            flat[devices] = g_us.reshape(-1)[devices]
            used.written(devices)
        g_us = used.g_us.copy()
    else:
        used.g_us[...] = g_us
        used.written()
    new.set_conductances(g_us)
    assert np.array_equal(used.multiply(x, dense(matrix), 0), new.multiply(x, dense(matrix), 0))
