"""A layer's crossbars on one chip: programmed conductances, and the products they compute.

The effective current of a row slice and device column is ``I = V * sum of code / 2**bits * g`` (µA, with V in volt and g in
µS). Its read noise is one Gaussian of variance ``(V * read_sigma)**2 * sum of (code / 2**bits)**2``, which is the
distribution of independent noise on every device; the conversion adds ``sigma_lsb`` LSB. See `cimc.ir.encoding` for how
codes become the product again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import FitError, RunError
from cimc.ir.encoding import Coefficients, encode, level_step_us, quantise
from cimc.ir.geometry import Conv, ConvTranspose, Dense
from cimc.ir.program import Layer
from cimc.runtime import gemm, kernels, rng
from cimc.runtime.devices import device_model
from cimc.runtime.layout import Grid, column_blocks, leak_steps, pack, places
from cimc.runtime.serial import parallel, threads
from cimc.runtime.unfold import Unfolding, overlap_add, unfolding
from cimc.targets.description import Target

F32 = NDArray[np.float32]
Array = NDArray[Any]

#: float32 holds every integer up to here; int32 sums stay below the other.
_EXACT_FLOAT, _EXACT_INT = 2**24, 2**31
#: Weights encoded and programmed at a time.
_CHUNK = 1 << 20
#: Rows of a block, at most.
_HEIGHT = 96
#: Multiply-accumulates below which one thread is faster than two.
_SMALL = 1 << 19


@dataclass
class Stats:
    """What a crossbar has done."""

    positions: int = 0
    """VMM positions."""
    tile_reads: int = 0
    """Tile operations: positions times tiles, twice for two-phase inputs."""
    adc_conversions: int = 0
    adc_saturations: int = 0
    dac_inputs: int = 0
    dac_clips: int = 0


@dataclass(frozen=True)
class _Coding:
    """What the target's DAC makes of the layer's inputs."""

    mode: int
    low: float
    high: float
    bits: int
    """Bit planes, 1 where all bits are integrated before the conversion."""
    weights: NDArray[np.float64]
    """Digital weight of each phase."""
    full: float
    """Codes of full scale, ``2**bits``; 1 for real inputs and for single bits."""
    largest: int
    """Largest code that a word line sees."""
    shift: float
    """Code of an input of 0, taken off digitally."""


@dataclass
class Crossbar:
    """One layer on one chip.

    Args:
        layer: From the program; ``row_cuts``, ``column_cuts`` set; its ``adc_range_ua`` is where the ADC's range starts.
        matrix: ``[groups, rows, columns]``, any real dtype.
        weight_max: ``[1]`` or ``[groups * columns]``.
        target: The chip.
        chip_seed: Of the chip: the same seed programs the same conductances, faults and all.

    Raises:
        FitError: The leakage of the array's rows reaches half a level step, which a conversion per bit would count.
    """

    layer: Layer
    matrix: Array
    weight_max: Array
    target: Target
    chip_seed: int = 0
    adc_range_ua: float | None = None
    stats: Stats = field(default_factory=Stats)

    def __post_init__(self) -> None:
        target, layer = self.target, self.layer
        self.groups, self.rows, self.columns = self.matrix.shape
        self.row_cuts = layer.row_cuts or (0, self.rows)
        self.column_cuts = layer.column_cuts or (0, self.columns)
        self.planes = target.planes
        self.unit_columns = len(self.column_cuts) - 1 if target.array.unit_column else 0
        self.device_columns = self.planes * self.columns + self.unit_columns
        if self.adc_range_ua is None:
            self.adc_range_ua = layer.adc_range_ua
        self.per_bit = target.adc.conversion == "per_bit"
        tallest = max(end - begin for begin, end in pairwise(self.row_cuts))
        if self.per_bit and not target.is_ideal and leak_steps(target) * tallest >= 0.5:
            raise FitError(
                f"{tallest} rows at g_min leak {leak_steps(target) * tallest:.3g} level steps; a conversion per bit needs less than 0.5",
                where=f"target {target.name}, layer {layer.name}",
                fix="fewer array.rows, a lower device.g_min_us, or adc.conversion=integrated",
            )
        self._coding = _coding(target, layer)
        self._devices: tuple[F32, F32, Coefficients] | None = None
        self._plan: _Plan | None = None

    # Devices ------------------------------------------------------------------------------------------------------

    @property
    def g_us(self) -> F32:
        """Conductances, µS, ``[groups, rows, planes, columns]``. Call `written` after a change."""
        return self._programmed()[0]

    @property
    def unit_g_us(self) -> F32:
        """Conductances of the unit columns, µS, ``[groups, rows, column tiles]``."""
        return self._programmed()[1]

    @property
    def coefficients(self) -> Coefficients:
        return self._programmed()[2]

    def set_conductances(self, g_us: F32, unit_g_us: F32 | None = None) -> None:
        """Hold these conductances, of the shapes of `g_us` and `unit_g_us`, as from a saved chip."""
        _, unit, coefficients = self._programmed()
        self._devices = (g_us, unit if unit_g_us is None else unit_g_us, coefficients)
        self._plan = None

    def written(self) -> None:
        """Conductances were changed in place: what is derived from them is made again at the next product."""
        self._plan = None

    def recode(self, layer: Layer) -> None:
        """Take the input coding and the ADC range of another version of the layer; conductances stay."""
        self.layer, self.adc_range_ua = layer, layer.adc_range_ua
        self._coding = _coding(self.target, layer)
        self._plan = None

    def devices(self, begin: int, end: int) -> F32:
        """Conductances in µS of rows ``begin`` to ``end``, ``[groups, rows, planes * columns]``, without unit columns."""
        return self.g_us[:, begin:end].reshape(self.groups, end - begin, -1)

    def release(self) -> None:
        """Free what a later product makes again from the seed."""
        self._devices = self._plan = None

    def _programmed(self) -> tuple[F32, F32, Coefficients]:
        if self._devices is None:
            self._devices = self._program()
        return self._devices

    def _program(self) -> tuple[F32, F32, Coefficients]:
        target, slices = self.target, len(self.row_cuts) - 1
        device, step = device_model(target.device), level_step_us(target)
        g_us = np.empty((self.groups, self.rows, self.planes, self.columns), np.float32)
        goal = np.float32(target.device.g_min_us + step)
        unit_g_us = np.full((self.groups, self.rows, self.unit_columns), goal, np.float32)
        alpha = np.empty((self.groups, slices, self.planes, self.columns))
        unit = np.empty((self.groups, slices, self.columns)) if self.unit_columns else None
        seed = rng.key("devices", self.chip_seed, self.layer.name)
        chunks = list(_chunks(self.row_cuts, self.groups, self.columns))
        weight_max = np.asarray(self.weight_max).reshape(-1)

        def chunk(number: int) -> NDArray[np.float64]:
            groups, s0, s1 = chunks[number]
            r0, r1 = self.row_cuts[s0], self.row_cuts[s1]
            cuts = tuple(cut - r0 for cut in self.row_cuts[s0 : s1 + 1])
            largest = weight_max
            if weight_max.size > 1:
                largest = weight_max.reshape(self.groups, -1)[groups].reshape(-1)
            encoded = encode(self.matrix[groups, r0:r1], largest, cuts, target)
            alpha[groups, s0:s1] = encoded.coefficients.alpha
            if unit is not None and encoded.coefficients.unit is not None:
                unit[groups, s0:s1] = encoded.coefficients.unit
            for g, goals in zip(range(groups.start, groups.stop), encoded.g_us, strict=True):
                device.program(goals.reshape(-1), seed, (g * self.rows + r0) * self.planes * self.columns)
                g_us[g, r0:r1] = goals
            return encoded.coefficients.weight_step

        steps = parallel(chunk, len(chunks))
        device.program(unit_g_us.reshape(-1), rng.key(seed, "unit"), 0)
        per_group = {c[0].start: s for c, s in zip(chunks, steps, strict=True)}
        return g_us, unit_g_us, Coefficients(alpha, unit, np.concatenate([per_group[g] for g in sorted(per_group)]))

    def weights(self) -> F32:
        """What the devices hold, in weight units, ``[groups, rows, columns]``."""
        if self.target.is_ideal:
            return self.matrix.astype(np.float32)
        g_us, unit_g_us, c = self._programmed()
        zero = self.target.device.g_min_us if self.per_bit else 0.0
        held = np.empty((self.groups, self.rows, self.columns), np.float32)
        unit_weight = (c.weight_step / level_step_us(self.target)).reshape(self.groups, 1, self.columns)
        tiles = _tile_of_column(self.column_cuts)
        for s, (r0, r1) in enumerate(pairwise(self.row_cuts)):
            part = np.einsum("gpc,grpc->grc", c.alpha[:, s], g_us[:, r0:r1].astype(np.float64) - zero)
            if c.unit is not None:
                part += c.unit[:, s, None] * (unit_g_us[:, r0:r1, tiles].astype(np.float64) - zero)
            held[:, r0:r1] = part * unit_weight
        return held

    # Products -----------------------------------------------------------------------------------------------------

    def multiply(
        self,
        x: Array,
        geometry: Dense | Conv | ConvTranspose,
        seed_key: int,
        first_image: int = 0,
        scale: Array | None = None,
        offset: Array | None = None,
    ) -> Array:
        """The product of every position of ``x`` with the layer's matrix, as this chip computes it.

        Args:
            x: The activation, any real float dtype.
            geometry: How its inputs form row vectors.
            seed_key: Key of the noise: chip seed, layer (or step) and direction, from `rng.key`.
            first_image: Number of the first image, so that a split along the batch draws the same noise.
            scale: ``[groups * columns]``: digital factor; None: 1.
            offset: The same shape: digital offset after the factor. Of a transposed convolution one a channel will do;
                a column's is taken from its channel's first.

        Returns:
            Shaped by ``geometry.output_shape``; float64 for float64 inputs, else float32 cast to the input's dtype.

        Raises:
            DataError: The input's shape does not suit the layer.
            RunError: The ADC's range is not known yet.
        """
        plan = self._planned()
        dtype: np.dtype[Any] = np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
        where = unfolding(geometry, x.shape, self.groups, self.rows)
        codes, images = self._codes(x, where, dtype)
        spread = isinstance(geometry, ConvTranspose)
        total = self.groups * self.columns
        factor, constant = self._digital(plan, scale, None if spread else offset)
        y = np.empty(images * where.positions * total, dtype)
        across = isinstance(geometry, Conv)
        strides = np.array([where.positions * total, *((1, where.positions) if across else (total, 1))])
        plan.run(self, codes, where, images, seed_key, first_image, factor, constant, y, strides)
        self._count(images * where.positions)
        out: Array
        if isinstance(geometry, ConvTranspose):
            out = overlap_add(y.reshape(images, where.positions, total), geometry, x.shape)
            if offset is not None:
                per_channel = offset.reshape(out.shape[1], -1)[:, 0].astype(dtype)
                out += per_channel.reshape(-1, *(1,) * (out.ndim - 2))
        elif isinstance(geometry, Conv):
            out = y.reshape(geometry.output_shape(x.shape, total))
        else:
            kept = tuple(x.shape[a] for a in geometry.input_perm[: geometry.kept])
            out = y.reshape(kept + geometry.output_dims).transpose(geometry.output_perm)
        return np.require(out.astype(x.dtype, copy=False), requirements="C")

    def currents(self, samples: Array, row_slice: int | None = None) -> F32:
        """Noise-free effective currents, for calibration.

        Args:
            samples: Row vectors of inputs, ``[n, groups, rows]``.
            row_slice: One row slice alone; None: all.

        Returns:
            µA, ``[phases, n, groups, slices, device columns]``, unit columns last; a phase is a polarity or an input bit.
        """
        g_us, unit_g_us, _ = self._programmed()
        codes = self._coded(np.ascontiguousarray(samples).reshape(samples.shape[0], -1), count=False)
        codes = codes.reshape(-1, *samples.shape).astype(np.float32)
        chosen = range(len(self.row_cuts) - 1) if row_slice is None else [row_slice]
        out = np.empty((*codes.shape[:3], len(chosen), self.device_columns), np.float32)
        volt = self.target.device.read_voltage_v / self._coding.full
        for n, s in enumerate(chosen):
            rows = slice(self.row_cuts[s], self.row_cuts[s + 1])
            for g in range(self.groups):
                devices = np.concatenate([g_us[g, rows].reshape(rows.stop - rows.start, -1), unit_g_us[g, rows]], axis=1)
                out[:, :, g, n] = codes[:, :, g, rows] @ devices * np.float32(volt)
        return out

    def _planned(self) -> _Plan:
        if self._plan is None:
            self._plan = _Plan.of(self)
        return self._plan

    def _codes(self, x: Array, where: Unfolding, dtype: np.dtype[Any]) -> tuple[Array, int]:
        """Coded images, ``[phases, images, padded image]``, and how many images."""
        if where.perm is not None:
            x = x.transpose(where.perm)
        size, inside = prod(where.padded), prod(where.inside)
        images = x.size // inside if inside else 0
        self.stats.dac_inputs += x.size
        if where.contiguous:
            image = np.ascontiguousarray(x, dtype)
        else:
            # Padding is an input of 0 like any other, whatever code that has.
            image = np.zeros((images, *where.padded), dtype)
            image[(slice(None), *where.inner)] = x
        return self._coded(image.reshape(images, size), count=True), images

    def _coded(self, x: Array, count: bool) -> Array:
        """Codes of a contiguous ``[images, n]``, phases in front."""
        coding, bits, gain = self._coding, self.target.dac.bits, self.layer.coding.gain
        if self.target.is_ideal or bits is None:
            drive = x if self.target.is_ideal or gain == 1 else x * x.dtype.type(gain)
            return np.stack([np.maximum(drive, 0), np.maximum(-drive, 0)]) if coding.mode == kernels.TWO_PHASE else drive[None]
        phases = 2 if coding.mode == kernels.TWO_PHASE else 1
        kind = np.int32 if coding.low < 0 and coding.mode == kernels.PLAIN else np.uint8 if bits <= 8 else np.uint16
        out = np.empty((phases, x.size), kind)
        clips = kernels.quantise(x.reshape(-1), gain, coding.low, coding.high, coding.mode, out)
        if count:
            self.stats.dac_clips += int(clips)
        if coding.bits > 1 or self.per_bit:
            out = ((out[:, None] >> np.arange(bits, dtype=kind)[:, None]) & 1).astype(np.uint8)
        return out.reshape(-1, *x.shape)

    def _digital(self, plan: _Plan, scale: Array | None, offset: Array | None) -> tuple[Array, Array]:
        """Factor and constant of each column after the digital sum, float64."""
        factor = plan.factor if scale is None else plan.factor * scale.astype(np.float64)
        constant = np.zeros_like(factor) if offset is None else offset.astype(np.float64).reshape(-1)
        if plan.shift is not None:
            constant = constant - (plan.shift if scale is None else plan.shift * scale)
        return factor, constant

    def _count(self, positions: int) -> None:
        polarities = 2 if self._coding.mode == kernels.TWO_PHASE else 1
        slices, stats = len(self.row_cuts) - 1, self.stats
        stats.positions += positions
        stats.tile_reads += positions * polarities * self.groups * slices * (len(self.column_cuts) - 1)
        if self.target.adc.bits is not None:
            stats.adc_conversions += positions * len(self._coding.weights) * self.groups * slices * self.device_columns


@dataclass(frozen=True)
class _Plan:
    """What the kernel reads, derived from the conductances."""

    packed: Array
    starts: NDArray[np.int64]
    blocks: NDArray[np.int64]
    alpha: Array
    unit: Array
    weights: Array
    constants: NDArray[np.float64]
    factor: NDArray[np.float64]
    shift: NDArray[np.float64] | None
    row_cuts: NDArray[np.int64]
    unit_of_column: NDArray[np.int64]

    @classmethod
    def of(cls, crossbar: Crossbar) -> _Plan:
        if crossbar.target.is_ideal:
            return cls._ideal(crossbar)
        target, coding = crossbar.target, crossbar._coding
        g_us, unit_g_us, c = crossbar._programmed()
        grid = Grid.of(target.device)
        exact = target.dac.bits is not None
        step = grid.step_us if exact else 1.0
        device, adc = target.device, target.adc
        q = level_step_us(target)
        if adc.bits is None:
            lsb = device.read_voltage_v * q / coding.full
        elif crossbar.adc_range_ua is not None:
            lsb = crossbar.adc_range_ua / (2**adc.bits - 1)
        elif crossbar.per_bit:
            lsb = device.read_voltage_v * q
        else:
            raise RunError(
                "the ADC's range is not known", where=f"layer {crossbar.layer.name}", fix="calibrate, or --set adc.range_ua"
            )
        volt = device.read_voltage_v / coding.full / lsb
        top = 0 if adc.bits is None else 2**adc.bits - 1
        constants = np.array(
            [grid.middle_us * volt, step * volt, (device.read_sigma_us * volt) ** 2, adc.sigma_lsb**2 * (top > 0), top]
        )
        values, largest = _grid_values(g_us, grid if exact else None, grid.middle_us, crossbar.row_cuts)
        units, unit_largest = _grid_values(unit_g_us, grid if exact else None, grid.middle_us, crossbar.row_cuts)
        dtype = _dtype(max(largest, unit_largest) * coding.largest, coding.largest) if exact else np.float32
        whole = top > 0 and c.unit is None and bool((c.alpha == np.rint(c.alpha)).all())
        small = np.abs(c.alpha).sum(axis=(1, 2)).max() * top * np.abs(coding.weights).sum() < _EXACT_FLOAT
        digital = np.float32 if whole and small else np.float64
        factor = c.weight_step / crossbar.layer.coding.gain * (lsb * coding.full / (device.read_voltage_v * q))
        shift = None
        if coding.shift:
            held = quantise(crossbar.matrix, crossbar.weight_max, target).sum(axis=1).reshape(-1)
            shift = held * coding.shift * c.weight_step / crossbar.layer.coding.gain
        unit = np.zeros((*c.alpha.shape[:2], 0)) if c.unit is None else c.unit
        return cls._packed(crossbar, values, units, dtype, c.alpha.astype(digital), unit, coding.weights, constants, factor, shift)

    @classmethod
    def _ideal(cls, crossbar: Crossbar) -> _Plan:
        dtype = np.float64 if crossbar.matrix.dtype == np.float64 else np.float32
        values = crossbar.matrix.astype(dtype)[:, :, None]
        units = np.zeros((*crossbar.matrix.shape[:2], 0), dtype)
        columns = crossbar.columns
        alpha = np.ones((crossbar.groups, len(crossbar.row_cuts) - 1, 1, columns), dtype)
        unit = np.zeros((*alpha.shape[:2], 0))
        factor = np.ones(crossbar.groups * columns)
        constants = np.array([0.0, 1.0, 0.0, 0.0, -1.0])
        return cls._packed(crossbar, values, units, dtype, alpha, unit, np.ones(1), constants, factor, None)

    @classmethod
    def _packed(
        cls, crossbar: Crossbar, values: Array, units: Array, dtype: Any, alpha: Array, unit: Array, weights: Array,
        constants: NDArray[np.float64], factor: NDArray[np.float64], shift: NDArray[np.float64] | None,
    ) -> _Plan:  # fmt: skip
        planes, cuts = values.shape[2], crossbar.row_cuts
        blocks = column_blocks(crossbar.column_cuts, planes, units.shape[2] > 0)
        starts, size = places(cuts, blocks, planes, dtype)
        packed = np.empty((crossbar.groups, size), dtype)

        def slices(number: int) -> None:
            g, n = divmod(number, len(cuts) - 1)
            rows = slice(cuts[n], cuts[n + 1])
            pack(values[g, rows], units[g, rows], n, blocks, starts, packed[g])

        parallel(slices, crossbar.groups * (len(cuts) - 1))
        return cls(
            packed, starts, blocks, alpha, unit, weights.astype(alpha.dtype), constants, factor, shift,
            np.array(cuts), _tile_of_column(crossbar.column_cuts),
        )  # fmt: skip

    def run(
        self, crossbar: Crossbar, codes: Array, where: Unfolding, images: int, seed_key: int, first_image: int,
        factor: Array, constant: Array, y: Array, strides: Array,
    ) -> None:  # fmt: skip
        total = images * where.positions
        if total == 0:
            return
        work = total * crossbar.groups * crossbar.rows * crossbar.device_columns * codes.shape[0]
        number = 1 if work < _SMALL else threads()
        blocks = max(1, -(-total // _HEIGHT), number // (len(self.blocks) * crossbar.groups))
        height = -(-total // (blocks * gemm.TALL)) * gemm.TALL
        tasks = -(-total // height) * len(self.blocks) * crossbar.groups
        parts = min(tasks, 1 if number == 1 else 4 * number)
        cuts = [tasks * n // parts for n in range(parts + 1)]
        seed = np.uint64(seed_key & 0xFFFFFFFFFFFFFFFF)
        tallest = int(np.diff(self.row_cuts).max()) + 1
        widest = int((np.diff(self.blocks[:, :2]) * self.alpha.shape[2] + np.diff(self.blocks[:, 2:])).max()) + 16

        def part(n: int) -> int:
            a = np.empty(height * tallest, self.packed.dtype)
            sums = np.empty(height * widest, gemm.sums_dtype(self.packed.dtype))
            return int(
                kernels.read(
                    cuts[n], cuts[n + 1], height, codes, where.base, where.row_offset, where.group_stride, self.packed, self.starts,
                    self.row_cuts, self.blocks, self.alpha, self.unit, self.unit_of_column, self.weights, self.constants,
                    seed, first_image, factor, constant, y, strides, a, sums,
                )
            )  # fmt: skip

        crossbar.stats.adc_saturations += sum(parallel(part, parts, number))


def _dtype(largest_sum: float, largest_code: int) -> Any:
    """The dtype of a packed matrix of grid steps that keeps every product exact."""
    if largest_code < 2**15 and largest_sum < _EXACT_INT and gemm.has_avx2():
        return np.int16
    return np.float32 if largest_sum < _EXACT_FLOAT else np.float64


def _coding(target: Target, layer: Layer) -> _Coding:
    bits, signed = target.dac.bits, layer.coding.signed
    if target.is_ideal or bits is None:
        if signed and target.adc.bits is not None:  # an ADC takes no negative current
            return _Coding(kernels.TWO_PHASE, 0, 0, 1, np.array([1.0, -1.0]), 1.0, 1, 0.0)
        return _Coding(kernels.PLAIN, 0, 0, 1, np.ones(1), 1.0, 1, 0.0)
    per_bit = target.adc.conversion == "per_bit"
    powers = 2.0 ** np.arange(bits) if per_bit else np.ones(1)
    planes, full, largest = (bits, 1.0, 1) if per_bit else (1, 2.0**bits, 2**bits - 1)
    half = 2.0 ** (bits - 1)
    if not signed:
        return _Coding(kernels.PLAIN, 0, 2**bits - 1, planes, powers, full, largest, 0.0)
    if target.dac.signed == "two_phase":
        top = 2**bits - 1
        return _Coding(kernels.TWO_PHASE, -top, top, planes, np.concatenate([powers, -powers]), full, largest, 0.0)
    if target.dac.signed == "offset":
        return _Coding(kernels.OFFSET, -half, half - 1, planes, powers, full, largest, half)
    powers[-1] *= -1
    return _Coding(kernels.PLAIN, -half, half - 1, planes, powers, full, largest, 0.0)


def _chunks(row_cuts: tuple[int, ...], groups: int, columns: int) -> list[tuple[slice, int, int]]:
    """Groups, first and end row slice of parts of about `_CHUNK` weights."""
    rows = row_cuts[-1]
    if rows * columns * 2 <= _CHUNK:
        per = max(1, _CHUNK // max(1, rows * columns))
        return [(slice(g, min(groups, g + per)), 0, len(row_cuts) - 1) for g in range(0, groups, per)]
    parts, first = [], 0
    for s in range(1, len(row_cuts)):
        if (row_cuts[s] - row_cuts[first]) * columns >= _CHUNK or s == len(row_cuts) - 1:
            parts.append((first, s))
            first = s
    return [(slice(g, g + 1), s0, s1) for g in range(groups) for s0, s1 in parts]


def _tile_of_column(column_cuts: tuple[int, ...]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(column_cuts) - 1), np.diff(column_cuts))


def _grid_values(g_us: F32, grid: Grid | None, middle_us: float, row_cuts: tuple[int, ...]) -> tuple[F32, float]:
    """Grid steps from the middle (µS from it without a grid), and the largest sum of their sizes down a column of a slice."""
    if grid is None:
        return g_us - np.float32(middle_us), 0.0
    values = np.rint((g_us - np.float32(middle_us)) * np.float32(1 / grid.step_us))
    largest = max((float(np.abs(values[:, r0:r1]).sum(axis=1).max(initial=0)) for r0, r1 in pairwise(row_cuts)), default=0.0)
    return values, largest
