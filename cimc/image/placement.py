"""Where every segment's word lines and bit lines are: as the compiler placed them, or around the faults of a die.

Around faults a segment need not be contiguous: it takes any word lines and any bit lines of a tile at whose crossings
nothing is dead and nothing else lies. Finding the largest such set is hard, so lines are struck out greedily, the one with
the most obstacles first; a segment that finds no room in a tile tries the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cimc.errors import FitError
from cimc.image.faults import FaultMap
from cimc.ir.blocks import CHIP, COLUMN, HEIGHT, ROW, TILE, WIDTH, placed_table
from cimc.ir.program import Layer, Program
from cimc.runtime.cells import Sites

I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Spot:
    """Place of one segment: its word and bit lines in a tile, in the order of its matrix."""

    chip: int
    tile: int
    rows: I64
    columns: I64


Spots = dict[str, list[Spot]]


def as_compiled(program: Program) -> Spots:
    """The places that the program's own block tables give."""
    spots: Spots = {}
    for layer in program.layers:
        table = placed_table(program, layer)
        if table is None:
            raise FitError("the layer has no place yet", where=f"layer {layer.name}", fix="compile up to pass `place`")
        spots[layer.name] = [
            Spot(int(b[CHIP]), int(b[TILE]), b[ROW] + np.arange(b[HEIGHT]), b[COLUMN] + np.arange(b[WIDTH])) for b in table
        ]
    return spots


def sites_of_first_copy(program: Program, layer: Layer, spots: Spots) -> Sites:
    """Where the segments of a layer's first copy lie, as cells and wires take it."""
    table = placed_table(program, layer)
    if table is None:
        raise FitError("the layer has no place yet", where=f"layer {layer.name}", fix="compile up to pass `place`")
    own, taken = table[: layer.crossbars].copy(), spots[layer.name][: layer.crossbars]
    own[:, [CHIP, TILE]] = [(spot.chip, spot.tile) for spot in taken]
    lines = [line.astype(np.int32) for spot in taken for line in (spot.rows, spot.columns)]
    return Sites(own, np.concatenate([np.zeros(0, np.int32), *lines]))


def around(program: Program, faults: FaultMap, chips: int | None = None, own_references: bool = False) -> Spots:
    """Places for the program's segments that keep clear of the dead cells.

    Args:
        program: Placed, so that the shapes of its blocks are known.
        faults: Of the die.
        chips: As many chips as may be used; None: as many as the program itself takes.
        own_references: No two segments share a cell of a unit column, as they want different conductances there.

    Raises:
        FitError: A segment finds no room.
    """
    array = program.target.array
    if array.rows is None or array.columns is None:
        what = "faults have places only in arrays of a known size"
        raise FitError(what, where=f"target {program.target.name}", fix="--set array.rows=... --set array.columns=...")
    compiled = as_compiled(program)
    chips = chips_used(program) if chips is None else chips
    floor = _Floor(array.rows, array.columns, array.unit_column, array.tiles_per_chip, chips, faults, own_references)
    result: Spots = {}
    for name in sorted(compiled, key=lambda n: -max(len(s.rows) for s in compiled[n])):
        taken: set[tuple[int, int]] = set()
        result[name] = []
        for number, spot in enumerate(compiled[name]):
            found = floor.take(len(spot.rows), len(spot.columns), taken)
            if found is None:
                raise _no_room(program, name, number, spot, floor)
            taken.add((found.chip, found.tile))
            result[name].append(found)
    return {layer.name: result[layer.name] for layer in program.layers}


def chips_used(program: Program) -> int:
    """Chips that the arrays of a placed program fill, at least 1."""
    tiles = len({(spot.chip, spot.tile) for spots in as_compiled(program).values() for spot in spots})
    return max(1, -(-tiles // (program.target.array.tiles_per_chip or tiles or 1)))


def _no_room(program: Program, name: str, number: int, spot: Spot, floor: _Floor) -> FitError:
    tiles = floor.limit
    return FitError(
        f"segment {number} of {len(spot.rows)} word lines by {len(spot.columns)} bit lines finds no room in {tiles} tiles "
        f"around {floor.dead_cells()} dead cells",
        where=f"layer {name}, target {program.target.name}",
        fix=f"--chips {floor.chips + 1}, --set mapping.split=rows, or a die with fewer faults",
    )


@dataclass
class _Floor:
    """Tiles of a die; True in a mask is a cell that is free and alive."""

    rows: int
    columns: int
    unit_column: bool
    tiles_per_chip: int | None
    chips: int
    faults: FaultMap
    own_references: bool
    masks: dict[tuple[int, int], Mask] = field(default_factory=dict)
    free: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def limit(self) -> int:
        """Tiles there are; of a chip without limit, as many as are worth a try."""
        return self.chips * (self.tiles_per_chip or 1 << 20)

    def dead_cells(self) -> int:
        return sum(int((~self._alive(*at)).sum()) for at in self.masks)

    def _alive(self, chip: int, tile: int) -> Mask:
        return ~self.faults.dead(chip, tile, self.rows, self.columns + self.unit_column)

    def _tiles(self) -> Iterator[tuple[int, int]]:
        for chip in range(self.chips):
            for tile in range(self.tiles_per_chip or 1 << 20):
                yield chip, tile

    def take(self, height: int, width: int, taken: set[tuple[int, int]]) -> Spot | None:
        """Room for a segment, in a tile that none of its layer's has, as they fire together."""
        fresh = 0
        for at in self._tiles():
            if at in taken:
                continue
            new = at not in self.masks
            if new:
                self.masks[at] = self._alive(*at)
                self.free[at] = int(self.masks[at].sum())
            fresh += new
            if fresh > 64 and self.tiles_per_chip is None:  # untouched tiles are alike: more of them do not help
                return None
            if self.free[at] < height * width:
                continue
            mask = self.masks[at]
            # Copies may share a tile; a unit column has to be sound at every word line it measures.
            free = mask[:, : self.columns] & mask[:, self.columns :].all(axis=1, keepdims=True)
            lines = _clear(free, height, width)
            if lines is not None:
                rows, columns = lines
                mask[np.ix_(rows, columns)] = False
                if self.own_references:
                    mask[rows, self.columns :] = False
                self.free[at] = int(mask.sum())
                return Spot(*at, rows, columns)
        return None


def _clear(free: Mask, height: int, width: int) -> tuple[I64, I64] | None:
    """``height`` rows and ``width`` columns with nothing in the way at their crossings, or None."""
    rows, columns = np.flatnonzero(free.any(axis=1)), np.flatnonzero(free.any(axis=0))
    while len(rows) >= height and len(columns) >= width:
        blocked = ~free[np.ix_(rows, columns)]
        in_row, in_column = blocked.sum(axis=1), blocked.sum(axis=0)
        if not in_row.any():
            return rows[:height], columns[:width]
        # Where lines can be spared on one side only, they are taken there.
        row_first = len(columns) == width or (len(rows) > height and in_row.max() > in_column.max())
        if row_first:
            rows = np.delete(rows, int(in_row.argmax()))
        else:
            columns = np.delete(columns, int(in_column.argmax()))
    return None
