"""Reading block tables: field by field, copy by copy, and how many copies of a block one array holds.

Copies of a layer follow each other in its table: copy k is the k-th part of ``layer.crossbars`` rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cimc.errors import CimcError
from cimc.ir.records import BLOCK_FIELDS, Layer, ProgramRecord
from cimc.targets.description import Target

P = TypeVar("P", bound=ProgramRecord)
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

GROUP, SLICE, COLUMN_TILE, CHIP, TILE, ROW, COLUMN, HEIGHT, WIDTH = range(len(BLOCK_FIELDS))

#: Stands for a size without limit; sums of a few stay far inside int64.
UNLIMITED = 1 << 40


def block_table(program: ProgramRecord, layer: Layer) -> I32 | None:
    """The layer's table; None before `tile`."""
    table: I32 | None = program.tensors.get(f"blocks/{layer.name}")
    return table


def placed_table(program: ProgramRecord, layer: Layer) -> I32 | None:
    """The layer's table if every block has its place, else None."""
    table = block_table(program, layer)
    return table if table is not None and len(table) and bool((table[:, CHIP] >= 0).all()) else None


def with_tables(program: P, tables: Mapping[str, NDArray[Any]]) -> P:
    """The program with these block tables, by layer name."""
    named = {f"blocks/{name}": table for name, table in tables.items()}
    return program.model_copy(update={"tensors": {**program.tensors, **named}})


def block_shape(layer: Layer, target: Target, slices: NDArray[Any], column_tiles: NDArray[Any]) -> tuple[I64, I64]:
    """Word lines and device bit lines of the blocks of these slices and column tiles."""
    height = np.diff(np.asarray(layer.row_cuts, np.int64))[slices]
    tiles = np.array([target.device_columns(end - begin) for begin, end in pairwise(layer.column_cuts)], np.int64)
    width = tiles[column_tiles]
    return height, width


def reference_columns(layer: Layer, target: Target) -> int:
    """Columns of references of one group of a layer, over all its column tiles."""
    cuts = layer.column_cuts or (0, layer.columns)
    return sum(target.weights.reference_columns(end - begin) for begin, end in pairwise(cuts))


def copies_per_array(height: I64, width: I64, target: Target) -> I64:
    """Copies of each block that fit one array along its diagonal, each with word and bit lines of its own.

    Copies fire together, so an array with a unit column holds one only: that column would sum the inputs of them all.
    """
    if target.array.unit_column:
        return np.ones_like(height)
    rows, columns = target.array.rows or UNLIMITED, target.array.columns or UNLIMITED
    return np.maximum(1, np.minimum(rows // height, columns // width))


def check_copies(copies: Mapping[str, int], program: ProgramRecord) -> Mapping[str, int]:
    """The copies as they are; CimcError unless ``copies`` maps names of layers to whole numbers from 1."""
    if not isinstance(copies, Mapping):
        raise CimcError(f"{copies!r} is no table of copies", where="copies", fix='give a number for each layer, or "auto"')
    names = [layer.name for layer in program.layers]
    for name, count in copies.items():
        if name not in names:
            known = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise CimcError(f"no crossbar layer {name}", where="copies", fix=f"name one of: {known or 'there is none'}")
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise CimcError(f"{count!r} copies of layer {name}", where="copies", fix="give a whole number from 1")
    return copies
