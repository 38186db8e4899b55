"""Small crossbars for tests, and the formula of a read in plain float64 numpy."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from cimc.ir.encoding import encode, level_step_us, quantise
from cimc.ir.geometry import Dense, WeightView
from cimc.ir.program import InputCoding, Layer
from cimc.runtime.crossbar import Crossbar
from cimc.targets.description import Target

ISAAC: dict[str, Any] = {
    "array": {"rows": 128, "columns": 128, "unit_column": True},
    "device": {"g_min_us": 0.5, "g_max_us": 500.0, "levels": 4},
    "weights": {"representation": "offset", "bits": 16, "cells": 8},
    "dac": {"bits": 16},
    "adc": {"bits": 8, "conversion": "per_bit", "flipped": True},
}
PAIR: dict[str, Any] = {
    "device": {"g_min_us": 10.0, "g_max_us": 70.0, "levels": 16, "read_voltage_v": 0.1},
    "dac": {"bits": 8},
    "adc": {"bits": 8},
}


def target(base: dict[str, Any], **changes: dict[str, Any]) -> Target:
    """``base`` with sections changed field by field."""
    sections = {name: {**base.get(name, {}), **changes.get(name, {})} for name in {*base, *changes}}
    return Target.model_validate({"name": "test", **sections})


def crossbar(
    chip: Target,
    matrix: np.ndarray,
    row_cuts: tuple[int, ...] | None = None,
    column_cuts: tuple[int, ...] | None = None,
    *,
    range_ua: float | None = None,
    seed: int = 0,
    weight_max: np.ndarray | None = None,
    **coding: Any,
) -> Crossbar:
    """A layer of ``[groups, rows, columns]``."""
    _, rows, columns = matrix.shape
    layer = Layer(
        name="layer",
        weight=WeightView(tensor="w", split=matrix.shape, perm=(0, 1, 2), shape=matrix.shape),
        coding=InputCoding(**coding),
        adc_range_ua=range_ua,
        row_cuts=row_cuts or (0, rows),
        column_cuts=column_cuts or (0, columns),
    )
    return Crossbar(layer, matrix, np.abs(matrix).max().reshape(1) if weight_max is None else weight_max, chip, seed)


def dense(matrix: np.ndarray) -> Dense:
    """Rows of ``[n, groups * rows]`` to ``[n, groups * columns]``."""
    return Dense(input_perm=(0, 1), kept=1, output_dims=(matrix.shape[0] * matrix.shape[2],), output_perm=(0, 1))


def reference(bar: Crossbar, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """What a noise-free pair or offset target with integrated conversion computes, in float64, a read at a time.

    Returns:
        ``[n, groups * columns]``; how near each output's reads come to a rounding edge, in LSB; saturated reads.
    """
    chip, coding = bar.target, bar.layer.coding
    bits, top = chip.dac.bits or 0, 2 ** (chip.adc.bits or 0) - 1
    wanted = np.rint(x.astype(np.float64) * coding.gain)
    full, half = 2**bits - 1, 2 ** (bits - 1)
    if not coding.signed:
        phases, signs = [np.clip(wanted, 0, full)], [1]
    elif chip.dac.signed == "two_phase":
        phases, signs = [np.clip(wanted, 0, full), np.clip(-wanted, 0, full)], [1, -1]
    else:
        phases, signs = [np.clip(wanted, -half, half - 1) + half], [1]
    volt, q = chip.device.read_voltage_v, level_step_us(chip)
    lsb = (bar.adc_range_ua or 0.0) / top
    c = encode(bar.matrix, bar.weight_max, bar.row_cuts, chip).coefficients
    n = x.shape[0]
    acc = np.zeros((n, bar.groups, bar.columns))
    edge = np.full(acc.shape, 0.5)
    saturated = 0
    tiles = np.repeat(np.arange(len(bar.column_cuts) - 1), np.diff(bar.column_cuts))

    def convert(currents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nonlocal saturated
        lsbs = currents / lsb
        saturated += int((np.rint(lsbs) > top).sum())
        return np.clip(np.rint(lsbs), 0, top), np.abs(lsbs - np.floor(lsbs) - 0.5)

    for sign, codes in zip(signs, phases, strict=True):
        codes = codes.reshape(n, bar.groups, bar.rows)
        for s, (r0, r1) in enumerate(pairwise(bar.row_cuts)):
            g_us = bar.g_us[:, r0:r1].astype(np.float64)
            read, near = convert(volt * np.einsum("ngr,grpc->ngpc", codes[:, :, r0:r1] / 2**bits, g_us))
            acc += sign * np.einsum("gpc,ngpc->ngc", c.alpha[:, s], read)
            edge = np.minimum(edge, near.min(axis=2))
            if c.unit is not None:
                unit_us = bar.unit_g_us[:, r0:r1].astype(np.float64)
                read, near = convert(volt * np.einsum("ngr,grt->ngt", codes[:, :, r0:r1] / 2**bits, unit_us))
                acc += sign * c.unit[:, s] * read[:, :, tiles]
                edge = np.minimum(edge, near[:, :, tiles])
    steps = acc * lsb * 2**bits / (volt * q)
    if coding.signed and chip.dac.signed == "offset":
        steps -= half * quantise(bar.matrix, bar.weight_max, chip).sum(axis=1)
    y = steps.reshape(n, -1) * c.weight_step / coding.gain
    return y, edge.reshape(n, -1), saturated
