"""What the tiles of a placed program hold."""

from __future__ import annotations

import numpy as np

from cimc.ir.blocks import CHIP, I64, TILE, placed_table
from cimc.ir.records import Layer, ProgramRecord, position_firings


def firings(program: ProgramRecord, layer: Layer, copies: int = 1) -> int | None:
    """Firings of each copy of the layer for one image, of the one that fires most; None where positions are not known.

    Copies share out the positions of a step. Steps of one position an image go to another copy for each image.
    """
    shared = single = 0
    for step in program.vmm_steps:
        if step.layer == layer.name:
            if step.positions is None:
                return None
            if step.positions == 1:
                single += 1
            else:
                shared += -(-step.positions // copies)
    return (shared - (-single // copies)) * position_firings(layer, program.target)


def placed_copies(program: ProgramRecord) -> dict[str, int]:
    """Copies by layer, of the layers that have their place."""
    tables = {layer: placed_table(program, layer) for layer in program.layers}
    return {layer.name: len(table) // layer.crossbars for layer, table in tables.items() if table is not None}


def tiles_in_use(program: ProgramRecord) -> I64 | None:
    """``[tiles, 2]``: chip and tile of every tile in use, in order; None unless all layers have their place."""
    tables = [placed_table(program, layer) for layer in program.layers]
    placed = [table[:, [CHIP, TILE]].astype(np.int64) for table in tables if table is not None]
    if len(placed) < len(tables):
        return None
    return np.unique(np.concatenate([np.zeros((0, 2), np.int64), *placed]), axis=0)


def busiest_tile(program: ProgramRecord) -> int | None:
    """Firings for one image of the tile that fires most; None unless all layers have their place and known positions.

    All blocks that a layer has on a tile, copies of one another, fire at once; layers there take turns.

    Args:
        program: Placed.
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
            fired = firings(program, layer, copies[layer.name])
            if fired is None:
                return None
            load[np.unique(at)] += fired
    return int(load.max(initial=0))
