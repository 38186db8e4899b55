"""From devices to what the kernel multiplies by: the conductance grid and the order of columns."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.ir.encoding import level_step_us
from cimc.targets.description import Device, Target

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
    """Cut columns into blocks for the kernel, ``[blocks, 5]`` as `kernels.read` takes them (offsets in rows of the matrix).

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
    widths = [planes * (c1 - c0) + t1 - t0 for (c0, c1), (t0, t1) in zip(pairwise(cuts), pairwise(tiles), strict=True)]
    starts = np.concatenate([[0], np.cumsum(widths)[:-1]])
    return np.array([[c0, c1, t0, t1, start] for (c0, c1), (t0, t1), start in zip(pairwise(cuts), pairwise(tiles), starts, strict=True)])


def pack(devices: NDArray[Any], units: NDArray[Any], blocks: NDArray[np.int64], out: NDArray[Any], first_row: int) -> None:
    """Copy rows of one group's devices into its packed matrix.

    Args:
        devices: ``[rows, planes, columns]``, values of the grid.
        units: ``[rows, column tiles]``; no columns without unit columns.
        blocks: From `column_blocks`, offsets in rows of the matrix.
        out: ``[all rows * device columns]``, one group's.
        first_row: Number of the first of these rows.
    """
    count, all_rows = devices.shape[0], out.size // (devices.shape[1] * devices.shape[2] + units.shape[1])
    for c0, c1, u0, u1, start in blocks:
        width = devices.shape[1] * (c1 - c0)
        whole = out[start * all_rows : (start + width + u1 - u0) * all_rows].reshape(all_rows, -1)
        part = whole[first_row : first_row + count]
        part[:, :width] = devices[:, :, c0:c1].reshape(count, width)
        part[:, width:] = units[:, u0:u1]


def leak_steps(target: Target) -> float:
    """``g_min`` in level steps: what every device adds to a sum of inputs."""
    return target.device.g_min_us / level_step_us(target)
