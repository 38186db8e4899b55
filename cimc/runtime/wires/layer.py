"""The arrays of a layer as a read sees them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import ArtifactError, FitError
from cimc.ir.encoding import has_units, unit_cuts
from cimc.runtime.arrays.devices import Devices, tile_of_column
from cimc.runtime.cells import Cells
from cimc.runtime.wires.effective import Block, Solver
from cimc.runtime.wires.estimate import warn_if_rough
from cimc.targets.description import Target, Wires

Array = NDArray[Any]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

#: Most lines of an array; what a target may say. Most cells of a block: a solver takes some 50 bytes for each.
_MOST_LINES, _MOST_CELLS = 1 << 20, 1 << 25


class LayerWires:
    """Solves the blocks of one copy of a layer, each as it lies in its array.

    Cells of the array that are not of the block are taken for cells at g_min, and the lines that cross the block's own lines
    there for lines at 0 V.

    Args:
        cells: Of the copy.
        wires: Of the target.
        part: Group and row slice of the part that is solved as a layer of its own; None: the whole layer.

    Raises:
        FitError: A block of an array without limit is too large.
        ArtifactError: Places in a file make no sense: two cells of a block on one crossing, or lines beyond any array.
    """

    def __init__(self, cells: Cells, wires: Wires, part: tuple[int, int] | None = None) -> None:
        layer, target = cells.layer, cells.target
        row_cuts, column_cuts = layer.row_cuts or (0, layer.rows), layer.column_cuts or (0, layer.columns)
        tiles, lines = len(column_cuts) - 1, target.planes * layer.columns
        units = unit_cuts(column_cuts, target)
        self._units = len(units) - 1 if has_units(target) else 0
        width = lines + self._units
        blocks: list[Block] = []
        #: Number of each block, by group, row slice and column tile.
        self._number = np.zeros((layer.groups, len(row_cuts) - 1, tiles), np.int64)
        first_row = 0 if part is None else part[0] * layer.rows + row_cuts[part[1]]
        for (g, s, t), words, bits in cells.lines():
            if part not in (None, (g, s)):
                continue
            weights = np.arange(column_cuts[t], column_cuts[t + 1])
            column_at = (np.arange(target.planes) * layer.columns + weights[:, None]).reshape(-1)
            if target.array.unit_column:
                bits = np.append(bits, bits.max() + 1 if target.array.columns is None else target.array.columns)
            if self._units:
                own = np.flatnonzero((np.array(units[:-1]) >= column_cuts[t]) & (np.array(units[:-1]) < column_cuts[t + 1]))
                column_at = np.append(column_at, lines + own)
            row_at = (g * layer.rows + np.arange(row_cuts[s], row_cuts[s + 1]) - first_row) * width
            shape = _shape(words, bits, target, layer.name)
            self._number[g, s, t] = len(blocks)
            blocks.append(Block.of(row_at, column_at, words, bits, shape, wires, target.device.g_min_us))
        self._solver = Solver(blocks, wires)
        self._slice = np.repeat(np.arange(len(row_cuts) - 1), np.diff(row_cuts))
        self._tile = tile_of_column(column_cuts)
        warn_if_rough(target, [(len(block.row_at), len(block.column_at)) for block in blocks])

    def solve(self, devices: Devices) -> Devices:
        """The devices with effective conductances."""
        values = self._values(devices)
        out = np.empty_like(values)
        self._solver.solve(values.reshape(-1), out.reshape(-1))
        g_us, unit_g_us = np.empty_like(devices.g_us), np.empty_like(devices.unit_g_us)
        self._take(out, g_us, unit_g_us)
        return replace(devices, g_us=g_us, unit_g_us=unit_g_us)

    def solve_some(self, devices: Devices, written: I64, effective: Devices) -> None:
        """Bring ``effective`` up to date where only the devices ``written`` (flat numbers in ``g_us``) have changed."""
        _, rows, planes, columns = devices.g_us.shape
        line, column = np.divmod(written, columns)
        group, row = np.divmod(line // planes, rows)
        which = np.unique(self._number[group, self._slice[row], self._tile[column]])
        if not self._units:
            self._solver.solve(devices.g_us.reshape(-1), effective.g_us.reshape(-1), which)
            return
        out = self._values(effective).copy()
        self._solver.solve(self._values(devices).reshape(-1), out.reshape(-1), which)
        self._take(out, effective.g_us, effective.unit_g_us)

    def _values(self, devices: Devices) -> F32:
        """All device columns of a row side by side, unit columns last."""
        g_us = np.ascontiguousarray(devices.g_us).reshape(*devices.g_us.shape[:2], -1)
        return np.concatenate([g_us, devices.unit_g_us], axis=2) if self._units else g_us

    def _take(self, values: F32, g_us: F32, unit_g_us: F32) -> None:
        lines = g_us.shape[2] * g_us.shape[3]
        g_us[...] = values[:, :, :lines].reshape(g_us.shape)
        unit_g_us[...] = values[:, :, lines:]


def _shape(words: I64, bits: I64, target: Target, layer: str) -> tuple[int, int]:
    """Word lines and bit lines of the array; an array without limit ends with the block."""
    rows, columns = target.array.rows or 0, target.array.columns or 0
    shape = max(rows, int(words.max()) + 1), max(columns + target.array.unit_column, int(bits.max()) + 1)
    if max(shape) > _MOST_LINES + 1 or len(set(words)) < len(words) or len(set(bits)) < len(bits):
        raise ArtifactError("its places are those of no array", where=f"layer {layer}", fix="compile the model again")
    if len(words) * len(bits) > _MOST_CELLS:
        what = f"a block of {len(words)} x {len(bits)} cells is too large to be solved with its wires"
        raise FitError(what, where=f"layer {layer}", fix="--set array.rows=256 --set array.columns=256, or array.wires=null")
    return shape
