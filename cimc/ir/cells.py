"""Which weight is which cell: what a flasher, a fault analysis or a curious reader needs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.arguments import checked
from cimc.errors import CimcError
from cimc.ir.blocks import CHIP, COLUMN, COLUMN_TILE, GROUP, HEIGHT, I64, ROW, SLICE, TILE, placed_table
from cimc.ir.records import Layer, ProgramRecord, to_matrix
from cimc.ir.weight_codes.registry import weight_code
from cimc.targets.description import Target


@checked()
def cells(program: ProgramRecord, layer_name: str, blocks: slice | None = None) -> NDArray[np.void]:
    """A record for each device that holds a weight of the layer, block by block, row by row.

    Cells that hold no weight (between packed groups, unit columns, references) are left out. Fields:

    ==========================  ========================================================================================
    ``weight``                  flat index into the ONNX initializer ``layer.weight.tensor``
    ``index``                   the same, one number an axis
    ``copy``                    copy of the layer
    ``chip``, ``tile``          where the device is
    ``row``, ``column``         word line and bit line in the tile
    ``sign``                    1 on a plus column, -1 on a minus column of a differential pair; 1 for other weights
    ``slice``                   bit slice: the device counts ``levels ** slice``
    ==========================  ========================================================================================

    Args:
        program: Placed.
        layer_name: Name of the layer.
        blocks: These rows of the layer's block table only, as a large layer's whole table takes 60 bytes a device.

    Raises:
        CimcError: No such layer, or it has no place yet.
    """
    layer = program.layer(layer_name)
    table = placed_table(program, layer)
    if table is None:
        raise CimcError("the layer has no place yet", where=f"layer {layer_name}", fix="compile up to pass `place`")
    shape = program.tensors[f"initializer/{layer.weight.tensor}"].shape
    matrix = weight_indices(layer, shape)
    copies = np.arange(len(table)) // layer.crossbars
    chosen = blocks or slice(None)
    parts = [
        _block(layer, program.target, matrix, shape, row, copy) for row, copy in zip(table[chosen], copies[chosen], strict=True)
    ]
    return np.concatenate([np.zeros(0, _dtype(len(shape))), *parts])


def weight_indices(layer: Layer, shape: tuple[int, ...]) -> I64:
    """``[groups, rows, columns]``: flat index into the initializer of that shape; -1 where packed groups leave zeros."""
    flat = np.arange(1, np.prod(shape, dtype=np.int64) + 1).reshape(shape)
    return np.asarray(to_matrix(layer, flat) - 1, np.int64)


def _dtype(rank: int) -> np.dtype[np.void]:
    places: list[Any] = [(name, np.int32) for name in ("copy", "chip", "tile", "row", "column")]
    return np.dtype([("weight", np.int64), ("index", np.int32, (rank,)), *places, ("sign", np.int8), ("slice", np.int8)])


def _block(
    layer: Layer, target: Target, matrix: I64, shape: tuple[int, ...], block: NDArray[np.int32], copy: int
) -> NDArray[np.void]:
    """Bit lines of a weight column lie side by side: the plus cells from the least significant up, then the minus cells."""
    planes, digits = target.planes, target.digits
    top, left = layer.row_cuts[block[SLICE]], layer.column_cuts[block[COLUMN_TILE]]
    part = matrix[block[GROUP], top : top + block[HEIGHT], left : layer.column_cuts[block[COLUMN_TILE] + 1]]
    row, column = np.nonzero(part >= 0)
    weight = part[row, column].repeat(planes)
    plane = np.tile(np.arange(planes), len(row))
    table = np.zeros(len(weight), _dtype(len(shape)))
    table["weight"] = weight
    table["index"] = np.stack(np.unravel_index(weight, shape), axis=1)
    table["copy"], table["chip"], table["tile"] = copy, block[CHIP], block[TILE]
    table["row"] = block[ROW] + row.repeat(planes)
    table["column"] = block[COLUMN] + column.repeat(planes) * planes + plane
    table["sign"] = np.copysign(1, weight_code(target).alpha)[plane]  # alpha of an array without a share is a signed 0
    table["slice"] = plane % digits
    return table
