"""From devices to what the kernel multiplies by: the conductance grid and the order of columns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.ir.encoding import level_step_us
from cimc.runtime import gemm
from cimc.runtime.jit import kernel
from cimc.runtime.rng import Scalar
from cimc.targets.description import Device, Target

Array = NDArray[Any]
Index = NDArray[np.int64]

#: Grid steps over the conductance window, about, where nothing asks for more.
GRID_STEPS = 256
#: That grid serves where its step is at most this share of the smallest deviation there is; else a step is at most the other one.
_SERVES, _STEP = 0.2, 0.1
#: Steps of the finest grid, that of float32: nothing on it is rounded that conductances had not rounded before.
_FINEST = 1 << 24
#: Device columns of one block, about: its currents stay in the second-level cache.
BLOCK_WIDTH = 512


@dataclass(frozen=True)
class Grid:
    """Conductances as ``middle_us + k * step_us``.

    The grid must not act as a quantiser. Rounding to it and the noise of devices add up over a bit line in the same way, so a
    step of a fifth of a device's deviation adds a 300th to the variance of any product, whatever the ADC. Where no device is
    noisy, the grid is that of the levels if all conductances lie on it, else as fine as float32.
    """

    g_min_us: float
    g_max_us: float
    """Ends of the window that the steps are counted over."""
    steps: int
    """Over the window."""
    slack: float = inf
    """Steps by which a conductance may be rounded; not inf where no noise would hide it: then what float32 rounds."""

    @property
    def step_us(self) -> float:
        return (self.g_max_us - self.g_min_us) / self.steps

    @property
    def middle_us(self) -> float:
        return self.g_min_us + self.step_us * (self.steps // 2)

    @property
    def finest(self) -> Grid:
        """The finest grid over the same window, where no device is noisy and conductances may lie anywhere."""
        return Grid(self.g_min_us, self.g_max_us, _FINEST)

    @property
    def of_differences(self) -> Grid:
        """The grid on which differences of two conductances of this grid lie."""
        window = self.g_max_us - self.g_min_us
        return Grid(-window, window, 2 * self.steps, self.slack)

    def rounded(self, g_us: Array) -> NDArray[np.float64]:
        """Conductances on the grid, µS; as they are where the grid would round more than `slack` allows, so is not used."""
        exact = np.asarray(g_us, np.float64)
        on_grid: NDArray[np.float64] = self.middle_us + np.rint((exact - self.middle_us) / self.step_us) * self.step_us
        return on_grid if np.abs(on_grid - exact).max(initial=0) <= self.slack * self.step_us else exact

    @classmethod
    def levels(cls, device: Device) -> Grid:
        """About `GRID_STEPS` steps; all levels of the device and both ends of its window lie on it."""
        levels = (device.levels or 2) - 1
        grid = cls(device.g_min_us, device.g_max_us, levels * max(1, round(GRID_STEPS / levels)))
        return grid if _deviations(device) else replace(grid, slack=1e-3 + device.g_max_us / grid.step_us * 2.0**-22)

    @classmethod
    def of(cls, device: Device) -> Grid:
        """The grid of a device; where none is noisy that of its levels."""
        coarse, deviations = cls.levels(device), _deviations(device)
        if not deviations or coarse.step_us <= _SERVES * min(deviations):
            return coarse
        window = device.g_max_us - device.g_min_us
        return replace(coarse, steps=min(_FINEST, ceil(window / (_STEP * min(deviations)))), slack=inf)


def _deviations(device: Device) -> list[float]:
    """Standard deviations of a device's reads and writes, µS; without those that are 0."""
    slow_us = 0.0 if device.slow_noise is None else device.slow_noise.sigma_us
    return [figure for figure in (device.read_sigma_us, device.programming.sigma_us, slow_us) if figure > 0]


def column_blocks(column_cuts: tuple[int, ...], planes: int, unit_column: bool) -> NDArray[np.int64]:
    """Cut columns into blocks for the kernel, ``[blocks, 4]`` as `kernels.read` takes them.

    With unit columns a block holds whole column tiles, so that each unit column is read once.
    """
    columns = column_cuts[-1]
    per_block = max(1, BLOCK_WIDTH // planes)
    if unit_column:
        cuts, tiles = [0], [0]
        for tile, (_, end) in enumerate(pairwise(column_cuts), 1):
            if end - cuts[-1] >= per_block or end == columns:
                cuts.append(end)
                tiles.append(tile)
    else:
        parts = max(1, -(-columns // per_block))
        cuts = sorted({-(-columns * n // parts) for n in range(parts + 1)})
        tiles = [0] * len(cuts)
    return np.array([(c0, c1, t0, t1) for (c0, c1), (t0, t1) in zip(pairwise(cuts), pairwise(tiles), strict=True)])


@dataclass(frozen=True)
class Places:
    """Where a group's devices stand in the flat matrix that the kernels read: ``row_at[row] + column_at[row slice, column]``.

    Device columns come first, then unit columns. What is left between them stays 0.
    """

    starts: Index
    """``[row slices, blocks]``, or ``[row slices]`` of a narrow layer: where each part starts."""
    shape: tuple[int, ...]
    """Of one group's matrix."""
    row_at: Index
    column_at: Index

    @classmethod
    def panels(cls, row_cuts: Index, blocks: Index, planes: int, dtype: Any) -> Places:
        """As `kernels.read` takes it: panels of `gemm`, one row slice and block of columns after the other."""
        talls, columns = np.diff(row_cuts), blocks[-1, 1]
        widths = planes * (blocks[:, 1] - blocks[:, 0]) + blocks[:, 3] - blocks[:, 2]
        panel, per_step = gemm.panel_shape(dtype)
        padded = -(-talls // per_step) * per_step
        sizes = np.outer(padded, -(-widths // panel) * panel)
        ends = np.cumsum(sizes)
        starts = (ends - sizes.reshape(-1)).reshape(sizes.shape)
        # Of each column: its block, and its number there.
        block, number = np.empty((2, planes * columns + blocks[-1, 3]), np.int64)
        for b, (c0, c1, u0, u1) in enumerate(blocks):
            lines = [p * columns + np.arange(c0, c1) for p in range(planes)]
            inside = np.concatenate([*lines, planes * columns + np.arange(u0, u1)])
            block[inside], number[inside] = b, np.arange(inside.size)
        column_at = starts[:, block] + number // panel * panel * padded[:, None] + number % panel * per_step
        row = np.arange(row_cuts[-1]) - np.repeat(row_cuts[:-1], talls)
        return cls(starts, (int(ends[-1]),), row // per_step * panel * per_step + row % per_step, column_at)

    @classmethod
    def across(cls, row_cuts: Index, columns: int) -> Places:
        """As `narrow.read` takes it: ``[device columns and more, rows]``; an odd number of rows of a slice gets a row of 0."""
        talls = np.diff(row_cuts)
        starts = np.cumsum([0, *(-(-talls // 2) * 2)])
        row_at = np.arange(row_cuts[-1]) + np.repeat(starts[:-1] - row_cuts[:-1], talls)
        column_at = np.broadcast_to(np.arange(columns) * starts[-1], (talls.size, columns))
        return cls(starts[:-1], (columns + gemm.TALL, int(starts[-1])), row_at, np.ascontiguousarray(column_at))


@kernel()
def put(values: Array, middle: Scalar, per_unit: Scalar, whole: Scalar, row_at: Index, column_at: Index, out: Array) -> None:
    """``(values - middle) * per_unit`` to their places, rounded where they are whole.

    Args:
        values: ``[rows, columns]``.
        middle: In their unit and dtype.
        per_unit: Grid steps of a unit, in the same dtype.
        whole: Whether there is a grid.
        row_at: Of `Places`, these rows.
        column_at: Of `Places`, these columns.
        out: One group's matrix, flat.
    """
    for r in range(values.shape[0]):
        for c in range(values.shape[1]):
            value = (values[r, c] - middle) * per_unit
            out[row_at[r] + column_at[c]] = np.rint(value) if whole else value


@kernel()
def put_some(
    devices: Index, values: Array, columns: int, middle: Scalar, per_unit: Scalar, whole: Scalar, limit: float, row_cuts: Index,
    row_at: Index, column_at: Index, out: Array, slack: float,
) -> bool:  # fmt: skip
    """As `put`, but of single devices; False, and nothing put, where a step reaches ``limit`` or rounding exceeds ``slack``.

    Args:
        devices: Flat numbers in ``values``.
        values: Of all groups, rows and device columns, flat.
        columns: Device columns of a row.
        middle: See `put`, like what is not named here.
        per_unit: The same.
        whole: The same.
        limit: Size of a step that is too large.
        row_cuts: Row slices.
        row_at: Of `Places`.
        column_at: Of `Places`, ``[row slices, device columns and more]``.
        out: The groups' matrices, each flat.
        slack: In steps.
    """
    for d in devices:
        value = (values[d] - middle) * per_unit
        if not abs(np.rint(value)) < limit or abs(np.rint(value) - value) > slack:
            return False
    for d in devices:
        line, c = divmod(d, columns)
        g, r = divmod(line, row_at.size)
        s = np.searchsorted(row_cuts, r, side="right") - 1
        value = (values[d] - middle) * per_unit
        out[g, row_at[r] + column_at[s, c]] = np.rint(value) if whole else value
    return True


@kernel()
def rounds(values: Array, middle: Scalar, per_unit: Scalar, slack: float) -> bool:
    """Whether the grid rounds any of some values (flat) by more than ``slack`` steps; see `put`."""
    for i in range(values.size):
        value = (values[i] - middle) * per_unit
        if not abs(np.rint(value) - value) <= slack:
            return True
    return False


def leak_steps(target: Target) -> float:
    """``g_min`` in level steps: what every device adds to a sum of inputs."""
    return target.device.g_min_us / level_step_us(target)
