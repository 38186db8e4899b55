"""What the devices of a program's chip hold, array by array."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import CimcError
from cimc.ir.blocks import CHIP, COLUMN, COLUMN_TILE, GROUP, HEIGHT, ROW, SLICE, TILE, placed_table
from cimc.ir.program import Layer, Program
from cimc.pages.arrays import ArrayView, with_map
from cimc.runtime.chip import Chip

Maps = dict[tuple[int, int], NDArray[np.float32]]
#: Devices of a program at most for which a die is made.
MOST_DEVICES = 1 << 23


def chip_for_maps(program: Program, seed: int | None) -> tuple[Chip | None, str]:
    """The chip that the program holds or a simulated die of ``seed``, and what that is in words; None: why there is none."""
    if program.loss is not None:
        return None, "The program is a training step, so there is no chip to show."
    copies = sum((program.tensors[name].size for name in program.tensors if name.startswith("blocks/")), 0)
    if not copies:
        return None, ""
    devices = program.cost().devices
    if devices > MOST_DEVICES:
        return None, f"No conductances: the program has {devices} devices, and a die is made for a page up to {MOST_DEVICES}."
    try:
        chip = Chip(program, seed)
    except CimcError as error:
        return None, f"No conductances: {error.what}."
    if "state/seed" in program.tensors:
        return chip, f"Conductances are those of the chip in the file, of seed {chip.seed}."
    return chip, f"Conductances are those of a simulated die, of seed {chip.seed}, right after it is programmed."


def conductance_maps(chip: Chip, arrays: list[ArrayView]) -> Maps:
    """``[word lines, bit lines]`` of the first arrays, µS; NaN where no device of a weight is. References are left out."""
    chosen = {(view.chip, view.tile): view for view in with_map(arrays)}
    maps = {place: np.full((view.rows, view.columns), np.nan, np.float32) for place, view in chosen.items()}
    for layer in chip.program.layers:
        table = placed_table(chip.program, layer)
        for number, row in enumerate([] if table is None else table):
            values = maps.get((int(row[CHIP]), int(row[TILE])))
            if values is None:
                continue
            g_us = chip.crossbars[layer.name].present[number // layer.crossbars].g_us
            part = _block(g_us, layer, row)
            top, left = int(row[ROW]), int(row[COLUMN])
            values[top : top + part.shape[0], left : left + part.shape[1]] = part
    return maps


def _block(g_us: NDArray[np.float32], layer: Layer, row: NDArray[Any]) -> NDArray[np.float32]:
    """Devices of a block as they lie on the array: the device columns of one weight column are neighbours."""
    top, left, right = layer.row_cuts[row[SLICE]], layer.column_cuts[row[COLUMN_TILE]], layer.column_cuts[row[COLUMN_TILE] + 1]
    height = int(row[HEIGHT])
    part = g_us[row[GROUP], top : top + height, :, left:right].transpose(0, 2, 1)
    return part.reshape(height, -1)
