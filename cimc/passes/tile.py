"""``tile``: cut each layer's matrix to the size of the arrays.

Example: a 5x5 convolution of 4 channels to 12, 100 rows and 12 columns, on 64x64 arrays with differential pairs::

    rows 0 to 50 and 50 to 100 (two whole input channels a slice), columns 0 to 12

A dense layer, or ``mapping.split=rows``, is cut at every 64th row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from cimc.errors import FitError
from cimc.ir.blocks import COLUMN_TILE, GROUP, I32, SLICE, with_tables
from cimc.ir.program import BLOCK_FIELDS, Layer
from cimc.ir.verify_blocks import verify_blocks
from cimc.passes.base import Compilation, Pass
from cimc.targets.description import Target


class Tile(Pass):
    """Sets the row and column cuts of every layer and makes its block table, still without shapes and places."""

    name: ClassVar[str] = "tile"

    def requires(self, state: Compilation) -> None:
        """Raises FitError where one input channel of a kernel is taller than the array."""
        for layer in state.need_program().layers:
            _slice_rows(layer, state.target)

    def call(self, state: Compilation) -> Sequence[str]:
        program = state.need_program()
        layers = tuple(cut(layer, state.target) for layer in program.layers)
        if layers:
            program = with_tables(program, {layer.name: _table(layer) for layer in layers})
            state.program = program.model_copy(update={"layers": layers})
        return [layer.name for layer in layers]

    def ensures(self, state: Compilation) -> None:
        """Raises VerifyError where a matrix is not cut, or a part of it is not in the table once."""
        verify_blocks(state.need_program())

    def unchanged(self, state: Compilation) -> str:
        """There is no layer."""
        return "no layer is on crossbars"


def cut(layer: Layer, target: Target) -> Layer:
    """The layer with its cuts.

    Raises:
        FitError: One input channel of a kernel is taller than the array.
    """
    columns = target.array.columns
    step = layer.columns if columns is None else target.weight_columns(columns)
    return layer.model_copy(update={"row_cuts": row_cuts(layer, target), "column_cuts": _cuts(layer.columns, step)})


def row_cuts(layer: Layer, target: Target) -> tuple[int, ...]:
    """Where the rows of a layer are cut.

    Raises:
        FitError: One input channel of a kernel is taller than the array.
    """
    return _cuts(layer.rows, _slice_rows(layer, target))


def _slice_rows(layer: Layer, target: Target) -> int:
    """Rows of a full slice."""
    rows = target.array.rows
    if rows is None:
        return layer.rows
    if target.mapping.split == "rows":
        return rows
    if layer.channel_rows > rows:
        raise FitError(
            f"an input channel of {layer.channel_rows} rows > {rows} rows of an array of target {target.name}, "
            f"{layer.channel_rows - rows} rows too many",
            where=f"layer {layer.name}",
            fix=f"--set mapping.split=rows, or --set array.rows={layer.channel_rows}",
        )
    return rows // layer.channel_rows * layer.channel_rows


def _cuts(size: int, step: int) -> tuple[int, ...]:
    return (*range(0, size, step), size)


def _table(layer: Layer) -> I32:
    """A row for each group, slice and column tile, in this order; all else is -1."""
    counts = (layer.groups, len(layer.row_cuts) - 1, len(layer.column_cuts) - 1)
    table = np.full((layer.crossbars, len(BLOCK_FIELDS)), -1, np.int32)
    table[:, [GROUP, SLICE, COLUMN_TILE]] = np.indices(counts, np.int32).reshape(3, -1).T
    return table
