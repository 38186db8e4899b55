"""From devices to what the kernel multiplies by: the conductance grid and the order of columns."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.ir.encoding import level_step_us
from cimc.runtime import gemm
from cimc.targets.description import Device, Target

Array = NDArray[Any]

#: Grid steps over the conductance window, about.
GRID_STEPS = 256
#: Device columns of one block, about: its currents stay in the second-level cache.
BLOCK_WIDTH = 512


@dataclass(frozen=True)
class Grid:
    """Conductances as ``middle_us + k * step_us``; all levels of the device lie on it."""

    middle_us: float
    step_us: float

    @classmethod
    def of(cls, device: Device) -> Grid:
        levels = (device.levels or 2) - 1
        steps = levels * max(1, round(GRID_STEPS / levels))
        step = (device.g_max_us - device.g_min_us) / steps
        return cls(device.g_min_us + step * (steps // 2), step)


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


def places(row_cuts: tuple[int, ...], blocks: NDArray[np.int64], planes: int, dtype: Any) -> tuple[NDArray[np.int64], int]:
    """Where each row slice and block of columns starts in a group's packed matrix, ``[slices, blocks]``, and its size."""
    talls = np.diff(row_cuts)
    widths = planes * (blocks[:, 1] - blocks[:, 0]) + blocks[:, 3] - blocks[:, 2]
    panel, per_step = gemm.panel_shape(dtype)
    sizes = np.outer(-(-talls // per_step) * per_step, -(-widths // panel) * panel)
    ends = np.cumsum(sizes)
    return (ends - sizes.reshape(-1)).reshape(sizes.shape), int(ends[-1])


def pack(devices: Array, units: Array, row_slice: int, blocks: NDArray[np.int64], starts: NDArray[np.int64], out: Array) -> None:
    """Copy one row slice of one group's devices into its packed matrix.

    Args:
        devices: ``[rows, planes, columns]``, values of the grid.
        units: ``[rows, column tiles]``; no columns without unit columns.
        row_slice: Number of the slice.
        blocks: From `column_blocks`.
        starts: From `places`.
        out: One group's packed matrix.
    """
    tall = devices.shape[0]
    for (c0, c1, u0, u1), start in zip(blocks, starts[row_slice], strict=True):
        part = np.concatenate([devices[:, :, c0:c1].reshape(tall, -1), units[:, u0:u1]], axis=1)
        panel, per_step = gemm.panel_shape(out.dtype)
        shape = (-(-part.shape[1] // panel), -(-tall // per_step), panel, per_step)
        gemm.pack_panels(part, out[start : start + prod(shape)].reshape(shape))


def pack_across(groups: list[tuple[Array, Array]], row_cuts: tuple[int, ...]) -> tuple[Array, NDArray[np.int64]]:
    """The devices of a narrow layer, int16 ``[groups, device columns and more, rows]``, and where each row slice starts in it.

    Args:
        groups: Devices ``[rows, planes, columns]`` and units ``[rows, column tiles]`` of each group.
        row_cuts: Row slices; one of an odd number of rows gets a row of 0.
    """
    tall, columns = len(groups[0][0]), groups[0][0][0].size
    starts = np.cumsum([0, *(-(-n // 2) * 2 for n in np.diff(row_cuts))])
    where = np.arange(tall) + np.repeat(starts[:-1] - row_cuts[:-1], np.diff(row_cuts))
    out = np.zeros((len(groups), columns + groups[0][1].shape[1] + gemm.TALL, starts[-1]), np.int16)
    for matrix, (devices, units) in zip(out, groups, strict=True):
        matrix[:columns, where] = devices.reshape(tall, -1).T
        matrix[columns : -gemm.TALL, where] = units.T
    return out, starts[:-1]


def leak_steps(target: Target) -> float:
    """``g_min`` in level steps: what every device adds to a sum of inputs."""
    return target.device.g_min_us / level_step_us(target)
