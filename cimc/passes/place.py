"""``place``: give every block a chip, a tile, and its first word line and bit line there.

Blocks of different layers share a tile where there is room; those of one layer never do, as they fire together. Copies
of a block are put along a diagonal, so that each has word lines and bit lines of its own.

Layers on one tile take turns. So a tile has a budget of firings for an image: those of the slowest layer with
``mapping.packing=fast``, more where the chips would not suffice otherwise; no limit with ``mapping.packing=dense``.

Example: LeNet's six blocks on 64x64 arrays. conv1 fires 576 times for an image, conv2 64 times, dense once::

    fast                                             dense
    tile 0   dense rows 0 to 64, conv2 channels 0, 1   the same, and conv1
    tile 1   dense rows 64 to 128, conv2 channels 2, 3 the same
    tile 2   dense rows 128 to 192                     the same
    tile 3   conv1
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cimc.errors import CimcError, FitError, VerifyError
from cimc.ir.blocks import (
    CHIP,
    COLUMN,
    HEIGHT,
    I32,
    I64,
    ROW,
    TILE,
    UNLIMITED,
    WIDTH,
    copies_per_array,
    with_tables,
)
from cimc.ir.copies import sensible_copies
from cimc.ir.occupancy import firings
from cimc.ir.program import Program
from cimc.ir.verify_blocks import verify_blocks
from cimc.passes.base import Compilation, Pass
from cimc.passes.map import need_tables
from cimc.targets.description import Target


@dataclass(frozen=True)
class Place(Pass):
    """First fit, tallest layers first, over the free rectangles of the tiles.

    Args:
        chips: As many chips as may be used; None: as many as it takes.
        copies: Copies of a layer's crossbars that work at once, by its name; absent: one.
        only_known: Leave out copies of layers that the program does not have, instead of refusing them.
    """

    chips: int | None = None
    copies: Mapping[str, int] = field(default_factory=dict)
    only_known: bool = False

    name: ClassVar[str] = "place"

    def requires(self, state: Compilation) -> None:
        """Raises CimcError for copies that make no sense or no chips, VerifyError before `map`."""
        for name, table in need_tables(state).items():
            if (table[:, [HEIGHT, WIDTH]] < 1).any():
                raise VerifyError("blocks have no shape yet", where=f"layer {name}", fix="run pass `map` before")
        if self.chips is not None and self.chips < 1:
            raise CimcError(f"{self.chips} chips", where="chips", fix="give at least one")
        sensible_copies(self._copies(state.need_program()), state.need_program())

    def _copies(self, program: Program) -> Mapping[str, int]:
        if not self.only_known:
            return self.copies
        return {layer.name: self.copies[layer.name] for layer in program.layers if layer.name in self.copies}

    def call(self, state: Compilation) -> Sequence[str]:
        program, target, chips = state.need_program(), state.target, self.chips
        copies = self._copies(program)
        tables = need_tables(state)
        crossbars = {layer.name: layer.crossbars for layer in program.layers}
        copied = {  # a table that already holds copies is cut back to one
            name: np.tile(tables[name][:count], (copies.get(name, 1), 1)) for name, count in crossbars.items()
        }
        shares = {layer.name: firings(program, layer, copies.get(layer.name, 1)) or 0 for layer in program.layers}
        per_chip = target.array.tiles_per_chip or UNLIMITED
        budget = max(shares.values(), default=0) if target.mapping.packing == "fast" else None
        tiles = _place(copied, crossbars, target, shares, budget)
        if budget is not None and chips is not None and tiles > chips * per_chip:
            tiles = _place_tighter(copied, crossbars, target, shares, budget, chips * per_chip)
        if chips is not None and tiles > chips * per_chip:
            raise _too_few(tiles, chips, per_chip, target, copied=any(n > 1 for n in copies.values()))
        for table in copied.values():
            table[:, CHIP], table[:, TILE] = np.divmod(table[:, TILE].astype(np.int64), per_chip)
        changed = [name for name, table in copied.items() if not np.array_equal(table, tables[name])]
        if changed:
            state.program = with_tables(program, copied)
        return changed

    def ensures(self, state: Compilation) -> None:
        """Raises VerifyError where a block has no place inside an array, or two blocks disturb each other."""
        verify_blocks(state.need_program())

    def unchanged(self, state: Compilation) -> str:
        """There is no layer, or each block has its place."""
        return "each block is in its place already" if state.need_program().layers else "no layer is on crossbars"


def _too_few(tiles: int, chips: int, per_chip: int, target: Target, *, copied: bool) -> FitError:
    """The error for tiles that the chips do not have, with what would help."""
    room, array = chips * per_chip, target.array
    levers = [f"--chips {-(-tiles // per_chip)}", f"--set array.tiles_per_chip={-(-tiles // chips)}"]
    levers += [f"--set array.rows={2 * array.rows}"] if array.rows else []
    levers += ["--set mapping.split=rows"] if target.mapping.split == "channels" else []
    levers += ["fewer copies"] if copied else []
    return FitError(
        f"{tiles} tiles > {room} tiles of {chips} chips with {per_chip} each, {tiles - room} tiles too many",
        where=f"target {target.name}",
        fix=", or ".join(levers),
    )


def _place_tighter(
    tables: dict[str, I32], crossbars: dict[str, int], target: Target, shares: dict[str, int], slow: int, room: int
) -> int:
    """As `_place`, with the smallest budget above ``slow`` found by bisection that takes at most ``room`` tiles, else without."""
    enough = sum(shares.values())  # as good as no budget
    while slow + 1 < enough:
        middle = (slow + enough) // 2
        if _place(tables, crossbars, target, shares, middle) <= room:
            enough = middle
        else:
            slow = middle
    return _place(tables, crossbars, target, shares, enough)


def _place(tables: dict[str, I32], crossbars: dict[str, int], target: Target, shares: dict[str, int], budget: int | None) -> int:
    """Fill tile (counted over all chips), row and column of the tables in place; returns the number of tiles.

    Args:
        tables: Block tables by layer, with all copies.
        crossbars: Blocks of one copy, by layer.
        target: The chip.
        shares: Firings of each copy for an image, by layer.
        budget: Most firings of a tile for an image; None: any.
    """
    floor = _Floor(target.array.rows or UNLIMITED, target.array.columns or UNLIMITED)
    order = sorted(tables, key=lambda name: (-tables[name][:, HEIGHT].max(), -tables[name][:, WIDTH].max()))
    for name in order:
        table, blocks = tables[name], crossbars[name]
        height, width = table[:, HEIGHT].astype(np.int64), table[:, WIDTH].astype(np.int64)
        bundle, rank = np.divmod(np.repeat(np.arange(len(table) // blocks), blocks), copies_per_array(height, width, target))
        # A bundle is the copies of one block on one tile; its leader is the first, and tells how many follow.
        key = bundle * blocks + np.tile(np.arange(blocks), len(table) // blocks)
        _, leaders, inverse, sizes = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
        room = None if budget is None else budget - shares[name]
        spots = floor.take(height[leaders] * sizes, width[leaders] * sizes, shares[name], room)[inverse]
        table[:, TILE] = spots[:, 0]
        table[:, ROW] = spots[:, 1] + rank * height
        table[:, COLUMN] = spots[:, 2] + rank * width
    return floor.tiles


class _Floor:
    """The free rectangles of all tiles begun: rows of tile, row, column, height, width."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns, self.tiles = rows, columns, 0
        self.free: I64 = np.zeros((0, 5), np.int64)
        self.load: I64 = np.zeros(0, np.int64)

    def take(self, heights: I64, widths: I64, firings: int, most: int | None) -> I64:
        """Places ``[n, 3]`` (tile, row, column) for rectangles that all need different tiles.

        Args:
            heights: ``[n]``.
            widths: ``[n]``.
            firings: What each adds to the load of its tile.
            most: Load up to which a tile that is in use takes one; None: any.
        """
        spots = np.zeros((len(heights), 3), np.int64)
        self.load = np.concatenate([self.load[: self.tiles], np.zeros(len(heights), np.int64)])
        used = self.load > (self.load.max(initial=0) if most is None else most)
        shapes, which = np.unique(np.stack([-heights, -widths], axis=1), axis=0, return_inverse=True)
        for k, (height, width) in enumerate(-shapes):
            wanted = np.flatnonzero(which.reshape(-1) == k)
            chosen = self._first_fit(height, width, len(wanted), used)
            spots[wanted] = self.free[chosen, :3]
            used[self.free[chosen, 0]] = True
            self.load[self.free[chosen, 0]] += firings
            self._cut(chosen, height, width)
        return spots

    def _first_fit(self, height: int, width: int, count: int, used: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Free rectangles, one a tile, the tiles begun first; new tiles for those that find none."""
        fits = np.flatnonzero((self.free[:, 3] >= height) & (self.free[:, 4] >= width) & ~used[self.free[:, 0]])
        chosen = fits[np.unique(self.free[fits, 0], return_index=True)[1][:count]]
        new = np.zeros((count - len(chosen), 5), np.int64)
        new[:, 0] = self.tiles + np.arange(len(new))
        new[:, 3:] = self.rows, self.columns
        chosen = np.concatenate([chosen, len(self.free) + np.arange(len(new))])
        self.free = np.concatenate([self.free, new])
        self.tiles += len(new)
        return chosen

    def _cut(self, chosen: NDArray[np.intp], height: int, width: int) -> None:
        """Take a corner of the chosen rectangles: the rest is a strip beside it, full height, and one below it."""
        beside, below = self.free[chosen], self.free[chosen]
        beside[:, 2] += width
        beside[:, 4] -= width
        below[:, 1] += height
        below[:, 3] -= height
        below[:, 4] = width
        rest = np.concatenate([np.delete(self.free, chosen, axis=0), beside, below])
        self.free = rest[(rest[:, 3] > 0) & (rest[:, 4] > 0)]
