"""What the kernel reads of a layer, derived from its devices: packed grid steps, coefficients, constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.ir.encoding import level_step_us
from cimc.runtime import gemm, kernels
from cimc.runtime.coding import Coding
from cimc.runtime.fabricate import Devices, tile_of_column
from cimc.runtime.layout import Grid, column_blocks, pack, places
from cimc.runtime.serial import parallel, threads
from cimc.runtime.unfold import Unfolding
from cimc.targets.description import Target

F64 = NDArray[np.float64]
Array = NDArray[Any]

#: float32 holds every integer up to here; int32 sums stay below the other.
_EXACT_FLOAT, _EXACT_INT = 2**24, 2**31
#: Rows of a block, at most.
_HEIGHT = 96
#: Multiply-accumulates below which one thread is faster than two.
SMALL = 1 << 19
#: Rows that the ideal target adds up at a time.
_IDEAL_ROWS = 512


#: Group and rows to the values that devices ``[rows, planes, columns]`` and unit columns ``[rows, column tiles]`` multiply by.
Held = Callable[[int, slice], tuple[Array, Array]]


@dataclass(frozen=True)
class Plan:
    """The arguments of `kernels.read` that belong to the layer, under the names it gives them."""

    matrix: Array
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
        adc_range_ua: float | None,
    ) -> Plan:  # fmt: skip
        """The plan of programmed devices; ``adc_range_ua`` None with an ADC: an LSB is one level step."""
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

        dtype = _dtype(*_largest(held, len(devices.g_us), row_cuts), coding.largest) if whole else np.float32
        constants = [grid.middle_us * volt, (grid.step_us if whole else 1.0) * volt]
        constants += [(device.read_sigma_us * volt) ** 2, adc.sigma_lsb**2 * (top > 0), top]
        integer = top > 0 and c.unit is None and bool((c.alpha == np.rint(c.alpha)).all())
        sums = np.abs(c.alpha).sum(axis=(1, 2)).max(initial=0) * top * np.abs(coding.weights).sum()
        alpha = c.alpha.astype(np.float32 if integer and sums < _EXACT_FLOAT else np.float64)
        unit = np.zeros((*alpha.shape[:2], 0)) if c.unit is None else c.unit
        factor = c.weight_step / coding.gain * (lsb * coding.full / volt_step)
        return cls._packed(held, row_cuts, column_cuts, dtype, alpha, unit, coding.weights, np.array(constants), factor)

    @classmethod
    def ideal(cls, matrix: Array) -> Plan:
        """The plan of the weights themselves, in float64 where they are, else float32."""
        groups, rows, columns = matrix.shape
        dtype = np.float64 if matrix.dtype == np.float64 else np.float32
        cuts = (*range(0, rows, _IDEAL_ROWS), rows)

        def held(g: int, rows: slice) -> tuple[Array, Array]:
            values = matrix[g, rows].astype(dtype)
            return values[:, None], np.zeros((len(values), 0), dtype)

        alpha = np.ones((groups, len(cuts) - 1, 1, columns), dtype)
        constants = np.array([0.0, 1.0, 0.0, 0.0, -1.0])
        unit, one = np.zeros((*alpha.shape[:2], 0)), np.ones(groups * columns)
        return cls._packed(held, cuts, (0, columns), dtype, alpha, unit, np.ones(1), constants, one)

    @classmethod
    def _packed(
        cls, held: Held, row_cuts: tuple[int, ...], column_cuts: tuple[int, ...], dtype: Any, alpha: Array, unit: Array,
        phase_weight: F64, constants: F64, factor: F64,
    ) -> Plan:  # fmt: skip
        groups, slices, planes, _ = alpha.shape
        blocks = column_blocks(column_cuts, planes, unit.shape[2] > 0)
        starts, size = places(row_cuts, blocks, planes, dtype)
        matrix = np.empty((groups, size), dtype)

        def slice_of(number: int) -> None:
            g, s = divmod(number, slices)
            rows = slice(row_cuts[s], row_cuts[s + 1])
            pack(*held(g, rows), s, blocks, starts, matrix[g])

        parallel(slice_of, groups * slices)
        tiles, weights = tile_of_column(column_cuts), phase_weight.astype(alpha.dtype)
        return cls(matrix, starts, np.array(row_cuts), blocks, alpha, unit, tiles, weights, constants, factor)

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
        total, columns_of_blocks = images * where.positions, len(self.blocks) * len(self.matrix)
        if total == 0:
            return 0
        number = 1 if total * self.matrix.size * phases < SMALL else threads()
        row_blocks = max(1, -(-total // _HEIGHT), number // columns_of_blocks)
        height = -(-total // (row_blocks * gemm.TALL)) * gemm.TALL
        tasks = -(-total // height) * columns_of_blocks
        parts = min(tasks, 1 if number == 1 else 4 * number)
        cuts = [tasks * n // parts for n in range(parts + 1)]
        tallest, widest = self._scratch

        def part(n: int) -> int:
            a = np.empty(height * tallest, self.matrix.dtype)
            sums = np.empty(height * widest, gemm.sums_dtype(self.matrix.dtype))
            saturated: int = kernels.read(
                cuts[n], cuts[n + 1], height, codes, where.base, where.row_offset, where.group_stride, self.matrix, self.places,
                self.row_cuts, self.blocks, self.alpha, self.unit, self.unit_of_column, self.phase_weight, self.constants,
                np.uint64(seed & (2**64 - 1)), first_image, factor, constant, y, strides, a, sums,
            )  # fmt: skip
            return saturated

        return sum(parallel(part, parts, number))


def _dtype(largest_step: float, largest_sum: float, largest_code: int) -> Any:
    """The dtype of grid steps that keeps every product exact."""
    product = largest_sum * largest_code
    if max(largest_step, largest_code) < 2**15 and product < _EXACT_INT and gemm.has_avx2():
        return np.int16
    return np.float32 if product < _EXACT_FLOAT else np.float64


def _largest(held: Held, groups: int, row_cuts: tuple[int, ...]) -> tuple[float, float]:
    """The largest size of a value, and the largest sum of sizes down a device column of a slice."""

    def of_slice(number: int) -> tuple[float, float]:
        g, s = divmod(number, len(row_cuts) - 1)
        both = [np.abs(values) for values in held(g, slice(row_cuts[s], row_cuts[s + 1]))]
        sums = [float(values.sum(axis=0, dtype=np.float64).max(initial=0)) for values in both]
        return max(float(values.max(initial=0)) for values in both), max(sums)

    found = parallel(of_slice, groups * (len(row_cuts) - 1))
    return max(value for value, _ in found), max(total for _, total in found)
