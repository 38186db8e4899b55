"""The plain backend: a read in NumPy, straight from the formula of `ReadSpec`, with no code of the compiled one.

It draws the same noise, from a NumPy form of the generator of `cimc.runtime.rng`, so that its codes are those of any other
backend but where a current lies within rounding of the edge between two codes. It is slow, and holds the row vectors of a batch
in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.runtime.backends.draws import line_keys, normals
from cimc.runtime.read_spec import ReadSpec
from cimc.runtime.unfold import Unfolding

Array = NDArray[Any]
F64 = NDArray[np.float64]


class Reference:
    """Reads by NumPy."""

    name = "reference"

    def prepare(self, spec: ReadSpec, positions: int) -> ReferenceRead:
        return ReferenceRead(spec)

    def prepare_ideal(self, matrix: Array) -> IdealRead:
        return IdealRead(matrix)


@dataclass
class ReferenceRead:
    """A read of one layer."""

    spec: ReadSpec

    @property
    def factor(self) -> F64:
        return self.spec.factor

    @property
    def intercept(self) -> F64 | None:
        return self.spec.intercept

    def refresh(self, spec: ReadSpec, devices: NDArray[np.int64] | None = None) -> bool:
        self.spec = spec
        return True

    def refresh_ideal(self, matrix: Array) -> None:
        raise RuntimeError("the read is of devices, not of ideal weights")

    def read(
        self, codes: Array, where: Unfolding, seed: int, first_image: int, factor: F64, constant: F64, y: Array,
        strides: tuple[int, int, int],
    ) -> int:  # fmt: skip
        spec = self.spec
        groups, slices, planes, columns = spec.coefficients.alpha.shape
        units = spec.unit_g_us.shape[2]
        lines, tile = planes * columns + units, np.repeat(np.arange(len(spec.column_cuts) - 1), np.diff(spec.column_cuts))
        phases, images, _ = codes.shape
        keys = line_keys(seed, first_image, images, where.positions)
        total = np.zeros((images, where.positions, groups, columns))
        saturated = 0
        for phase, g, s in np.ndindex(phases, groups, slices):
            rows = slice(spec.row_cuts[s], spec.row_cuts[s + 1])
            vectors = _row_vectors(codes[phase], where, g, rows)
            first = ((phase * slices + s) * groups + g) * lines
            read, above = self._convert(vectors, g, s, rows, keys, first)
            saturated += above
            weight = spec.coding.weights[phase]
            of_planes = read[..., : planes * columns].reshape(images, where.positions, planes, columns)
            total[:, :, g] += weight * (spec.alpha[g, s] * of_planes).sum(axis=2)
            if units:
                total[:, :, g] += weight * spec.unit[g, s] * read[..., planes * columns :][..., tile]
        _put(total.reshape(images, where.positions, -1) * factor + constant, y, strides)
        return saturated

    def _convert(self, vectors: F64, g: int, s: int, rows: slice, keys: Any, first: int) -> tuple[F64, int]:
        """Codes of all lines of a slice, ``[images, positions, lines]``, and how many are saturated."""
        spec = self.spec

        def cells(devices: Array, units: Array | None) -> F64:
            parts = [devices[g, rows].reshape(len(devices[g, rows]), -1)]
            parts += [] if units is None or not spec.unit_g_us.shape[2] else [units[g, rows]]
            return np.concatenate(parts, axis=1).astype(np.float64)

        g_us = cells(spec.g_us, spec.unit_g_us)
        if spec.coding.bits is not None:
            g_us = spec.grid.rounded(g_us)
        current = vectors @ g_us * spec.volt
        power = _pulse_power(vectors) if spec.fresh_noise else vectors**2
        if spec.variance_us2 is None:
            variance = power.sum(axis=-1, keepdims=True) * (spec.read_sigma_us * spec.volt) ** 2
        else:
            variance = power @ cells(spec.variance_us2, spec.unit_variance_us2) * spec.volt**2
        gain = 1.0
        if spec.errors is not None:
            e, share = spec.errors, np.abs(current) / spec.top_code
            gain = e.gain[g, s].astype(np.float64)
            current = current * gain + e.offset_lsb[g, s] + e.bow_lsb[g, s] * 4 * share * (1 - share)
        deviation = np.sqrt(gain**2 * variance + spec.sigma_lsb**2)
        if deviation.any():
            current = current + deviation * self._normals(keys, first, current.shape[-1])
        return self._code(current) if spec.top_code else (current, 0)

    def _normals(self, keys: Any, first: int, count: int) -> Array:
        """Draws of so many lines from ``first`` on, ``[images, positions, count]``."""
        return normals(keys, first, count)

    def _code(self, current: F64) -> tuple[F64, int]:
        """Codes of currents in LSB, and how many are saturated."""
        low, top = self.spec.low_code, self.spec.top_code
        code = np.rint(current)
        beyond = (code > top) | ((code < low) & (low < 0))
        return np.clip(code, low, top), int(beyond.sum())


@dataclass
class IdealRead:
    """A product with ideal weights, ``[groups, rows, columns]``."""

    matrix: Array

    @property
    def factor(self) -> F64:
        return np.ones(self.matrix.shape[0] * self.matrix.shape[2])

    @property
    def intercept(self) -> F64 | None:
        return None

    def refresh(self, spec: ReadSpec, devices: NDArray[np.int64] | None = None) -> bool:
        raise RuntimeError("the read is of ideal weights, not of devices")

    def refresh_ideal(self, matrix: Array) -> None:
        self.matrix = matrix

    def read(
        self, codes: Array, where: Unfolding, seed: int, first_image: int, factor: F64, constant: F64, y: Array,
        strides: tuple[int, int, int],
    ) -> int:  # fmt: skip
        groups, rows, columns = self.matrix.shape
        total = np.zeros((codes.shape[1], where.positions, groups, columns))
        for g in range(groups):
            total[:, :, g] = _row_vectors(codes[0], where, g, slice(0, rows)) @ self.matrix[g].astype(np.float64)
        _put(total.reshape(codes.shape[1], where.positions, -1) * factor + constant, y, strides)
        return 0


def _row_vectors(codes: Array, where: Unfolding, group: int, rows: slice) -> F64:
    """Row vectors of a row slice, ``[images, positions, rows]``."""
    flat = codes.reshape(len(codes), -1)
    at = where.base[:, None] + where.row_offset[rows] + group * where.group_stride
    return flat[:, at].astype(np.float64)


def _pulse_power(codes: F64) -> F64:
    """Sum of the squares of each code's pulses."""
    sizes = np.abs(codes).astype(np.int64)
    total = np.zeros(codes.shape)
    for bit in range(16):
        total += (sizes >> bit & 1) * 4.0**bit
    return total


def _put(values: F64, y: Array, strides: tuple[int, int, int]) -> None:
    """``[images, positions, columns]`` to their places in the output."""
    images, positions, columns = (np.arange(n) for n in values.shape)
    y[images[:, None, None] * strides[0] + positions[:, None] * strides[1] + columns * strides[2]] = values
