"""Reads of single rows of one of a weight's arrays, as update rules make them: a word line is driven at full code, alone.

Such a read is a read of the chip like any other: the read noise of the devices on the line, the noise and steps of the converter,
and the errors of its bit lines are in it. The range of a conversion is the target's ``adc.range_ua``, else the current of one
device that was written to g_max, three deviations of the programming error included: one device of a bit line is driven. Drift is
not compensated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cimc.ir.encoding import Coefficients
from cimc.runtime.arrays.devices import Devices
from cimc.runtime.coding import PLAIN, Coding, room
from cimc.runtime.converters import ColumnErrors
from cimc.runtime.read_spec import ReadSpec
from cimc.runtime.unfold import Unfolding
from cimc.runtime.wires.grid import on_wires
from cimc.targets.description import Target

if TYPE_CHECKING:
    from cimc.runtime.crossbar import Crossbar

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


class RowReader:
    """Reads rows of the arrays of one layer; its crossbar's stats count them.

    Args:
        crossbar: Of the layer, whose target gives a weight arrays (`Update.shares`).
    """

    def __init__(self, crossbar: Crossbar) -> None:
        self.crossbar = crossbar
        self._errors: dict[tuple[int, ...], ColumnErrors | None] = {}

    def read(self, array: int, rows: I64, key: int) -> F32:
        """Weights of an array, as one read shows them, in units of half the window.

        Args:
            array: Its number.
            rows: Which rows of each group, ``[k]``, one after the other.
            key: Of the noise.

        Returns:
            ``[groups, k, columns]``.
        """
        arrays = len(self.crossbar.target.update.shares)
        return self._read((array, arrays + array), np.array([2.0, -2.0]), rows, key, self.crossbar.target)

    def conductances(self, array: int, rows: I64, key: int) -> F32:
        """Conductances of an array's first devices, as one read shows them, µS; arguments and shape as of `read`."""
        target = self.crossbar.target
        alone = target.model_copy(update={"adc": target.adc.model_copy(update={"pair_read": "separate"})})
        device = target.device
        share = self._read((array,), np.ones(1), rows, key, alone)
        return share * np.float32(device.g_max_us - device.g_min_us)

    def _read(self, planes: tuple[int, ...], alpha: NDArray[np.float64], rows: I64, key: int, target: Target) -> F32:
        crossbar, count = self.crossbar, rows.size
        crossbar.written()  # by pulses of the same update
        seen = crossbar.effective[0].of_planes(planes)
        groups, _, lines, columns = seen.g_us.shape

        def single(values: NDArray[Any]) -> NDArray[Any]:
            """Each row of each group as a group of its own."""
            return np.ascontiguousarray(values[:, rows]).reshape(groups * count, 1, lines, columns)

        shape = groups * count, 1, lines, columns
        full = crossbar.steps_of_window
        coefficients = Coefficients(
            np.broadcast_to(alpha[:, None], shape).copy(), None, np.full(groups * count * columns, 1 / full)
        )
        variance, none = seen.variance_us2, np.empty((groups * count, 1, 0), np.float32)
        devices = Devices(
            single(seen.g_us), none, coefficients, variance_us2=None if variance is None else single(variance),
            unit_variance_us2=None if variance is None else none,
        )  # fmt: skip
        coding = _full_drive(target)
        errors = self._errors_of(planes, rows, target)
        spec = ReadSpec.from_target(devices, coding, (0, 1), (0, columns), target, _range_ua(target, coding), errors)
        handle = crossbar.handle(spec if target.array.wires is None else on_wires(spec), 1)
        codes = room((1, 1, groups * count), np.uint16 if coding.bits is not None else np.float32)
        codes[...] = coding.largest
        where = Unfolding(None, (slice(None),), (groups * count,), np.zeros(1, np.int64), np.zeros(1, np.int64), 1)
        y = np.empty(groups * count * columns, np.float32)
        constant = np.zeros(y.size) if handle.intercept is None else handle.factor * handle.intercept
        stats, tiles = crossbar.stats, len(crossbar.column_cuts) - 1
        stats.transfer_saturations += handle.read(codes, where, key, 0, handle.factor, constant, y, (y.size, y.size, 1))
        stats.transfer_reads += groups * count * tiles
        if target.adc.bits is not None:
            stats.transfer_conversions += groups * count * columns * (1 if target.adc.pair_read == "subtracted" else lines)
        return y.reshape(groups, count, columns)

    def _errors_of(self, planes: tuple[int, ...], rows: I64, target: Target) -> ColumnErrors | None:
        """Of the converters that read these rows, each as the slice of a group of its own."""
        if planes not in self._errors:
            every = ColumnErrors.of(target, self.crossbar.cells_of())
            total = self.crossbar.target.planes
            self._errors[planes] = None if every is None else every.of_planes(planes, total, self.crossbar.columns)
        errors = self._errors[planes]
        if errors is None:
            return None
        slices = np.searchsorted(self.crossbar.row_cuts, rows, side="right") - 1
        lines = errors.gain.shape[2]
        return ColumnErrors(*(array[:, slices].reshape(-1, 1, lines) for array in vars(errors).values()))


def _full_drive(target: Target) -> Coding:
    """A word line at the largest code, which stands for an input of 1."""
    bits = target.dac.bits
    top, full = (1.0, 1.0) if bits is None else (2.0**bits - 1, 2.0**bits)
    return Coding(top, PLAIN, 0.0, top, bits, False, np.ones(1), full, int(top), 0.0)


def _range_ua(target: Target, coding: Coding) -> float | None:
    if target.adc.bits is None or target.adc.range_ua is not None:
        return target.adc.range_ua
    device = target.device
    mean_us, sigma_us = (float(figure) for figure in device.programming.error_us(device.g_max_us))
    return device.read_voltage_v * (device.g_max_us + max(mean_us, 0.0) + 3 * sigma_us) * coding.largest / coding.full
