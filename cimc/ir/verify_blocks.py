"""The rules of cuts and block tables, checked a table at a time: VGG-19 on 64x64 arrays has 70,000 blocks."""

from __future__ import annotations

from itertools import pairwise
from typing import NoReturn

import numpy as np

from cimc.errors import VerifyError
from cimc.ir.blocks import (
    CHIP,
    COLUMN,
    COLUMN_TILE,
    GROUP,
    HEIGHT,
    I32,
    I64,
    ROW,
    SLICE,
    TILE,
    UNLIMITED,
    WIDTH,
    block_shape,
    block_table,
)
from cimc.ir.records import BLOCK_FIELDS, Layer, ProgramRecord


def verify_blocks(program: ProgramRecord) -> None:
    """Check the cuts of every layer, its block table, then that no two blocks stand in each other's way.

    Raises:
        VerifyError: Cuts that do not rise from 0 to the size of the matrix, a weight mapped nowhere or twice within a copy, a
            block outside its tile, two blocks on one cell, blocks of one layer that fire together on one tile.
    """
    placed: list[tuple[int, I32]] = []
    for index, layer in enumerate(program.layers):
        _cuts(layer)
        table = block_table(program, layer)
        if table is None:
            # The blocks of a die around faults have gaps between their lines, which a table cannot say.
            if layer.row_cuts and f"state/{layer.name}/sites" not in program.tensors:
                _fail(layer, f"no tensor blocks/{layer.name}", "run pass `tile`")
            continue
        _covers(layer, table)
        at = table[:, CHIP : COLUMN + 1]
        if (table[:, [HEIGHT, WIDTH]] != -1).any() or (at != -1).any():
            _shapes(program, layer, table)
        if (at != -1).any():
            _inside(program, layer, table)
            placed.append((index, table))
    if placed:
        _apart(program, placed)


def _fail(layer: Layer, what: str, fix: str) -> NoReturn:
    raise VerifyError(what, where=f"layer {layer.name}", fix=fix)


def _name(block: I32) -> str:
    return f"block (group {block[GROUP]}, slice {block[SLICE]}, column tile {block[COLUMN_TILE]})"


def _cuts(layer: Layer) -> None:
    """Cuts rise from 0 to the size of the matrix, in both directions or in none."""
    for name, cuts, size in (("row_cuts", layer.row_cuts, layer.rows), ("column_cuts", layer.column_cuts, layer.columns)):
        if cuts and (len(cuts) < 2 or cuts[0] != 0 or cuts[-1] != size or any(b <= a for a, b in pairwise(cuts))):
            _fail(layer, f"{name} {cuts[:6]} do not rise from 0 to {size}", "run pass `tile` again")
    if bool(layer.row_cuts) != bool(layer.column_cuts):
        _fail(layer, "it is cut one way only", "run pass `tile` again")


def _covers(layer: Layer, table: I32) -> None:
    """Each copy holds each block once."""
    if not layer.row_cuts:
        _fail(layer, "blocks without cuts", "run pass `tile`")
    if not isinstance(table, np.ndarray) or table.dtype != np.int32 or table.ndim != 2 or table.shape[1] != len(BLOCK_FIELDS):
        _fail(layer, f"the block table is {table.dtype} {table.shape}", f"make it int32 [blocks, {len(BLOCK_FIELDS)}]")
    counts = np.array([layer.groups, len(layer.row_cuts) - 1, len(layer.column_cuts) - 1])
    blocks = int(counts.prod())
    which = table[:, [GROUP, SLICE, COLUMN_TILE]].astype(np.int64)
    strange = np.flatnonzero(((which < 0) | (which >= counts)).any(axis=1))
    if len(strange):
        _fail(layer, f"{_name(table[strange[0]])} is no part of the matrix", "run pass `tile` again")
    copies = max(1, -(-len(table) // blocks))
    copy = np.arange(len(table)) // blocks
    times = np.bincount(copy * blocks + np.ravel_multi_index(tuple(which.T), tuple(counts)), minlength=copies * blocks)
    for odd in np.flatnonzero(times != 1)[:1]:
        group, row_slice, column_tile = np.unravel_index(odd % blocks, tuple(counts))
        name = f"block (group {group}, slice {row_slice}, column tile {column_tile})"
        if times[odd]:
            _fail(layer, f"weights of {name} are mapped {times[odd]} times in copy {odd // blocks}", "keep one")
        _fail(layer, f"weights of {name} are mapped nowhere in copy {odd // blocks}", "add the block to the table")


def _shapes(program: ProgramRecord, layer: Layer, table: I32) -> None:
    """Blocks are as high and wide as their part of the matrix."""
    shape = np.stack(block_shape(layer, program.target, table[:, SLICE], table[:, COLUMN_TILE]), axis=1)
    for odd in np.flatnonzero((table[:, [HEIGHT, WIDTH]] != shape).any(axis=1))[:1]:
        height, width = table[odd, [HEIGHT, WIDTH]]
        what = f"{_name(table[odd])} is {height} x {width}, its part of the matrix {shape[odd, 0]} x {shape[odd, 1]}"
        _fail(layer, what, "run pass `map` again")


def _inside(program: ProgramRecord, layer: Layer, table: I32) -> None:
    """Every block has a place, inside an array of a tile that a chip has."""
    array = program.target.array
    rows, columns = array.rows or UNLIMITED, array.columns or UNLIMITED
    wide = table.astype(np.int64)
    for odd in np.flatnonzero((table[:, CHIP:] < 0).any(axis=1))[:1]:
        _fail(layer, f"{_name(table[odd])} has no place", "run pass `place` again")
    for odd in np.flatnonzero(wide[:, TILE] >= (array.tiles_per_chip or UNLIMITED))[:1]:
        _fail(
            layer,
            f"{_name(table[odd])} is on tile {table[odd, TILE]} of a chip of {array.tiles_per_chip}",
            "run pass `place` again",
        )
    outside = (wide[:, ROW] + wide[:, HEIGHT] > rows) | (wide[:, COLUMN] + wide[:, WIDTH] > columns)
    for odd in np.flatnonzero(outside)[:1]:
        row, column, height, width = (table[odd, k] for k in (ROW, COLUMN, HEIGHT, WIDTH))
        what = f"{_name(table[odd])} at {row}, {column}, {height} x {width}, leaves its tile of {rows} x {columns}"
        _fail(layer, what, "move it inside, or run pass `place` again")


def _apart(program: ProgramRecord, placed: list[tuple[int, I32]]) -> None:
    """Blocks of one tile are compared pair by pair: those k apart in the order of tiles, for each k that occurs."""
    blocks: I64 = np.concatenate([table for _, table in placed]).astype(np.int64)
    layer_of = np.concatenate([np.full(len(table), index) for index, table in placed])
    copy_of = np.concatenate([np.arange(len(table)) // program.layers[index].crossbars for index, table in placed])
    order = np.lexsort((blocks[:, TILE], blocks[:, CHIP]))
    blocks, layer_of, copy_of = blocks[order], layer_of[order], copy_of[order]
    tile = np.cumsum(np.any(np.diff(blocks[:, [CHIP, TILE]], axis=0, prepend=-1), axis=1))
    begin, end = blocks[:, [ROW, COLUMN]], blocks[:, [ROW, COLUMN]] + blocks[:, [HEIGHT, WIDTH]]
    one, gap = np.arange(len(blocks)), 0
    while True:
        gap += 1
        one = one[one + gap < len(blocks)]
        one = one[tile[one] == tile[one + gap]]
        if not len(one):
            return
        other = one + gap
        meets = (begin[one] < end[other]) & (begin[other] < end[one])  # rows, columns
        same = layer_of[one] == layer_of[other]
        unit = same & program.target.array.unit_column
        together = same & ((copy_of[one] == copy_of[other]) | meets.any(axis=1) | unit)
        for bad in np.flatnonzero(meets.all(axis=1))[:1]:
            a, b = (program.layers[layer_of[k[bad]]] for k in (one, other))
            what = f"{_name(blocks[one[bad]])} lies on cells of layer {b.name}, {_name(blocks[other[bad]])}"
            _fail(a, f"{what}, {_at(blocks[one[bad]])}", "move one of them, or run pass `place` again")
        for bad in np.flatnonzero(together)[:1]:
            a = program.layers[layer_of[one[bad]]]
            what = f"{_name(blocks[one[bad]])} and {_name(blocks[other[bad]])} fire together on {_at(blocks[one[bad]])}"
            fix = "put them on different tiles; copies may share one on word and bit lines of their own, without a unit column"
            _fail(a, what, fix)


def _at(block: I64) -> str:
    return f"chip {block[CHIP]}, tile {block[TILE]}"
