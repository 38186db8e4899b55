"""The arrays of a chip: their blocks, how full they are, and what their devices hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from cimc.ir.blocks import CHIP, COLUMN, HEIGHT, ROW, TILE, WIDTH, placed_table
from cimc.ir.program import Program
from cimc.pages.parts import Box, Drawing, Kind, Map, Section, Table
from cimc.report.drawn import short

#: Arrays and blocks of a drawing, maps of a page, cells of all its maps at most.
MOST_ARRAYS, MOST_BLOCKS, MOST_MAPS, MOST_CELLS = 240, 3000, 48, 1 << 24
#: Colours of layers.
COLOUR_COUNT = 8
_SIDE, _GAP, _TEXT, _ACROSS = 104.0, 18.0, 34.0, 7


@dataclass(frozen=True)
class Block:
    """The part of a layer that lies on an array."""

    layer: str
    row: int
    column: int
    height: int
    width: int


@dataclass(frozen=True)
class ArrayView:
    """One physical array."""

    chip: int
    tile: int
    rows: int
    columns: int
    blocks: Sequence[Block]

    @property
    def cells(self) -> int:
        """Cells of its blocks."""
        return sum(block.height * block.width for block in self.blocks)

    @property
    def utilisation(self) -> float:
        """Share of its cells that lie in blocks."""
        return self.cells / (self.rows * self.columns)

    @property
    def name(self) -> str:
        return f"chip {self.chip}, array {self.tile}"


def arrays_of(program: Program) -> list[ArrayView]:
    """The arrays of a placed program, in order; empty where a layer has no place."""
    found: dict[tuple[int, int], list[Block]] = {}
    for layer in program.layers:
        table = placed_table(program, layer)
        if table is None:
            return []
        for row in table.tolist():
            place = (row[CHIP], row[TILE])
            found.setdefault(place, []).append(Block(layer.name, row[ROW], row[COLUMN], row[HEIGHT], row[WIDTH]))
    array = program.target.array
    views = []
    for (chip, tile), blocks in sorted(found.items()):
        rows = array.rows or max(block.row + block.height for block in blocks)
        columns = array.columns or max(block.column + block.width for block in blocks)
        views.append(ArrayView(chip, tile, rows, columns, blocks))
    return views


def with_map(arrays: Sequence[ArrayView]) -> list[ArrayView]:
    """The arrays that have a map on the page: the first ones, as long as there is room."""
    cells = np.cumsum([view.rows * view.columns for view in arrays[:MOST_MAPS]])
    return [view for view, total in zip(arrays, cells, strict=False) if total <= MOST_CELLS]


def arrays_section(
    arrays: Sequence[ArrayView],
    layers: Sequence[str],
    maps: Mapping[tuple[int, int], NDArray[np.float32]],
    held: str,
    prefix: str,
) -> Section | None:
    """The arrays as a drawing and a table; each that has a map opens it.

    Args:
        arrays: In order.
        layers: Names of all layers, which give the colours.
        maps: Conductances by chip and array, µS.
        held: What the maps show, in words; of a program without maps, why there are none.
        prefix: Of the maps' names.
    """
    if not arrays:
        return None
    made = []
    for view in arrays:
        values = maps.get((view.chip, view.tile))
        if values is not None:
            made.append(Map(f"{prefix}-{view.chip}-{view.tile}", view.name, _told(view, values, held), values))
    opens = {name for one in made if (name := one.name)}
    rows = [
        (view.chip, view.tile, f"{view.rows} × {view.columns}", len(view.blocks), _layers(view), 100 * view.utilisation)
        for view in arrays
    ]
    columns = ("chip", "array", "word lines × bit lines", "blocks", "layers", "cells in blocks, %")
    notes = [held] if held else []
    if made and len(made) < len(arrays):
        notes.append(f"The first {len(made)} of {len(arrays)} arrays have a map.")
    return Section("Arrays", notes, [_drawing(arrays, layers, opens, prefix)], [], [Table("Arrays in use", columns, rows)], made)


def _told(view: ArrayView, values: NDArray[np.float32], held: str) -> str:
    known = values[~np.isnan(values)]
    if not known.size:
        return "no device is in use"
    low, middle, high = np.quantile(known, (0.0, 0.5, 1.0))
    spread = f"lowest {low:.4g} µS, median {middle:.4g} µS, highest {high:.4g} µS"
    return f"{known.size} devices: {spread}. Layers: {_layers(view)}. {held}"


def _layers(view: ArrayView) -> str:
    names = list(dict.fromkeys(block.layer for block in view.blocks))
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + more


def _drawing(arrays: Sequence[ArrayView], layers: Sequence[str], opens: set[str], prefix: str) -> Drawing:
    number = {name: k for k, name in enumerate(layers)}
    boxes: list[Box] = []
    drawn, blocks = 0, 0
    for drawn, view in enumerate(arrays[:MOST_ARRAYS]):
        scale = _SIDE / max(view.rows, view.columns)
        x, y = _GAP + (drawn % _ACROSS) * (_SIDE + _GAP), _GAP + (drawn // _ACROSS) * (_SIDE + _GAP + _TEXT)
        name = f"{prefix}-{view.chip}-{view.tile}"
        label = f"{view.chip}.{view.tile}\n{100 * view.utilisation:.0f} % in use"
        about = f"{view.name}: {view.rows} × {view.columns}, {100 * view.utilisation:.1f} % in use by {_layers(view)}"
        outline = (view.columns * scale, view.rows * scale)
        boxes.append(Box(x, y, *outline, "array", label, about, opens=name if name in opens else ""))
        for block in view.blocks[: max(0, MOST_BLOCKS - blocks)]:
            at, size = (x + block.column * scale, y + block.row * scale), (block.width * scale, block.height * scale)
            boxes.append(Box(*at, *size, "layer", "", block.layer, number[block.layer] % COLOUR_COUNT))
            blocks += 1
    cut = f" The first {MOST_ARRAYS} of {len(arrays)} arrays." if len(arrays) > MOST_ARRAYS else ""
    cut += f" The first {MOST_BLOCKS} blocks." if blocks == MOST_BLOCKS else ""
    across, down = min(len(arrays), _ACROSS), ceil(min(len(arrays), MOST_ARRAYS) / _ACROSS)
    about = f"Each square is one array, with its blocks in the colours of their layers, to scale; CHIP.ARRAY stands below.{cut}"
    legend: tuple[tuple[Kind, int, str], ...] = tuple(("layer", k, short(name)) for k, name in enumerate(layers[:COLOUR_COUNT]))
    if len(layers) > COLOUR_COUNT:
        about += f" The {len(layers)} layers share {COLOUR_COUNT} colours in turn; an array's tooltip names its layers."
        legend = ()
    if opens:
        about += " Choose an array to see what its devices hold."
    width = _GAP + across * (_SIDE + _GAP)
    return Drawing("Arrays of the chip", about, width, _GAP + down * (_SIDE + _GAP + _TEXT), boxes, (), legend)
