"""Reading an image: nothing is used before hash, structure and every index in it are checked."""

from __future__ import annotations

import json
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from cimc.image.container import Bytes, crc32, damaged, unpack
from cimc.image.image import Image
from cimc.image.layout import CELL, CONVERTER, NONE, OPCODES, SOURCES, USES
from cimc.image.store import Forgetful, forget, mapped
from cimc.ir.program import Program

Array = NDArray[Any]

#: Cells looked at in one go.
_CELLS = 1 << 20


def load_image(path: str | Path) -> Image:
    """Read an image. The file stays mapped: it may be replaced while the image is in use, not changed in place.

    Raises:
        ArtifactError: No such file, no image, another format version, or damaged.
    """
    return read_image(mapped(path), str(path))


def read_image(data: Bytes, where: str = "image") -> Image:
    """The image in ``data``; raises ArtifactError as `load_image` does."""
    content = memoryview(data).toreadonly()
    sections = unpack(content, where)
    try:
        meta = json.loads(sections["META"].tobytes())
        program = Program.model_validate(meta["program"])
        _check_weights(meta["weights"], program)
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise damaged(where, "its description cannot be read") from error
    _check_records(sections, program, where)
    _check_cells(sections, where, Forgetful(content))
    forget(content)
    return Image(sections, meta, content, where)


def _check_cells(sections: dict[str, Array], where: str, after: Forgetful) -> None:
    """Uses that are known, and each tile's CRC-32."""
    cells = sections["CELL"]
    for number, tile in enumerate(sections["TILE"]):
        size, first = int(tile["rows"]) * int(tile["columns"]), int(tile["first_cell"])
        for begin in range(first, first + size, _CELLS):
            if (cells["use"][begin : min(begin + _CELLS, first + size)] >= len(USES)).any():
                raise damaged(where, "a cell has an unknown use")
        if crc32(cells[first : first + size].view("u1").data) != tile["crc32"]:
            raise damaged(where, f"the CRC-32 of tile {number} does not fit")
        after(size * CELL.itemsize)


def _check_weights(weights: dict[str, Any], program: Program) -> None:
    """Cuts cover each matrix, and no initializer is larger than the matrices that hold it; ValueError otherwise."""
    room: dict[str, int] = {}
    for layer in program.layers:
        for cuts, size in ((layer.row_cuts, layer.rows), (layer.column_cuts, layer.columns)):
            if len(cuts) < 2 or (cuts[0], cuts[-1]) != (0, size) or any(a >= b for a, b in pairwise(cuts)):
                raise ValueError(f"cuts of layer {layer.name}")
        room[layer.weight.tensor] = room.get(layer.weight.tensor, 0) + prod(layer.weight.shape)
    for name, about in weights.items():
        if np.dtype(about["dtype"]).kind not in "fV" or not 0 <= prod(about["shape"]) <= room[name]:
            raise ValueError(f"initializer {name}")


def _check_records(sections: dict[str, Array], program: Program, where: str) -> None:
    """Every index points into its section: a file with a right hash may still be made with bad intent."""

    def need(right: object, what: str) -> None:
        if not right:
            raise damaged(where, what)

    def inside(first: Array, count: Array, tag: str) -> bool:
        return bool((first.astype(np.int64) + count.astype(np.int64) <= len(sections[tag])).all())

    identity, layers, segments, tiles = (sections[tag] for tag in ("IDEN", "LAYR", "SEGM", "TILE"))
    need(len(identity) == 1 and identity["source"][0] < len(SOURCES) and len(sections["RECI"]) == 1, "its identity is incomplete")
    need(inside(sections["NAME"]["offset"], sections["NAME"]["bytes"], "TEXT"), "a name lies outside the texts")
    need(inside(tiles["first_cell"], tiles["rows"].astype(np.int64) * tiles["columns"], "CELL"), "a tile lies outside the cells")
    need(len(layers) == len(program.layers), "layers and program differ")
    need(inside(layers["first_segment"], layers["segments"], "SEGM"), "a layer lies outside the segments")
    for record, layer in zip(layers, program.layers, strict=True):
        shape = {"groups": layer.groups, "rows": layer.rows, "columns": layer.columns, "planes": program.target.planes}
        need(all(record[name] == size for name, size in shape.items()), f"layer {layer.name} has another shape")
        need(record["segments"] == int(record["copies"]) * layer.crossbars, f"layer {layer.name} has other segments")
        need(record["name"] < len(sections["NAME"]), "a layer has no name")
    need((segments["layer"] < len(layers)).all() and (segments["tile_index"] < len(tiles)).all(), "a segment belongs nowhere")
    for at, count, tag in (("rows_at", "height", "LINE"), ("columns_at", "width", "LINE"), ("converters_at", "width", "CONV")):
        need(inside(segments[at], segments[count], tag), f"a segment's {at.removesuffix('_at')} lie outside {tag}")
    for segment in segments:
        _check_segment(sections, segment, program, need)
    stream = sections["INST"]
    need(np.isin(stream["opcode"], list(OPCODES.values())).all(), "an unknown instruction")
    need(inside(stream["first_operand"], stream["inputs"].astype(np.int64) + stream["outputs"], "OPER"), "operands are missing")
    need((sections["OPER"] < len(sections["NAME"])).all(), "an operand has no name")
    tests = sections["STVE"]
    need((tests["layer"] < len(layers)).all(), "a self-test of no layer")
    need(inside(tests["inputs_at"], tests["inputs"].astype(np.int64) * tests["phases"], "STDR"), "self-test inputs are missing")
    need(inside(tests["reads_at"], tests["reads"].astype(np.int64) * tests["phases"], "STRE"), "self-test reads are missing")
    need(sections["CONV"].dtype == CONVERTER, "converters are missing")


def _check_segment(sections: dict[str, Array], segment: np.void, program: Program, need: Any) -> None:
    layer, tile = program.layers[int(segment["layer"])], sections["TILE"][int(segment["tile_index"])]
    here = f"a segment of layer {layer.name} "
    lines, r, c = sections["LINE"], int(segment["rows_at"]), int(segment["columns_at"])
    need(all(segment[name] == tile[name] < 1 << 31 for name in ("chip", "tile")), f"{here}is on another tile than it says")
    height, width, planes = int(segment["height"]), int(segment["width"]), program.target.planes
    within = (lines[r : r + height] < tile["rows"]).all() and (lines[c : c + width] < tile["columns"]).all()
    need(within, f"{here}leaves its tile")
    need(segment["unit_column"] in (NONE, int(tile["columns"]) - 1), f"{here}has its unit column elsewhere")
    part = int(segment["first_row"]) + height <= layer.rows and int(segment["first_column"]) + width // planes <= layer.columns
    counts = (layer.groups, len(layer.row_cuts) - 1, len(layer.column_cuts) - 1)
    which = tuple(int(segment[name]) for name in ("group", "row_slice", "column_tile"))
    part &= width % planes == 0 and all(k < n for k, n in zip(which, counts, strict=True))
    need(part, f"{here}is no part of its matrix")
