"""Checks of an image's records: a file with a right hash may still be made with bad intent.

Every index points into its section, and what a layer takes in memory is no more than its cells in the file: tiles, layers and
copies follow each other without gap or overlap, and a segment is just the part of the matrix that its numbers say.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.image.cells import code_grid
from cimc.image.container import crc32, damaged
from cimc.image.layout import CELL, NONE, OPCODES, REPEATS, SOURCES, USES
from cimc.image.selftest import bit_lines
from cimc.image.store import Forgetful
from cimc.ir.program import DigitalStep, Layer, Program, VmmStep

Array = NDArray[Any]
Need = Callable[[object, str], None]

#: Cells looked at in one go.
_CELLS = 1 << 20
#: Types of initializers that cells stand for.
_REAL = ("float16", "float32", "float64", "bfloat16")


def check_program(program: Program, weights: dict[str, Any]) -> None:
    """What the image's description says, by itself.

    Args:
        program: Its program, without tensors.
        weights: Shape and dtype of the initializers that the cells hold.

    Raises:
        ValueError: Cuts that do not cover a matrix, an initializer larger than the matrices that hold it, a step that
            inference does not have.
    """
    room: dict[str, int] = {}
    for layer in program.layers:
        shape, pack = layer.weight.shape, layer.group_packing
        if min(shape) < 1 or shape[0] % pack:
            raise ValueError(f"shape of layer {layer.name}")
        for cuts, size in ((layer.row_cuts, layer.rows), (layer.column_cuts, layer.columns)):
            if len(cuts) < 2 or (cuts[0], cuts[-1]) != (0, size) or any(a >= b for a, b in pairwise(cuts)):
                raise ValueError(f"cuts of layer {layer.name}")
        room[layer.weight.tensor] = room.get(layer.weight.tensor, 0) + prod(shape)
    for name, about in weights.items():
        shape = about["shape"]
        sound = about["dtype"] in _REAL and all(isinstance(size, int) and size >= 0 for size in shape)
        if not sound or prod(shape) > room[name]:
            raise ValueError(f"initializer {name}")
    if not all(isinstance(step, VmmStep | DigitalStep) for step in program.steps):
        raise ValueError("steps of a training")


def check_records(sections: dict[str, Array], program: Program, where: str) -> None:
    """The records by themselves, by the program, and by each other; raises ArtifactError."""

    def need(right: object, what: str) -> None:
        if not right:
            raise damaged(where, what)

    def inside(first: Array, count: Array, tag: str) -> bool:
        return bool((first.astype(np.int64) + count.astype(np.int64) <= len(sections[tag])).all())

    identity = sections["IDEN"]
    need(len(identity) == 1 and identity["source"][0] < len(SOURCES) and len(sections["RECI"]) == 1, "its identity is incomplete")
    need(inside(sections["NAME"]["offset"], sections["NAME"]["bytes"], "TEXT"), "a name lies outside the texts")
    _check_tiles(sections, program, need)
    _check_layers(sections, program, need)
    segments = sections["SEGM"]
    for at, count, tag in (("rows_at", "height", "LINE"), ("columns_at", "width", "LINE"), ("converters_at", "width", "CONV")):
        need(inside(segments[at], segments[count], tag), f"a segment's {at.removesuffix('_at')} lie outside {tag}")
    for number, layer in enumerate(program.layers):
        _check_segments(sections, number, layer, program, need)
    area = np.zeros(len(sections["TILE"]))
    np.add.at(area, segments["tile_index"], segments["height"].astype(float) * segments["width"])
    tiles = sections["TILE"]
    need((area <= tiles["rows"].astype(float) * tiles["columns"]).all(), "a tile holds more segments than it has cells")
    stream = sections["INST"]
    need(np.isin(stream["opcode"], list(OPCODES.values())).all(), "an unknown instruction")
    need(inside(stream["first_operand"], stream["inputs"].astype(np.int64) + stream["outputs"], "OPER"), "operands are missing")
    need((sections["OPER"] < len(sections["NAME"])).all(), "an operand has no name")
    tests = sections["STVE"]
    need((tests["layer"] < len(program.layers)).all(), "a self-test of no layer")
    need((tests["phases"] > 0).all(), "a self-test without phases")
    for name, tag in (("inputs", "STDR"), ("reads", "STRE")):
        counts = tests[name].astype(object) * tests["phases"]
        need(all(int(at) + n <= len(sections[tag]) for at, n in zip(tests[f"{name}_at"], counts, strict=True)),
             f"self-test {name} are missing")  # fmt: skip
    for test in tests:
        layer = program.layers[int(test["layer"])]
        reads = layer.groups * (len(layer.row_cuts) - 1) * bit_lines(program.target, layer)
        size = (int(test["inputs"]), int(test["reads"]))
        need(size == (layer.groups * layer.rows, reads), f"a self-test of layer {layer.name} has another size")


def _check_tiles(sections: dict[str, Array], program: Program, need: Need) -> None:
    tiles, array = sections["TILE"], program.target.array
    sizes = tiles["rows"].astype(object) * tiles["columns"]
    starts = np.cumsum([0, *sizes])
    need((tiles["first_cell"] == starts[:-1]).all() and starts[-1] == len(sections["CELL"]), "a tile lies outside the cells")
    columns = None if array.columns is None else array.columns + array.unit_column
    need(array.rows is None or (tiles["rows"] == array.rows).all(), "a tile has other rows than its target")
    need(columns is None or (tiles["columns"] == columns).all(), "a tile has other columns than its target")
    base_us, step_us, per_level = code_grid(program.target)
    scale = [("base_s", base_us * 1e-6), ("step_s", step_us * 1e-6), ("codes_per_level", per_level)]
    need(all((tiles[name] == value).all() for name, value in scale), "a tile has another scale of conductances than its target")


def _check_layers(sections: dict[str, Array], program: Program, need: Need) -> None:
    layers, segments, first = sections["LAYR"], sections["SEGM"], 0
    need(len(layers) == len(program.layers), "layers and program differ")
    need((segments["tile_index"] < len(sections["TILE"])).all(), "a segment belongs nowhere")
    for number, (record, layer) in enumerate(zip(layers, program.layers, strict=True)):
        shape = {"groups": layer.groups, "rows": layer.rows, "columns": layer.columns, "planes": program.target.planes}
        need(all(record[name] == size for name, size in shape.items()), f"layer {layer.name} has another shape")
        repeats = [max(1, int(record[name])) for name in REPEATS]  # older images have 0 there
        need(repeats == [layer.repeats.rows, layer.repeats.columns, layer.repeats.reads], f"layer {layer.name} has other repeats")
        copies, count = int(record["copies"]), int(record["segments"])
        need(copies >= 1 and count == copies * layer.crossbars, f"layer {layer.name} has other segments")
        need(record["first_segment"] == first and first + count <= len(segments), "a layer lies outside the segments")
        need((segments["layer"][first : first + count] == number).all(), "a segment belongs nowhere")
        need(record["name"] < len(sections["NAME"]), "a layer has no name")
        first += count
    need(first == len(segments), "a segment belongs nowhere")


def _check_segments(sections: dict[str, Array], number: int, layer: Layer, program: Program, need: Need) -> None:
    """Of each copy all parts of the matrix, once, each on its tile."""
    here = f"a segment of layer {layer.name} "
    record: np.void = sections["LAYR"][number]
    first, count = int(record["first_segment"]), int(record["segments"])
    some, tiles = sections["SEGM"][first : first + count], sections["TILE"]
    rows, columns = np.array(layer.row_cuts), np.array(layer.column_cuts)
    names, counts = ("group", "row_slice", "column_tile"), (layer.groups, len(rows) - 1, len(columns) - 1)
    need(all((some[name] < n).all() for name, n in zip(names, counts, strict=True)), f"{here}is no part of its matrix")
    need((some["copy"] == np.arange(count) // layer.crossbars).all(), f"{here}is of another copy")
    part = np.ravel_multi_index(tuple(some[name].astype(np.int64) for name in names), counts)
    need((np.sort(part.reshape(-1, layer.crossbars), axis=1) == np.arange(layer.crossbars)).all(), f"{here}is there twice")
    r, c = some["row_slice"].astype(np.int64), some["column_tile"].astype(np.int64)
    shape = {
        "first_row": rows[r], "first_column": columns[c], "height": rows[r + 1] - rows[r],
        "width": (columns[c + 1] - columns[c]) * program.target.planes,
    }  # fmt: skip
    need(all((some[name] == value).all() for name, value in shape.items()), f"{here}is no part of its matrix")
    on = tiles[some["tile_index"]]
    same = all(((some[name] == on[name]) & (on[name] < 1 << 31)).all() for name in ("chip", "tile"))
    need(same, f"{here}is on another tile than it says")
    unit = np.where(program.target.array.unit_column, on["columns"] - np.uint32(1), np.uint32(NONE))
    need((some["unit_column"] == unit).all(), f"{here}has its unit column elsewhere")
    for segment, tile in zip(some, on, strict=True):
        spans = (("rows_at", "height", int(tile["rows"])), ("columns_at", "width", int(tile["columns"])))
        for at, size, limit in spans:
            lines = sections["LINE"][int(segment[at]) :][: int(segment[size])]
            need(len(lines) <= limit and (lines < limit).all(), f"{here}leaves its tile")
            need(len(np.unique(lines)) == len(lines), f"{here}has a line twice")


def check_cells(sections: dict[str, Array], where: str, after: Forgetful) -> None:
    """Uses that are known, and each tile's CRC-32; raises ArtifactError."""
    cells = sections["CELL"]
    for number, tile in enumerate(sections["TILE"]):
        size, first = int(tile["rows"]) * int(tile["columns"]), int(tile["first_cell"])
        for begin in range(first, first + size, _CELLS):
            if (cells["use"][begin : min(begin + _CELLS, first + size)] >= len(USES)).any():
                raise damaged(where, "a cell has an unknown use")
        if crc32(cells[first : first + size].view("u1").data) != tile["crc32"]:
            raise damaged(where, f"the CRC-32 of tile {number} does not fit")
        after(size * CELL.itemsize)
