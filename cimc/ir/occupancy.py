"""What the tiles of a placed program hold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cimc.ir.blocks import CHIP, I64, TILE, placed_table
from cimc.ir.program import Layer, Program, polarities


def firings(program: Program, layer: Layer) -> int | None:
    """Firings of the layer for one image, all copies together; None where the positions of a step are not known."""
    total = 0
    for step in program.vmm_steps:
        if step.layer == layer.name:
            if step.positions is None:
                return None
            total += step.positions
    return total * polarities(layer, program.target)


def share(ops: int, copies: int) -> int:
    """Firings of one copy, where copies share the firings of a layer."""
    return -(-ops // copies)


def placed_copies(program: Program) -> dict[str, int]:
    """Copies by layer, of the layers that have their place."""
    tables = {layer: placed_table(program, layer) for layer in program.layers}
    return {layer.name: len(table) // layer.crossbars for layer, table in tables.items() if table is not None}


def tiles_in_use(program: Program) -> I64 | None:
    """``[tiles, 2]``: chip and tile of every tile in use, in order; None unless all layers have their place."""
    tables = [placed_table(program, layer) for layer in program.layers]
    placed = [table[:, [CHIP, TILE]].astype(np.int64) for table in tables if table is not None]
    if len(placed) < len(tables):
        return None
    return np.unique(np.concatenate([np.zeros((0, 2), np.int64), *placed]), axis=0)


def busiest_tile(program: Program, ops: Mapping[str, int]) -> int | None:
    """Firings for one image of the tile that fires most; None unless all layers have their place.

    All blocks that a layer has on a tile, copies of one another, fire at once; layers there take turns.

    Args:
        program: Placed.
        ops: Firings of each layer for one image, one copy doing them all.
    """
    tiles = tiles_in_use(program)
    if tiles is None:
        return None
    span = int(tiles[:, 1].max(initial=0)) + 1
    number, copies = tiles[:, 0] * span + tiles[:, 1], placed_copies(program)
    load = np.zeros(len(tiles), np.int64)
    for layer in program.layers:
        table = placed_table(program, layer)
        if table is not None:
            at = np.searchsorted(number, table[:, CHIP].astype(np.int64) * span + table[:, TILE])
            load[np.unique(at)] += share(ops[layer.name], copies[layer.name])
    return int(load.max(initial=0))
