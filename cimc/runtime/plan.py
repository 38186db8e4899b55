"""What the kernel reads of a layer, derived from its devices: packed grid steps, coefficients, constants."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import inf, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.runtime import gemm, reads
from cimc.runtime.arrays.devices import tile_of_column
from cimc.runtime.circuit import Circuit, Inputs, Lines, Outputs
from cimc.runtime.coding import PLAIN
from cimc.runtime.layout import Grid, Places, column_blocks, put, put_some, rounds
from cimc.runtime.read_spec import ReadSpec
from cimc.runtime.unfold import Unfolding
from cimc.threads import parallel, threads

F64 = NDArray[np.float64]
Array = NDArray[Any]
Index = NDArray[np.int64]

#: float32 holds every integer up to that power of 2; int32 sums stay below the other.
_EXACT_FLOAT, _EXACT_INT = 24, 31
#: Device columns up to which vectors run along positions, of layers of one position an image and of others: gathering the
#: inputs of a dense layer across images takes longer.
NARROW, NARROW_CONV = 32, 128
#: Multiply-accumulates below which one thread is faster than two.
SMALL = 1 << 20
#: Devices that one thread packs alone.
_FEW = 1 << 18
#: Multiply-accumulates that take as long as a conversion with noise.
_NOISE = 64
#: Rows that the ideal target adds up at a time.
_IDEAL_ROWS = 512


@dataclass(frozen=True)
class Scale:
    """From the unit of devices (µS) to what the matrix holds: ``(value - middle) * per_unit``, rounded where it is whole."""

    middle: Any
    per_unit: Any
    whole: bool

    @property
    def numbers(self) -> tuple[Any, Any, bool]:
        return self.middle, self.per_unit, self.whole

    def largest(self, values: Array) -> float:
        """Size of the largest step."""
        ends = np.array([values.min(), values.max()]) if values.size else np.full(2, self.middle)
        return float(np.abs(np.rint((ends - self.middle) * self.per_unit)).max())

    def largest_sum(self, values: Array, row_cuts: Index) -> float:
        """Largest sum of steps' sizes down a device column of a row slice."""
        parts = (part[a:b] for part in values for a, b in pairwise(row_cuts))
        steps = (np.abs(np.rint((part - self.middle) * self.per_unit)) for part in parts)
        return max(float(step.sum(axis=0, dtype=np.float64).max(initial=0)) for step in steps)


@dataclass(frozen=True)
class Plan:
    """What a layer's devices and converters do to its inputs."""

    circuit: Circuit
    places: Places
    factor: F64
    """``[groups * columns]``: of the digital sum, for weights times inputs."""
    scale: Scale
    """From devices to the matrix."""
    limit: float
    """Size of a step from which on the matrix may need another dtype."""
    slack: float
    """Grid steps by which a conductance may be rounded; inf: any."""
    intercept: F64 | None = None
    """``[groups * columns]``: added to the digital sum; None: nothing."""
    lines: Lines | None = None
    """What lines have of their own."""
    lines_at: Places | None = None
    """Where the variances of cells stand in it."""

    @classmethod
    def of(cls, spec: ReadSpec, positions: int) -> Plan:
        """The plan of a read.

        Args:
            spec: What it does.
            positions: Of an image, likely; results do not depend on it, speed does.
        """
        coding, c, grid = spec.coding, spec.coefficients, spec.grid
        whole = coding.bits is not None
        if whole and grid.slack < inf and _off(grid, spec):
            grid = grid.finest
        cuts = np.array(spec.row_cuts)
        scale = Scale(np.float32(grid.middle_us), np.float32(1 / grid.step_us if whole else 1), whole)
        dtype, limit = _dtype(spec, scale, cuts, coding.largest) if whole else (np.dtype(np.float32), inf)
        constants = [grid.middle_us * spec.volt, (grid.step_us if whole else 1.0) * spec.volt]
        constants += [(spec.read_sigma_us * spec.volt) ** 2, spec.sigma_lsb**2, spec.top_code]
        device_columns = c.alpha.shape[2] * c.alpha.shape[3] + spec.unit_g_us.shape[2]
        narrow_enough = device_columns <= (NARROW_CONV if positions > 1 else NARROW)
        # Codes are bytes there, and the sum of their squares is an int32.
        fits = coding.largest < 256 and int(np.diff(cuts).max()) * coding.largest**2 < 2**_EXACT_INT
        unsigned = coding.per_bit or coding.mode != PLAIN or coding.low >= 0
        across = bool(narrow_enough and dtype == np.int16 and fits and unsigned)
        blocks = column_blocks(spec.column_cuts, c.alpha.shape[2], spec.unit.shape[2] > 0)
        places = Places.across(cuts, device_columns) if across else Places.panels(cuts, blocks, c.alpha.shape[2], dtype)
        plan = cls(
            Circuit(
                np.zeros((len(spec.g_us), *places.shape), dtype), places.starts, cuts, blocks, spec.alpha, spec.unit,
                tile_of_column(spec.column_cuts), coding.weights, np.array(constants),
            ),
            places, spec.factor, scale, limit, grid.slack if whole else inf, spec.intercept,
            *((None, None) if spec.lines_alike else _lines(spec, cuts, blocks, places if across else None)),
        )  # fmt: skip
        plan._pack(spec.g_us, spec.unit_g_us)
        plan._pack_variance(spec)
        return plan

    @classmethod
    def ideal(cls, matrix: Array) -> Plan:
        """The plan of the weights themselves, in float64 where they are, else float32."""
        groups, rows, columns = matrix.shape
        dtype = np.dtype(np.float64 if matrix.dtype == np.float64 else np.float32)
        cuts, blocks = np.array([*range(0, rows, _IDEAL_ROWS), rows]), column_blocks((0, columns), 1, False)
        places = Places.panels(cuts, blocks, 1, dtype)
        alpha = np.ones((groups, len(cuts) - 1, 1, columns))
        plan = cls(
            Circuit(
                np.zeros((groups, *places.shape), dtype), places.starts, cuts, blocks, alpha, np.zeros((*alpha.shape[:2], 0)),
                np.zeros(columns, np.int64), np.ones(1), np.array([0.0, 1.0, 0.0, 0.0, -1.0]),
            ),
            places, np.ones(groups * columns), Scale(dtype.type(0), dtype.type(1), False), inf, inf,
        )  # fmt: skip
        plan.refresh_ideal(matrix)
        return plan

    def refresh_ideal(self, matrix: Array) -> None:
        """Take in new weights, ``[groups, rows, columns]``; of the ideal plan."""
        values = matrix.astype(self.scale.middle.dtype, copy=False)
        self._pack(values, np.zeros((*values.shape[:2], 0), values.dtype))

    def refresh(self, spec: ReadSpec, devices: Index | None = None) -> bool:
        """Take in what was written; False, and nothing taken in, where the plan's dtype or grid does not do for it."""
        if devices is not None and self.lines is None:
            return self._refresh_some(spec, devices)
        parts = spec.g_us, spec.unit_g_us
        if self.limit < inf and self.scale.largest(spec.g_us) >= self.limit:
            return False
        if self.slack < inf and any(
            rounds(np.ascontiguousarray(a).reshape(-1), *self.scale.numbers[:2], self.slack) for a in parts
        ):
            return False
        self._pack(*parts)
        self._pack_variance(spec)
        return True

    def _refresh_some(self, spec: ReadSpec, devices: Index) -> bool:
        circuit, places, values = self.circuit, self.places, spec.g_us
        where = circuit.row_cuts, places.row_at, places.column_at, circuit.matrix.reshape(len(circuit.matrix), -1)
        return bool(put_some(devices, values.reshape(-1), values[0, 0].size, *self.scale.numbers, self.limit, *where, self.slack))

    def _pack(self, values: Array, units: Array) -> None:
        _put_all(values, units, self.scale, self.circuit.row_cuts, self.places, self.circuit.matrix)

    def _pack_variance(self, spec: ReadSpec) -> None:
        if self.lines is None or self.lines_at is None or spec.variance_us2 is None:
            return
        units = spec.unit_variance_us2
        units = np.zeros((*spec.g_us.shape[:2], 0), np.float32) if units is None else units
        scale = Scale(np.float32(0), np.float32(spec.volt**2), False)
        _put_all(spec.variance_us2, units, scale, self.circuit.row_cuts, self.lines_at, self.lines.variance)

    @cached_property
    def _room(self) -> reads.Room:
        blocks, planes = self.circuit.blocks, self.circuit.alpha.shape[2]
        columns, units = np.diff(blocks[:, :2]), np.diff(blocks[:, 2:])
        rows = int(np.diff(self.circuit.row_cuts).max()) + 1
        return reads.Room(rows, int(columns.max()), int((columns * planes + units).max()) + 15)

    def read(
        self, codes: Array, where: Unfolding, seed: int, first_image: int, factor: F64, constant: F64, y: Array,
        strides: tuple[int, int, int],
    ) -> int:  # fmt: skip
        """Read all positions of all images, into ``y``; returns saturated conversions.

        Args:
            codes: Coded images, ``[phases, images, padded image]``.
            where: How they form row vectors.
            seed: Key of the noise.
            first_image: Number of the first image, which keys it too.
            factor: Of each column's digital sum, float64 ``[groups * columns]``.
            constant: Added after it, the same shape.
            y: The output, flat.
            strides: In it from image to image, position to position and column to column.
        """
        matrix = self.circuit.matrix
        phases, images, _ = codes.shape
        total, number = images * where.positions, threads()
        if total == 0:
            return 0
        if total * phases * (matrix.size + _NOISE * self.circuit.alpha.size) < SMALL:
            number = 1
        if matrix.dtype.kind == "f":
            # One form of codes a matrix: each more is a kernel to compile, and an array that is read-only is another form.
            codes = codes.astype(matrix.dtype, copy=False).view()
            codes.flags.writeable = False
        key = np.uint64(seed & (2**64 - 1))
        inputs = Inputs(codes, where.base, where.line_ends, where.row_offset, where.group_stride, key, first_image)
        outputs = Outputs(factor, constant, y, strides)
        if matrix.ndim == 3:
            return reads.across(self.circuit, self.lines, inputs, outputs, total, number, self._room)
        return reads.along(self.circuit, self.lines, inputs, outputs, total, number, self._room)


def _lines(spec: ReadSpec, cuts: Index, blocks: Index, narrow: Places | None) -> tuple[Lines, Places]:
    """What the lines of a read have of their own, variances yet to come, and where these go; of a narrow layer as its matrix."""
    groups, slices, planes, columns = spec.coefficients.alpha.shape
    shape = groups, slices, planes * columns + spec.unit_g_us.shape[2]
    at = Places.panels(cuts, blocks, planes, np.dtype(np.float32)) if narrow is None else narrow
    variance = np.zeros((groups, prod(at.shape) if spec.variance_us2 is not None else 0), np.float32)
    e, none = spec.errors, np.zeros(shape, np.float32)
    gain, offset, bow = (none + np.float32(1), none, none) if e is None else (e.gain, e.offset_lsb, e.bow_lsb)
    return Lines(variance, at.starts.reshape(len(cuts) - 1, -1), gain, offset, bow, float(spec.low_code), spec.fresh_noise), at


def _put_all(values: Array, units: Array, scale: Scale, row_cuts: Index, places: Places, out: Array) -> None:
    """All devices and unit columns to their places, on all threads."""
    groups, slices, columns = len(values), len(row_cuts) - 1, values[0, 0].size

    def slice_of(number: int) -> None:
        g, s = divmod(number, slices)
        rows = slice(row_cuts[s], row_cuts[s + 1])
        row_at, at, flat = places.row_at[rows], places.column_at[s], out[g].reshape(-1)
        put(values[g, rows].reshape(-1, columns), *scale.numbers, row_at, at[:columns], flat)
        if units.shape[2]:
            put(units[g, rows], *scale.numbers, row_at, at[columns:], flat)

    parallel(slice_of, groups * slices, _threads_for(values.size))


def _off(grid: Grid, spec: ReadSpec) -> bool:
    """Whether a conductance lies off the grid."""
    numbers = np.float32(grid.middle_us), np.float32(1 / grid.step_us), grid.slack
    return any(rounds(np.ascontiguousarray(g_us).reshape(-1), *numbers) for g_us in (spec.g_us, spec.unit_g_us))


def _dtype(spec: ReadSpec, scale: Scale, row_cuts: Index, largest_code: int) -> tuple[np.dtype[Any], float]:
    """The dtype of grid steps that keeps every product exact; and up to which size of a step it surely does."""
    tallest = int(np.diff(row_cuts).max())
    whole, part = (2.0**power / (tallest * largest_code) for power in (_EXACT_INT, _EXACT_FLOAT))
    step = max(scale.largest(spec.g_us), scale.largest(spec.unit_g_us))
    total = step * tallest
    if step >= (whole if gemm.has_avx2() else part):
        total = max(scale.largest_sum(spec.g_us, row_cuts), scale.largest_sum(spec.unit_g_us, row_cuts))
    if max(step, largest_code) < 2**15 and total * largest_code < 2**_EXACT_INT and gemm.has_avx2():
        return np.dtype(np.int16), min(2.0**15, whole)
    return (np.dtype(np.float32), part) if total * largest_code < 2**_EXACT_FLOAT else (np.dtype(np.float64), inf)


def _threads_for(devices: int) -> int:
    """Waking a thread costs as much as a pass over many devices; training plans small layers anew at each step."""
    return 1 if devices < _FEW else threads()
