"""Narrow layers are read with vectors along positions: to the byte what vectors along columns give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cimc.ir.geometry import Conv, ConvTranspose, Dense
from cimc.runtime import gemm, plan
from tests.runtime.crossbars import ISAAC, PAIR, crossbar, dense, target

NOISE: dict[str, Any] = {"read_sigma_us": 1.5, "programming": {"sigma_us": 1.0}}
CHIPS: dict[str, Any] = {
    "two_phase": target(PAIR, device=NOISE, adc={"sigma_lsb": 1.0}),
    "offset": target(PAIR, device=NOISE, dac={"signed": "offset"}),
    "quiet": target(PAIR),
    "no converter": target(PAIR, device=NOISE, adc={"bits": None}),
    "bit-sliced": target(ISAAC, device={"read_sigma_us": 20.0}, dac={"bits": 6}, weights={"bits": 6, "cells": 3}),
    "real unit factors": target(
        PAIR, device=NOISE, array={"unit_column": True}, weights={"representation": "offset", "bits": 7, "cells": 2}
    ),
}


def conv(kernel: tuple[int, ...], stride: int = 1, pad: int = 0, dilation: int = 1) -> Conv:
    rank = len(kernel)
    return Conv(kernel_shape=kernel, strides=(stride,) * rank, dilations=(dilation,) * rank, pads=(pad,) * (2 * rank))


SPREAD = ConvTranspose(kernel_shape=(2, 2), strides=(2, 2), dilations=(1, 1), pads=(0, 0, 0, 0), output_padding=(0, 0))
CASES: dict[str, Any] = {
    "lines longer than a vector": (conv((5, 5)), (1, 25, 4), (3, 1, 28, 24)),
    "short lines": (conv((3, 3)), (2, 27, 3), (5, 6, 9, 9)),
    "padding": (conv((3, 3), pad=1), (1, 9, 5), (4, 1, 6, 5)),
    "strides": (conv((3, 3), 2), (1, 18, 5), (4, 2, 11, 11)),
    "dilated, one axis": (conv((3,), dilation=2), (1, 9, 5), (4, 3, 40)),
    "single pixels": (conv((1, 1)), (1, 7, 5), (4, 7, 9, 9)),
    "one position an image": (conv((4, 4)), (1, 48, 5), (37, 3, 4, 4)),
    "dense": (dense(np.empty((1, 131, 10))), (1, 131, 10), (70, 131)),
    "one row": (dense(np.empty((1, 131, 10))), (1, 131, 10), (1, 131)),
    "tokens": (Dense(input_perm=(0, 1, 2), kept=2, output_dims=(10,), output_perm=(0, 1, 2)), (1, 20, 10), (4, 50, 20)),
    "spread": (SPREAD, (1, 12, 20), (6, 12, 5, 4)),
}


@pytest.mark.skipif(not gemm.has_avx2(), reason="the CPU has no AVX2; all layers take the other way")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", CHIPS)
def test_both_ways_give_the_same_bytes(name: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    geometry, shape, x_shape = CASES[case]
    random = np.random.default_rng(0)
    matrix = random.normal(size=shape).astype(np.float32)
    x = random.normal(size=x_shape).astype(np.float32)
    _, rows, columns = shape
    cuts, column_cuts = tuple(sorted({0, 5, rows // 2, rows})), tuple(sorted({0, columns // 2, columns}))
    gain = 2.0 ** CHIPS[name].dac.bits / 5

    def run(most: int) -> tuple[bytes, int]:
        monkeypatch.setattr(plan, "NARROW", most)
        monkeypatch.setattr(plan, "NARROW_CONV", most)
        bar = crossbar(CHIPS[name], matrix, cuts, column_cuts, range_ua=0.5 * rows, gain=gain, signed=True)
        y = bar.multiply(x, geometry, 3, first_image=2, offset=random.normal(size=()) + np.zeros(shape[0] * columns))
        assert (bar._read.circuit.matrix.ndim == 3) == (most > 0)  # type: ignore[union-attr]
        return y.tobytes(), bar.stats.adc_saturations

    random = np.random.default_rng(1)
    across = run(10_000)
    random = np.random.default_rng(1)
    assert across == run(0)


def test_a_layer_read_in_two_geometries_keeps_its_bytes() -> None:
    """The first product decides how devices are packed, not what is computed."""
    matrix = np.random.default_rng(0).normal(size=(1, 30, 40)).astype(np.float32)
    x = np.random.default_rng(1).random((9, 30), np.float32)
    tokens = Dense(input_perm=(0, 1, 2), kept=2, output_dims=(40,), output_perm=(0, 1, 2))

    def rows(first: bool) -> bytes:
        bar = crossbar(CHIPS["two_phase"], matrix, range_ua=20.0, gain=100.0)
        if first:
            bar.multiply(x[None], tokens, 1)
        return bar.multiply(x, dense(matrix), 1).tobytes()

    assert rows(True) == rows(False)


def test_the_sum_of_squares_of_many_inputs_does_not_overflow() -> None:
    """40,000 inputs at full scale: squares beyond an int32, while grid steps near the middle of the window stay exact."""
    matrix = np.zeros((1, 40_000, 1), np.float32)
    chip = target(PAIR, device={"read_sigma_us": 1.5}, adc={"bits": None})
    bar = crossbar(chip, matrix, gain=255.0, weight_max=np.ones(1))
    bar.set_conductances(np.full_like(bar.g_us, 40.0))
    y = bar.multiply(np.broadcast_to(np.float32(1), (500, 40_000)), dense(matrix), 1)
    sigma = 1.5 * (2 * 40_000) ** 0.5 / (60 / 15) / 15
    assert abs(y.std() / sigma - 1) < 5 / (2 * y.size) ** 0.5
