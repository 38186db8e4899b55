"""What the kernel reads of a layer, derived from its devices: packed grid steps, coefficients, constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.ir.encoding import level_step_us
from cimc.runtime import gemm, kernels, narrow
from cimc.runtime.coding import Coding
from cimc.runtime.fabricate import Devices, tile_of_column
from cimc.runtime.layout import Grid, column_blocks, pack, pack_across, places
from cimc.runtime.serial import parallel, threads
from cimc.runtime.unfold import Unfolding
from cimc.targets.description import Target

F64 = NDArray[np.float64]
Array = NDArray[Any]

#: float32 holds every integer up to here; int32 sums stay below the other.
_EXACT_FLOAT, _EXACT_INT = 2**24, 2**31
#: Rows of a block, at most.
_HEIGHT = 96
#: Device columns up to which vectors run along positions, of layers of one position an image and of others: gathering the
#: inputs of a dense layer across images takes longer.
NARROW, NARROW_CONV = 32, 128
#: Bytes of a block of positions, about, and its positions, at most: long passes outweigh the second-level cache.
_ACROSS_BYTES, _ACROSS = 1 << 19, 1024
#: Multiply-accumulates below which one thread is faster than two.
SMALL = 1 << 19
#: Devices that one thread packs alone.
_FEW = 1 << 18
#: Multiply-accumulates that take as long as a conversion with noise.
_NOISE = 32
#: Rows that the ideal target adds up at a time.
_IDEAL_ROWS = 512


#: Group and rows to the values that devices ``[rows, planes, columns]`` and unit columns ``[rows, column tiles]`` multiply by.
Held = Callable[[int, slice], tuple[Array, Array]]


@dataclass(frozen=True)
class Plan:
    """The arguments of `kernels.read` that belong to the layer, under the names it gives them."""

    matrix: Array
    """Of a narrow layer as `narrow.read` takes it, of three dimensions."""
    places: NDArray[np.int64]
    row_cuts: NDArray[np.int64]
    blocks: NDArray[np.int64]
    alpha: Array
    unit: Array
    unit_of_column: NDArray[np.int64]
    phase_weight: Array
    constants: F64
    factor: F64
    """``[groups * columns]``: of the digital sum, for weights times inputs."""

    @classmethod
    def of(
        cls, devices: Devices, coding: Coding, row_cuts: tuple[int, ...], column_cuts: tuple[int, ...], target: Target,
        adc_range_ua: float | None, positions: int,
    ) -> Plan:  # fmt: skip
        """The plan of programmed devices.

        Args:
            devices: Programmed.
            coding: Of the inputs.
            row_cuts: Row slices.
            column_cuts: Column tiles.
            target: The chip.
            adc_range_ua: None with an ADC: an LSB is one level step.
            positions: Of an image, likely; results do not depend on it, speed does.
        """
        device, adc, c = target.device, target.adc, devices.coefficients
        grid = Grid.of(device)
        volt_step = device.read_voltage_v * level_step_us(target)
        top = 0 if adc.bits is None else 2**adc.bits - 1
        one_step = volt_step / coding.full if adc.bits is None else volt_step
        lsb = one_step if adc.bits is None or adc_range_ua is None else adc_range_ua / top
        volt = device.read_voltage_v / coding.full / lsb
        whole = coding.bits is not None

        def held(g: int, rows: slice) -> tuple[Array, Array]:
            """Grid steps from the middle, or µS from it; of devices and of unit columns."""
            both = devices.g_us[g, rows] - np.float32(grid.middle_us), devices.unit_g_us[g, rows] - np.float32(grid.middle_us)
            for values in both if whole else ():
                np.multiply(values, np.float32(1 / grid.step_us), out=values)
                np.rint(values, out=values)
            return both

        dtype: Any = np.float32
        if whole:
            dtype = _dtype(*_largest(held, len(devices.g_us), row_cuts, coding.largest, devices.g_us.size), coding.largest)
        constants = [grid.middle_us * volt, (grid.step_us if whole else 1.0) * volt]
        constants += [(device.read_sigma_us * volt) ** 2, adc.sigma_lsb**2 * (top > 0), top]
        device_columns = c.alpha.shape[2] * c.alpha.shape[3] + devices.unit_g_us.shape[2]
        narrow_enough = device_columns <= (NARROW_CONV if positions > 1 else NARROW)
        # Codes are bytes there, and the sum of their squares is an int32.
        fits = coding.largest < 256 and int(np.diff(row_cuts).max()) * coding.largest**2 < _EXACT_INT
        across = bool(narrow_enough and dtype == np.int16 and fits)
        unit = np.zeros((*c.alpha.shape[:2], 0)) if c.unit is None else c.unit
        factor = c.weight_step / coding.gain * (lsb * coding.full / volt_step)
        return cls._packed(held, row_cuts, column_cuts, dtype, c.alpha, unit, coding.weights, np.array(constants), factor, across)

    @classmethod
    def ideal(cls, matrix: Array) -> Plan:
        """The plan of the weights themselves, in float64 where they are, else float32."""
        groups, rows, columns = matrix.shape
        dtype = np.float64 if matrix.dtype == np.float64 else np.float32
        cuts = (*range(0, rows, _IDEAL_ROWS), rows)

        def held(g: int, rows: slice) -> tuple[Array, Array]:
            values = matrix[g, rows].astype(dtype)
            return values[:, None], np.zeros((len(values), 0), dtype)

        alpha = np.ones((groups, len(cuts) - 1, 1, columns))
        constants = np.array([0.0, 1.0, 0.0, 0.0, -1.0])
        unit, one = np.zeros((*alpha.shape[:2], 0)), np.ones(groups * columns)
        return cls._packed(held, cuts, (0, columns), dtype, alpha, unit, np.ones(1), constants, one)

    @classmethod
    def _packed(
        cls, held: Held, row_cuts: tuple[int, ...], column_cuts: tuple[int, ...], dtype: Any, alpha: Array, unit: Array,
        phase_weight: F64, constants: F64, factor: F64, across: bool = False,
    ) -> Plan:  # fmt: skip
        groups, slices, planes, _ = alpha.shape
        blocks = column_blocks(column_cuts, planes, unit.shape[2] > 0)
        starts, size = places(row_cuts, blocks, planes, dtype)
        if across:
            matrix, starts = pack_across([held(g, slice(None)) for g in range(groups)], row_cuts)
        else:
            matrix = np.empty((groups, size), dtype)

            def slice_of(number: int) -> None:
                g, s = divmod(number, slices)
                pack(*held(g, slice(row_cuts[s], row_cuts[s + 1])), s, blocks, starts, matrix[g])

            parallel(slice_of, groups * slices, _threads_for(matrix.size))
        tiles = tile_of_column(column_cuts)
        return cls(matrix, starts, np.array(row_cuts), blocks, alpha, unit, tiles, phase_weight, constants, factor)

    @cached_property
    def _scratch(self) -> tuple[int, int]:
        """Most rows and device columns of a block, padded."""
        width = np.diff(self.blocks[:, :2]) * self.alpha.shape[2] + np.diff(self.blocks[:, 2:])
        return int(np.diff(self.row_cuts).max()) + 1, int(width.max()) + 15

    def read(
        self, codes: Array, where: Unfolding, seed: int, first_image: int, factor: F64, constant: F64, y: Array,
        strides: tuple[int, int, int],
    ) -> int:  # fmt: skip
        """Run `kernels.read` over all positions of all images, into ``y``; returns saturated conversions."""
        phases, images, _ = codes.shape
        total, number = images * where.positions, threads()
        if total == 0:
            return 0
        work = total * self.matrix.size * phases + _NOISE * total * phases * self.alpha.size
        if work < SMALL:
            number = 1
        if self.matrix.dtype.kind == "f":
            # One form of codes a matrix: each more is a kernel to compile.
            codes = codes.astype(self.matrix.dtype, copy=False)
        if self.matrix.ndim == 3:
            return self._across(codes, where, seed, first_image, factor, constant, y, strides, number)
        columns_of_blocks = len(self.blocks) * len(self.matrix)
        row_blocks = max(1, -(-total // _HEIGHT), number // columns_of_blocks)
        height = -(-total // (row_blocks * gemm.TALL)) * gemm.TALL
        tasks = -(-total // height) * columns_of_blocks
        tallest, widest = self._scratch

        def part(begin: int, end: int) -> int:
            a = np.empty(height * tallest, self.matrix.dtype)
            sums = np.empty(height * widest, gemm.sums_dtype(self.matrix.dtype))
            saturated: int = kernels.read(
                begin, end, height, codes, where.base, where.row_offset, where.group_stride, self.matrix, self.places,
                self.row_cuts, self.blocks, self.alpha, self.unit, self.unit_of_column, self.phase_weight, self.constants,
                np.uint64(seed & (2**64 - 1)), first_image, factor, constant, y, strides, a, sums,
            )  # fmt: skip
            return saturated

        return _spread(part, tasks, number)

    def _across(
        self, codes: Array, where: Unfolding, seed: int, first_image: int, factor: F64, constant: F64, y: Array,
        strides: tuple[int, int, int], number: int,
    ) -> int:  # fmt: skip
        """The same for a narrow layer."""
        total = codes.shape[1] * where.positions
        _, _, planes, columns = self.alpha.shape
        tallest, units = self._scratch[0], int(self.unit_of_column[-1]) + 1 if self.unit.shape[2] else 0
        bytes_of_position = 2 * tallest + (4 * planes + 8) * columns
        height = min(_ACROSS, max(32, _ACROSS_BYTES // bytes_of_position), -(-total // number))
        height = -(-height // narrow.LANES) * narrow.LANES

        def part(begin: int, end: int) -> int:
            saturated: int = narrow.read(
                begin, end, height, codes, where.base, where.row_offset, where.group_stride, self.matrix, self.places,
                self.row_cuts, self.alpha, self.unit, self.unit_of_column, self.phase_weight, self.constants,
                np.uint64(seed & (2**64 - 1)), first_image, factor, constant, y, strides,
                *narrow.scratch(height, tallest, columns, planes * columns, units),
            )  # fmt: skip
            return saturated

        return _spread(part, -(-total // height), number)


def _spread(part: Callable[[int, int], int], tasks: int, number: int) -> int:
    """Cut tasks into parts for that many threads; the sum of what the parts return."""
    parts = min(tasks, 1 if number == 1 else 4 * number)
    cuts = [tasks * n // parts for n in range(parts + 1)]
    return sum(parallel(lambda n: part(cuts[n], cuts[n + 1]), parts, number))


def _dtype(largest_step: float, largest_sum: float, largest_code: int) -> Any:
    """The dtype of grid steps that keeps every product exact."""
    product = largest_sum * largest_code
    if max(largest_step, largest_code) < 2**15 and product < _EXACT_INT and gemm.has_avx2():
        return np.int16
    return np.float32 if product < _EXACT_FLOAT else np.float64


def _threads_for(devices: int) -> int:
    """Waking a thread costs as much as a pass over many devices; training plans small layers anew at each step."""
    return 1 if devices < _FEW else threads()


def _largest(held: Held, groups: int, row_cuts: tuple[int, ...], code: int, devices: int) -> tuple[float, float]:
    """The largest size of a value, and the largest sum of sizes down a device column of a slice, or a bound that will do."""

    def of_slice(number: int) -> tuple[float, float]:
        g, s = divmod(number, len(row_cuts) - 1)
        both = held(g, slice(row_cuts[s], row_cuts[s + 1]))
        value = max(max(float(values.max(initial=0)), -float(values.min(initial=0))) for values in both)
        bound = value * (row_cuts[s + 1] - row_cuts[s])
        if bound * code < (_EXACT_INT if gemm.has_avx2() else _EXACT_FLOAT):
            return value, bound
        return value, max(float(np.abs(values).sum(axis=0, dtype=np.float64).max(initial=0)) for values in both)

    found = parallel(of_slice, groups * (len(row_cuts) - 1), _threads_for(devices))
    return max(value for value, _ in found), max(total for _, total in found)
