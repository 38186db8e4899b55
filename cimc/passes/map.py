"""``map``: from weight columns to device bit lines; gives every block its physical shape.

Example: a block of 25 rows and 4 weight columns is 25 word lines by 8 bit lines as differential pairs, 25 by 32 as
offset weights over 8 cells. The bit lines of one weight column lie side by side, in the order of `cimc.ir.encoding`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from cimc.errors import VerifyError
from cimc.ir.blocks import COLUMN_TILE, HEIGHT, I32, SLICE, WIDTH, block_shape, block_table, with_tables
from cimc.ir.verify_blocks import verify_blocks
from cimc.passes.base import Compilation, Pass


class Map(Pass):
    """Fills height and width of the block tables."""

    name: ClassVar[str] = "map"

    def requires(self, state: Compilation) -> None:
        """Raises VerifyError before `tile`."""
        need_tables(state)

    def call(self, state: Compilation) -> Sequence[str]:
        tables = need_tables(state)
        program = state.need_program()
        shaped = {}
        for layer in program.layers:
            table = tables[layer.name].copy()
            table[:, HEIGHT], table[:, WIDTH] = block_shape(layer, state.target, table[:, SLICE], table[:, COLUMN_TILE])
            shaped[layer.name] = table
        if shaped:
            state.program = with_tables(program, shaped)
        return list(shaped)

    def ensures(self, state: Compilation) -> None:
        """Raises VerifyError where a block is not as high and wide as its part of the matrix."""
        verify_blocks(state.need_program())

    def unchanged(self, state: Compilation) -> str:
        """There is no layer."""
        return "no layer is on crossbars"


def need_tables(state: Compilation) -> dict[str, I32]:
    """The block tables by layer; VerifyError for a layer that was not cut."""
    program = state.need_program()
    tables = {}
    for layer in program.layers:
        table = block_table(program, layer)
        if table is None:
            raise VerifyError("the layer is not cut to arrays yet", where=f"layer {layer.name}", fix="run pass `tile` before")
        tables[layer.name] = table
    return tables
