"""The fault map of a simulated die: which of its cells are stuck, as a test of every cell would find them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cimc.arguments import checked
from cimc.errors import CimcError, FitError
from cimc.image.faults import FaultMap
from cimc.image.image import Image
from cimc.ir.blocks import CHIP, TILE, placed_table
from cimc.ir.program import Program
from cimc.runtime.cells import grid_keys, may_be_stuck, stuck_us
from cimc.runtime.chip import Chip
from cimc.targets.description import Target
from cimc.targets.load import load_target


@checked()
def fault_map(
    source: Chip | Program | Image | Target | str | Path,
    seed: int | None = None,
    *,
    chips: int | None = None,
    tiles: int | None = None,
    die: str | None = None,
) -> FaultMap:
    """The stuck cells of the die of a seed, for `export_image(..., fault_map=)`.

    Args:
        source: Says which chip it is: a target by name, file or description, or what was made for one.
        seed: Of the die; None: that of the `Chip` given, else 0.
        chips: Chips to test; None: as many as ``source`` uses, at least 1.
        tiles: Arrays of a chip to test, from the first on; None: all, and where the chip has no limit, twice as many as
            ``source`` uses and 16 more.
        die: Its name in the map; None: target and seed.

    Raises:
        FitError: The arrays have no size.
        CimcError: An argument is out of range.
    """
    target = _target(source)
    array, used = target.array, _used(source)
    if seed is None:
        seed = source.seed if isinstance(source, Chip) else 0
    if array.rows is None or array.columns is None:
        what = "faults have places only in arrays of a known size"
        raise FitError(what, where=f"target {target.name}", fix="--set array.rows=... --set array.columns=...")
    for name, value, least in (("seed", seed, 0), ("chips", chips, 1), ("tiles", tiles, 1)):
        if value is not None and not (isinstance(value, int) and least <= value < 2**63):
            raise CimcError(f"{value!r} is no whole number from {least}", where=name)
    chips = max((chip for chip, _ in used), default=0) + 1 if chips is None else chips
    if tiles is None:
        tiles = array.tiles_per_chip or 2 * (max((tile for _, tile in used), default=0) + 1) + 16
    found = [np.zeros((0, 4), np.int64)]
    if may_be_stuck(target.device):
        for chip, tile in np.ndindex(chips, tiles):
            keys = grid_keys(seed, chip, tile, array.rows, array.columns + array.unit_column)
            dead = np.argwhere(~np.isnan(stuck_us(target.device, keys)))
            found.append(np.concatenate([np.full((len(dead), 2), (chip, tile)), dead], axis=1))
    return FaultMap.of(cells=np.concatenate(found), die=f"{target.name} {seed}"[:64] if die is None else die)


def _target(source: Chip | Program | Image | Target | str | Path) -> Target:
    if isinstance(source, Chip):
        return source.program.target
    return source.target if isinstance(source, Program | Image) else load_target(source)


def _used(source: object) -> set[tuple[int, int]]:
    """Chip and tile of each array in use."""
    if isinstance(source, Image):
        return {(int(tile["chip"]), int(tile["tile"])) for tile in source.sections["TILE"]}
    program = source.program if isinstance(source, Chip) else source
    if not isinstance(program, Program):
        return set()
    tables = [placed_table(program, layer) for layer in program.layers]
    return {(int(block[CHIP]), int(block[TILE])) for table in tables if table is not None for block in table}
