"""The contract of a backend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.ir.encoding import encode
from cimc.ir.geometry import Conv, Dense, WeightView
from cimc.ir.program import InputCoding, Layer
from cimc.runtime.arrays.devices import Devices
from cimc.runtime.backends.interface import Backend, Handle
from cimc.runtime.backends.reference import Reference
from cimc.runtime.cells import Cells
from cimc.runtime.coding import Coding, room
from cimc.runtime.converters import ColumnErrors
from cimc.runtime.read_spec import ReadSpec
from cimc.runtime.unfold import Unfolding, unfolding
from cimc.targets.description import Target

Array = NDArray[Any]

_PAIR: dict[str, Any] = {
    "device": {"g_min_us": 10.0, "g_max_us": 70.0, "levels": 16, "read_voltage_v": 0.1, "read_sigma_us": 1.0},
    "dac": {"bits": 8},
    "adc": {"bits": 8, "sigma_lsb": 0.5},
}
_OFFSET: dict[str, Any] = {
    "array": {"unit_column": True},
    "device": {"g_min_us": 0.5, "g_max_us": 500.0, "levels": 4, "read_sigma_us": 4.0},
    "weights": {"representation": "offset", "bits": 8, "cells": 4},
    "dac": {"bits": 4},
    "adc": {"bits": 9, "conversion": "per_bit"},
}
#: Changes of these chips, by what is read in another way.
_KINDS: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]], bool]] = {
    "a pair": (_PAIR, {}, False),
    "a pair, inputs in two phases": (_PAIR, {}, True),
    "offset weights in bit slices, a conversion a bit": (_OFFSET, {}, False),
    "no converters": (_PAIR, {"dac": {"bits": None}, "adc": {"bits": None}}, False),
    "a pair subtracted in the array": (_PAIR, {"adc": {"pair_read": "subtracted"}}, False),
    "a bipolar read": (_PAIR, {"dac": {"signed": "bipolar"}}, True),
    "currents beyond the range": (_PAIR, {"adc": {"range_ua": 20.0}}, False),
    "differences beyond the range": (_PAIR, {"adc": {"range_ua": 3.0, "pair_read": "subtracted"}}, False),
    "noise of each pulse": (_PAIR, {"dac": {"pulse_noise": "fresh"}}, False),
    "bit lines that convert differently": (
        _PAIR,
        {"adc": {"gain_sigma": 0.05, "offset_sigma_lsb": 2.0, "bow_sigma_lsb": 1.0, "calibration_reads": 16}},
        False,
    ),
}
#: Share of outputs that may differ from the reference: where a current lies within rounding of the edge between two codes.
_EDGES = 2e-3


@dataclass
class _Case:
    """One read, with inputs."""

    name: str
    spec: ReadSpec
    where: Unfolding
    codes: Array

    def read(self, handle: Handle, images: slice = slice(None), first_image: int = 3) -> tuple[Array, int]:
        """Products ``[images, positions, columns]`` and saturated conversions of some images."""
        own = self.codes[:, images]
        codes = room(own.shape, own.dtype)
        codes[...] = own
        columns = handle.factor.size
        y = np.full(own.shape[1] * self.where.positions * columns, np.nan, np.float32)
        strides = self.where.positions * columns, columns, 1
        begin = first_image + (images.start or 0)
        constant = np.zeros(columns) if handle.intercept is None else handle.factor * handle.intercept
        saturated = handle.read(codes, self.where, 99, begin, handle.factor, constant, y, strides)
        return y.reshape(own.shape[1], self.where.positions, columns), saturated


def check_backend(made: Backend) -> None:
    """See that a backend reads as the reference does.

    For reads of every kind: products and saturated conversions are those of the reference but where a current lies on the edge
    between two codes; a batch may be split anywhere; a handle that took in changed devices reads as one made anew.

    Args:
        made: The backend.

    Raises:
        AssertionError: It does not.
    """
    for case in _cases():
        handle = made.prepare(case.spec, case.where.positions)
        y, saturated = case.read(handle)
        wanted, beyond = case.read(Reference().prepare(case.spec, case.where.positions))
        assert not np.isnan(y).any(), f"{case.name}: outputs are left out"
        differs = ~np.isclose(y, wanted, rtol=1e-4, atol=1e-4 * float(np.abs(wanted).max()))
        assert differs.mean() <= _EDGES, f"{case.name}: {differs.mean():.2%} of the products are not those of the reference"
        assert abs(saturated - beyond) <= 1 + _EDGES * beyond, f"{case.name}: {saturated} saturated conversions, not {beyond}"
        parts = [case.read(handle, slice(a, b))[0] for a, b in ((0, 1), (1, 6), (6, None))]
        assert np.array_equal(np.concatenate(parts), y), f"{case.name}: a split batch reads otherwise"
        _check_refresh(made, case)


def _check_refresh(made: Backend, case: _Case) -> None:
    handle = made.prepare(case.spec, case.where.positions)
    g_us = case.spec.g_us.copy()
    changed = np.array([0, 5, g_us.size - 1])
    g_us.reshape(-1)[changed] = case.spec.g_us.reshape(-1)[[7, 0, 2]]
    now = replace(case.spec, g_us=g_us)
    wanted, _ = case.read(made.prepare(now, case.where.positions))
    for way, devices in (("refresh of any devices", None), ("refresh of some devices", changed)):
        handle = made.prepare(case.spec, case.where.positions)
        if handle.refresh(now, devices):
            assert np.array_equal(case.read(handle)[0], wanted), f"{case.name}: {way} leaves another state than prepare"


def _cases() -> Iterator[_Case]:
    for number, (name, (base, changes, signed)) in enumerate(_KINDS.items()):
        sections = {part: {**base.get(part, {}), **changes.get(part, {})} for part in {*base, *changes}}
        target = Target.model_validate({"name": "contract", **sections})
        for groups, rows, columns, geometry, shape in (
            (2, 70, 20, Dense(input_perm=(0, 1), kept=1, output_dims=(40,), output_perm=(0, 1)), (45, 140)),
            (1, 27, 5, Conv(kernel_shape=(3, 3), strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1)), (45, 3, 6, 5)),
        ):
            yield _case(
                f"{name}, {groups} x {rows} x {columns}", number, target, signed, (groups, rows, columns), geometry, shape
            )
    yield from _state_dependent()


def _case(
    name: str, number: int, target: Target, signed: bool, matrix: tuple[int, int, int], geometry: Any, shape: tuple[int, ...]
) -> _Case:
    groups, rows, columns = matrix
    random = np.random.default_rng(number)
    weights = random.standard_normal(matrix).astype(np.float32)
    cuts, tiles = (0, rows // 3, rows), (0, columns // 2, columns)
    view = WeightView(tensor="w", split=matrix, perm=(0, 1, 2), shape=matrix)
    gain = 1.0 if target.dac.bits is None else 2.0**target.dac.bits - 1
    layer = Layer(
        name="layer", weight=view, coding=InputCoding(gain=gain, signed=signed), row_cuts=cuts, column_cuts=tiles,
        adc_range_ua=None if target.adc.conversion == "per_bit" else target.adc.range_ua or 0.1 * 70 * rows / 4,
    )  # fmt: skip
    encoded = encode(weights, np.abs(weights).max().reshape(1), cuts, target)
    written = encoded.g_us + random.standard_normal(encoded.g_us.shape, np.float32) * np.float32(0.3)
    units = np.zeros((groups, rows, 2 * target.array.unit_column), np.float32)
    units += np.float32(target.device.g_min_us + (target.device.g_max_us - target.device.g_min_us) / 3)
    devices = Devices(np.maximum(written, 0), units, encoded.coefficients)
    coding = Coding.of(target, layer)
    errors = ColumnErrors.of(target, Cells(layer, target, 5))
    spec = ReadSpec.from_target(devices, coding, cuts, tiles, target, layer.adc_range_ua, errors)
    x = random.uniform(-1 if signed else 0, 1, shape).astype(np.float32)
    where = unfolding(geometry, x.shape, groups, rows)
    codes, _ = coding.apply(where.padded_images(x, np.float32))
    return _Case(name, spec, where, codes)


def _state_dependent() -> Iterator[_Case]:
    """Read noise that differs from cell to cell."""
    target = Target.model_validate({"name": "contract", **_PAIR})
    dense = Dense(input_perm=(0, 1), kept=1, output_dims=(40,), output_perm=(0, 1))
    case = _case("noise of each cell", 50, target, False, (2, 70, 20), dense, (45, 140))
    variance = (0.05 * case.spec.g_us) ** 2
    case.spec = replace(case.spec, variance_us2=variance, unit_variance_us2=case.spec.unit_g_us)
    yield case
