"""Which cells of a die a layer's devices are, and what a cell brings from its birth.

Whether a cell is stuck, what it holds before the first write and how strongly it answers a pulse belong to the cell: its chip,
tile, word line and bit line on the die of a seed. So whatever is written into that die meets the same cells there. A layer
without a place has cells of its own, by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import ArtifactError
from cimc.ir.blocks import CHIP, COLUMN, COLUMN_TILE, GROUP, ROW, SLICE, TILE, block_shape, placed_table
from cimc.ir.program import BLOCK_FIELDS, Layer, Program
from cimc.runtime import rng
from cimc.runtime.devices import device_model
from cimc.runtime.devices.draws import bits, normals
from cimc.runtime.devices.memristor import RESPONSE
from cimc.targets.description import Device, Target

F32 = NDArray[np.float32]
#: Gives the keys of cells, shaped as their conductances.
Keys = Callable[[], NDArray[np.uint64]]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

#: Draw of a cell for its fault, by the counter of its key; the device model has those from 1 on.
_FAULT = 0
#: Bit line of the unit column in an array without limit.
_BEHIND_ALL = 2**32 - 1
#: In the place of a word line: the converters of bit lines.
_CONVERTERS = np.array(2**32 - 1)


@dataclass(frozen=True)
class Sites:
    """Places of the blocks of a layer, copy after copy."""

    table: NDArray[np.int32]
    """``[blocks, fields]``, see `cimc.ir.program.BLOCK_FIELDS`."""
    lines: NDArray[np.int32] | None = None
    """Word lines, then bit lines, of one block after the other, flat; None: each block has lines without gaps."""

    def checked(self, layer: Layer, target: Target) -> Sites:
        """These sites, if they are those of whole copies of the layer.

        Raises:
            ArtifactError: They are not.
        """
        table, limits = self.table, (layer.groups, len(layer.row_cuts) - 1, len(layer.column_cuts) - 1)
        fits = table.ndim == 2 and table.shape[1] == len(BLOCK_FIELDS) and len(table) % max(1, layer.crossbars) == 0
        fits = fits and bool((table >= 0).all() and (table[:, [GROUP, SLICE, COLUMN_TILE]] < limits).all())
        if fits and self.lines is not None:
            height, width = block_shape(layer, target, table[:, SLICE], table[:, COLUMN_TILE])
            fits = self.lines.shape == (int(height.sum() + width.sum()),) and bool((self.lines >= 0).all())
        if not fits:
            raise ArtifactError("its places do not suit the layer", where=f"layer {layer.name}")
        return self


@dataclass(frozen=True)
class Cells:
    """The cells of one copy of a layer on one die."""

    layer: Layer
    target: Target
    die_seed: int
    copy: int = 0
    sites: Sites | None = None
    """None: the layer has no place."""

    @cached_property
    def _shape(self) -> tuple[int, int, int, int]:
        return self.layer.groups, self.layer.rows, self.target.planes, self.layer.columns

    def keys(self, group: int | None = None, begin: int = 0, end: int | None = None) -> U64:
        """Keys of the devices.

        Args:
            group: One group; None: all.
            begin: First row slice.
            end: Behind the last row slice; None: all from ``begin`` on.

        Returns:
            ``[groups, rows of these slices, planes, columns]``.
        """
        groups, rows, planes, columns = self._shape
        some = range(groups) if group is None else range(group, group + 1)
        cuts = self.layer.row_cuts or (0, rows)
        end = len(cuts) - 1 if end is None else end
        r0, r1 = cuts[begin], cuts[end]
        if self.sites is None:
            lines = np.arange(planes * columns).reshape(planes, columns)
            parts = [_keys(self._own_array(g), np.arange(r0, r1)[:, None, None], lines) for g in some]
            return np.stack(parts) if parts else np.zeros((0, r1 - r0, planes, columns), np.uint64)
        keys = np.zeros((len(some), r1 - r0, planes, columns), np.uint64)
        for block, word, bit in self._blocks:
            g, s = int(block[GROUP]), int(block[SLICE])
            if g not in some or not begin <= s < end:
                continue
            c0, c1 = self.layer.column_cuts[block[COLUMN_TILE] :][:2]
            part = _keys(self._array(block), word[:, None], bit[: planes * (c1 - c0)]).reshape(len(word), c1 - c0, planes)
            keys[g - some.start, cuts[s] - r0 : cuts[s + 1] - r0, :, c0:c1] = part.transpose(0, 2, 1)
        return keys

    def unit_keys(self) -> U64:
        """Keys of the devices of unit columns, or of references, ``[groups, rows, unit columns]``."""
        groups, rows, planes, columns = self._shape
        tiles = self._units[-1]
        keys = np.zeros((groups, rows, tiles), np.uint64)
        if self.sites is None:
            for g in range(groups):
                keys[g] = _keys(self._own_array(g), np.arange(rows)[:, None], planes * columns + np.arange(tiles))
            return keys
        for block, word, bit in self._blocks if tiles else ():
            s = int(block[SLICE])
            begin, end = self.layer.row_cuts[s], self.layer.row_cuts[s + 1]
            some, places = self._unit_lines(int(block[COLUMN_TILE]), bit)
            keys[block[GROUP], begin:end, some] = _keys(self._array(block), word[:, None], places)
        return keys

    @cached_property
    def _units(self) -> tuple[int, ...]:
        """Number of the first unit column, or column of references, of each column tile; last, how many there are."""
        cuts = self.layer.column_cuts or (0, self.layer.columns)
        if self.target.array.unit_column:
            return tuple(range(len(cuts)))
        counts = [self.target.weights.reference_columns(end - begin) for begin, end in pairwise(cuts)]
        return (0, *accumulate(counts))

    def _unit_lines(self, tile: int, bit: I64) -> tuple[slice, I64]:
        """Numbers of the unit columns of a column tile, and the bit lines where they are; ``bit``: all bit lines of a block."""
        own = slice(self._units[tile], self._units[tile + 1])
        if self.target.array.unit_column:
            return own, np.array([unit_line(self.target)])
        return own, bit[len(bit) - (own.stop - own.start) :]

    def line_keys(self) -> U64:
        """Keys of the converters of bit lines, ``[groups, row slices, lines]``: device columns, then unit columns.

        Of a pair that is subtracted in the array, whose difference has one converter, that of its first line.
        """
        groups, rows, planes, columns = self._shape
        cuts = self.layer.row_cuts or (0, rows)
        tiles = self._units[-1]
        keys = np.zeros((groups, len(cuts) - 1, planes, columns), np.uint64)
        units = np.zeros((*keys.shape[:2], tiles), np.uint64)
        if self.sites is None:
            lines, slices = np.arange(planes * columns + tiles), np.arange(len(cuts) - 1)
            for g in range(groups):
                own = _keys(self._own_array(g), _CONVERTERS - slices[:, None], lines)
                keys[g], units[g] = own[:, : planes * columns].reshape(-1, planes, columns), own[:, planes * columns :]
        else:
            for block, _, bit in self._blocks:
                g, s, tile = int(block[GROUP]), int(block[SLICE]), int(block[COLUMN_TILE])
                c0, c1 = self.layer.column_cuts[tile : tile + 2]
                weights = bit[: planes * (c1 - c0)]
                keys[g, s, :, c0:c1] = _keys(self._array(block), _CONVERTERS, weights).reshape(c1 - c0, planes).T
                if tiles:
                    some, places = self._unit_lines(tile, bit)
                    units[g, s, some] = _keys(self._array(block), _CONVERTERS, places)
        if self.target.adc.pair_read == "subtracted":
            keys = keys[:, :, : planes // 2]
        return np.concatenate([keys.reshape(groups, len(cuts) - 1, -1), units], axis=2)

    def _own_array(self, group: int) -> int:
        return rng.key("cells", self.die_seed, self.layer.name, self.copy, group)

    def _array(self, block: NDArray[np.int32]) -> int:
        return array_key(self.die_seed, int(block[CHIP]), int(block[TILE]))

    def lines(self) -> Iterator[tuple[tuple[int, int, int], I64, I64]]:
        """Group, row slice and column tile of each block of the copy, with its word lines and bit lines.

        Blocks without a place have the first lines of an array. Bit lines are those of the first weight column, one a device
        column, then those of the second, and so on, then references.
        """
        if self.sites is not None:
            for block, word, bit in self._blocks:
                yield (int(block[GROUP]), int(block[SLICE]), int(block[COLUMN_TILE])), word, bit
            return
        groups, rows, _, columns = self._shape
        row_cuts, column_cuts = self.layer.row_cuts or (0, rows), self.layer.column_cuts or (0, columns)
        for g, s, t in np.ndindex(groups, len(row_cuts) - 1, len(column_cuts) - 1):
            height, width = row_cuts[s + 1] - row_cuts[s], self.target.device_columns(column_cuts[t + 1] - column_cuts[t])
            yield (g, s, t), np.arange(height), np.arange(width)

    @cached_property
    def _blocks(self) -> list[tuple[NDArray[np.int32], I64, I64]]:
        """The copy's blocks with their word lines and bit lines."""
        assert self.sites is not None
        table, lines = self.sites.table, self.sites.lines
        height, width = block_shape(self.layer, self.target, table[:, SLICE], table[:, COLUMN_TILE])
        if lines is None:
            each = [(b[ROW] + np.arange(h), b[COLUMN] + np.arange(w)) for b, h, w in zip(table, height, width, strict=True)]
        else:
            cuts = np.cumsum(np.stack([height, width], axis=1).reshape(-1))
            parts = [lines[a:b].astype(np.int64) for a, b in pairwise([0, *cuts])]
            each = list(zip(parts[0::2], parts[1::2], strict=True))
        own = slice(self.copy * self.layer.crossbars, (self.copy + 1) * self.layer.crossbars)
        return [(block, *pair) for block, pair in zip(table[own], each[own], strict=True)]


def cells_of(program: Program, layer: Layer, die_seed: int, sites: Sites | None = None) -> tuple[Cells, ...]:
    """Cells of each copy of a layer; ``sites`` None: where the program places it."""
    if sites is None and layer.row_cuts and layer.column_cuts:
        table = placed_table(program, layer)
        sites = None if table is None else Sites(table).checked(layer, program.target)
    copies = 1 if sites is None else max(1, len(sites.table) // layer.crossbars)
    return tuple(Cells(layer, program.target, die_seed, copy, sites) for copy in range(copies))


def unit_line(target: Target) -> int:
    """Bit line of an array's unit column: behind the last of the others."""
    return _BEHIND_ALL if target.array.columns is None else target.array.columns


def array_key(die_seed: int, chip: int, tile: int) -> int:
    """Key of an array's cells."""
    return rng.key("cells", die_seed, chip, tile)


def grid_keys(die_seed: int, chip: int, tile: int, rows: int, columns: int) -> U64:
    """Keys of all cells of an array, ``[rows, columns]``, from word line and bit line 0 on."""
    return _keys(array_key(die_seed, chip, tile), np.arange(rows)[:, None], np.arange(columns))


def numbered_keys(seed: int, count: int) -> U64:
    """Keys of ``count`` devices that are cells of no array."""
    return _keys(seed, np.zeros((), np.int64), np.arange(count))


def _keys(array: int, rows: NDArray[Any], columns: NDArray[Any]) -> U64:
    """Keys of the cells at word lines and bit lines that are broadcast against each other."""
    place = rows.astype(np.uint64) << np.uint64(32) | columns.astype(np.uint64)
    z = (place ^ np.uint64(array)) + np.uint64(0x9E3779B97F4A7C15)  # as `rng.mix64`
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: U64 = z ^ (z >> np.uint64(31))
    return mixed


# What a cell brings ---------------------------------------------------------------------------------------------------


def may_be_stuck(device: Device) -> bool:
    """Whether any cell of such devices is stuck."""
    return bool(device.stuck_low_rate or device.stuck_high_rate)


def stuck_us(device: Device, keys: U64) -> F32:
    """Conductance (µS, shaped as ``keys``) at which each cell is stuck from birth; NaN where it is not."""
    low_below = round(device.stuck_low_rate * 2**32)
    high_below = low_below + round(device.stuck_high_rate * 2**32)
    drawn = bits(keys, _FAULT).astype(np.int64)
    ends = [np.float32(device.g_min_us), np.float32(device.g_max_us)]
    return np.select([drawn < low_below, drawn < high_below], ends, np.float32(np.nan)).astype(np.float32)


def stick(device: Device, g_us: F32, keys: U64) -> None:
    """Let stuck cells hold what they are stuck at, in place; both of one shape."""
    stuck = stuck_us(device, keys)
    np.copyto(g_us, stuck, where=~np.isnan(stuck))


def born_on(device: Device, keys: U64) -> F32:
    """Conductances (µS, shaped as ``keys``) of cells never written, as the device model says; stuck ones are stuck already."""
    g_us = device_model(device).birth(keys)
    if may_be_stuck(device):
        stick(device, g_us, keys)
    return g_us


def responses(keys: U64) -> F32:
    """Standard normal draw of each cell for the strength of its answer to pulses, flat."""
    return normals(keys, RESPONSE).reshape(-1)
