"""An inference-chip image in memory: its records, and the program in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cimc.arguments import checked, named, within
from cimc.errors import ArtifactError, VerifyError
from cimc.image.cells import matrix_part
from cimc.image.container import content_hash, signature
from cimc.image.layout import NO_HIGH, NO_LOW, NONE, SOURCES, USES
from cimc.image.sign import available
from cimc.image.store import created, forget, pieces
from cimc.ir.cells import weight_indices
from cimc.ir.encoding import Coefficients
from cimc.ir.program import BLOCK_FIELDS, Layer, Program
from cimc.runtime.arrays.devices import Devices
from cimc.runtime.cells import Sites
from cimc.targets.description import Target

Array = NDArray[Any]


@dataclass(frozen=True)
class ImageContent:
    """What an image says; `cimc.image.image.Image` is what users hold.

    Attributes:
        sections: Record arrays by tag, as `cimc.image.layout` describes them.
        meta: What the ``META`` section says.
        content: The file's bytes; of a file that was read, or written directly, a map of it.
        name: For messages.
    """

    sections: Mapping[str, Array]
    meta: Mapping[str, Any]
    content: memoryview
    name: str = "image"

    @property
    def data(self) -> bytes:
        """A copy of the file's bytes."""
        return bytes(self.content)

    @checked()
    def save(self, path: str | Path) -> None:
        """Write ``model.cimg``, whole or not at all.

        Raises:
            RunError: The file cannot be written.
        """
        with created(path, len(self.content)) as buffer:
            at = 0
            for piece in pieces(self.content):
                buffer[at : at + len(piece)] = piece
                forget(buffer)
                at += len(piece)

    @property
    def identity(self) -> np.void:
        """The ``IDEN`` record."""
        record: np.void = self.sections["IDEN"][0]
        return record

    @property
    def source(self) -> str:
        """``target`` or ``readback``."""
        return SOURCES[int(self.identity["source"])]

    @property
    def die(self) -> str:
        """Name of the die it is for; "" for any."""
        return text_of(self.identity["die_id"])

    @property
    def fault_map_sha256(self) -> str | None:
        """Hash of the fault map it was made for; None: any die."""
        identity = self.identity
        return identity["fault_map_sha256"].tobytes().hex() if identity["has_fault_map"] else None

    @property
    def sha256(self) -> str:
        """The hash that the file states of itself."""
        return content_hash(self.content)

    @property
    def signature(self) -> Literal["none", "checked", "not checked"]:
        """Whether the image is signed, and whether reading it checked that; without ``cryptography`` it cannot."""
        if signature(self.content) is None:
            return "none"
        return "checked" if available() else "not checked"

    @cached_property
    def compiled(self) -> Program:
        """The program, its crossbar weights as the cells' goals have them.

        Raises:
            ArtifactError: The image's hash is right, but its contents are not.
        """
        from safetensors import SafetensorError

        from cimc.ir.runnable import verify_models
        from cimc.ir.verify import verify

        try:
            program = self._compiled()
            if any(f"blocks/{layer.name}" in program.tensors for layer in program.layers):
                verify(program)
            else:  # lines with gaps have no block table; the records are checked already
                bare = tuple(layer.model_copy(update={"row_cuts": (), "column_cuts": ()}) for layer in program.layers)
                verify(program.model_copy(update={"layers": bare}))
            verify_models(program)
            return program
        except (SafetensorError, VerifyError, ValueError, KeyError, IndexError, TypeError, OverflowError) as error:
            raise ArtifactError(f"its program does not hold together: {error}", where=self.name, fix="export it again") from error

    def _compiled(self) -> Program:
        from safetensors.numpy import load

        program = self.outline
        tensors: dict[str, Array] = dict(load(self.sections["TENS"].tobytes()))
        for name, about in self.meta["weights"].items():
            tensors[f"initializer/{name}"] = np.zeros(about["shape"], about["dtype"])
        program = program.model_copy(update={"tensors": tensors})
        for number, layer in enumerate(program.layers):
            tensor = tensors[f"initializer/{layer.weight.tensor}"]
            if layer.weight.tensor not in self.meta["weights"]:
                continue
            held = self.goals(number).weights(layer.row_cuts, layer.column_cuts, program.target)
            held, indices = layer.repeats.averaged(held), weight_indices(layer.once, tensor.shape)
            tensor.reshape(-1)[indices[indices >= 0]] = held[indices >= 0]
        tables = [self._table(number) for number in range(len(self.layers))]
        if all(table is not None for table in tables):
            tensors |= {
                f"blocks/{layer.name}": table for layer, table in zip(self.layers, tables, strict=True) if table is not None
            }
        return program

    def _table(self, layer: int) -> NDArray[np.int32] | None:
        """The layer's block table, of all its copies; None where a segment's lines have gaps, which a table cannot say."""
        sites = self.sites(layer)
        return sites.table if sites.lines is None else None

    def number(self, layer: int | str) -> int:
        """The number of a layer that is given by its number, from 0, or by its name.

        Raises:
            CimcError: There is no such layer.
        """
        names = [about.name for about in self.layers]
        if isinstance(layer, str):
            return names.index(named(layer, names, "layer"))
        within("layer", layer, 0, len(names), open_high=True, whole=True)
        return layer

    @checked()
    def sites(self, layer: int | str) -> Sites:
        """Places of the segments of all copies of a layer.

        Raises:
            CimcError: There is no such layer.
        """
        rows: list[tuple[int, ...]] = []
        lines: list[Array] = [np.zeros(0, np.int32)]
        names = ("group", "row_slice", "column_tile", "chip", "tile")
        for copy in range(self.copies(layer)):
            for record, word, bit in self.segments(layer, copy):
                lines += [word.astype(np.int32), bit.astype(np.int32)]
                rows.append((*(int(record[name]) for name in names), int(word[0]), int(bit[0]), len(word), len(bit)))
        gaps = any((np.diff(line) != 1).any() for line in lines)
        table = np.array(rows, np.int32).reshape(-1, len(BLOCK_FIELDS))
        return Sites(table, np.concatenate(lines) if gaps else None)

    @cached_property
    def outline(self) -> Program:
        """The program without its tensors."""
        return Program.model_validate(self.meta["program"])

    @property
    def target(self) -> Target:
        """The chip it is for."""
        return self.outline.target

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Of the program, in the order of the ``LAYR`` records."""
        return self.outline.layers

    @checked()
    def grid(self, tile: int) -> Array:
        """Cells of the ``tile``-th tile in use, ``[rows, columns]``.

        Raises:
            CimcError: There is no such tile.
        """
        within("tile", tile, 0, len(self.sections["TILE"]), open_high=True, whole=True)
        record = self.sections["TILE"][tile]
        rows, columns, first = int(record["rows"]), int(record["columns"]), int(record["first_cell"])
        return self.sections["CELL"][first : first + rows * columns].reshape(rows, columns)

    @checked()
    def segments(self, layer: int | str, copy: int = 0) -> list[tuple[np.void, Array, Array]]:
        """Segments of one copy of a layer, each with its word lines and bit lines.

        Raises:
            CimcError: There is no such layer or copy.
        """
        found = []
        within("copy", copy, 0, self.copies(layer), open_high=True, whole=True)
        head = self.sections["LAYR"][self.number(layer)]
        first = int(head["first_segment"])
        records, lines = self.sections["SEGM"][first : first + int(head["segments"])], self.sections["LINE"]
        for record in records[records["copy"] == copy]:
            r, c = int(record["rows_at"]), int(record["columns_at"])
            found.append((record, lines[r : r + int(record["height"])], lines[c : c + int(record["width"])]))
        return found

    @checked()
    def cell(self, chip: int, tile: int, row: int, column: int) -> dict[str, Any]:
        """One cell: goal and window in µS, and what it is for.

        Raises:
            ArtifactError: The image has no such cell.
        """
        tiles = self.sections["TILE"]
        for k in np.flatnonzero((tiles["chip"] == chip) & (tiles["tile"] == tile)):
            record = tiles[k]
            if 0 <= row < record["rows"] and 0 <= column < record["columns"]:
                cell = self.grid(int(k))[row, column]
                return _cell(cell, float(record["base_s"]) * 1e6, float(record["step_s"]) * 1e6)
        raise ArtifactError(f"no cell at chip {chip}, tile {tile}, row {row}, column {column}", where=self.name)

    @checked()
    def copies(self, layer: int | str) -> int:
        """Copies of a layer that work at once.

        Raises:
            CimcError: There is no such layer.
        """
        return int(self.sections["LAYR"][self.number(layer)]["copies"])

    @property
    def devices(self) -> int:
        """Devices of all copies of all layers, without unit columns."""
        matrices = (layer.groups * layer.rows * layer.columns * self.copies(n) for n, layer in enumerate(self.layers))
        return self.target.planes * sum(matrices)

    @checked()
    def goals(self, layer: int | str, copy: int = 0) -> Devices:
        """What the devices of one copy of a layer are to hold, and how the digital side combines them.

        Raises:
            CimcError: There is no such layer or copy.
        """
        about, planes = self.layers[self.number(layer)], self.target.planes
        slices, tiles = len(about.row_cuts) - 1, len(about.column_cuts) - 1
        g_us = np.zeros((about.groups, about.rows, planes, about.columns), np.float32)
        has_unit = self.target.array.unit_column
        unit_g_us = np.zeros((about.groups, about.rows, tiles if has_unit else 0), np.float32)
        alpha = np.zeros((about.groups, slices, planes, about.columns))
        unit = np.zeros((about.groups, slices, about.columns)) if has_unit else None
        step = np.zeros((about.groups, about.columns))
        for record, grid, rows, columns in self._parts(layer, copy):
            g, s = int(record["group"]), int(record["row_slice"])
            r, c = matrix_part(record, planes)
            width = c.stop - c.start
            tile = self.sections["TILE"][record["tile_index"]]
            g_us[g, r, :, c] = microsiemens(_of_matrix(grid["code"], rows, columns, planes), tile)
            first = int(record["converters_at"])
            converters = self.sections["CONV"][first : first + width * planes].reshape(width, planes)
            alpha[g, s, :, c] = (converters["gain"] * converters["sign"]).T
            step[g, c] = converters["weight_step"][:, 0]
            if unit is not None and record["unit_column"] != NONE:
                unit[g, s, c] = converters["unit_gain"][:, 0]
                unit_g_us[g, r, int(record["column_tile"])] = microsiemens(grid[rows, int(record["unit_column"])]["code"], tile)
        forget(self.content)
        return Devices(g_us, unit_g_us, Coefficients(alpha, unit, step.reshape(-1)))

    @checked()
    def windows(self, layer: int | str, copy: int = 0) -> tuple[Array, Array]:
        """Acceptance window of each device, µS, ``[groups, rows, planes, columns]``; infinite where it has no end.

        Raises:
            CimcError: There is no such layer or copy.
        """
        about, planes = self.layers[self.number(layer)], self.target.planes
        low, high = (np.zeros((about.groups, about.rows, planes, about.columns), np.float32) for _ in range(2))
        for record, grid, rows, columns in self._parts(layer, copy):
            r, c = matrix_part(record, planes)
            tile = self.sections["TILE"][record["tile_index"]]
            for name, ends, none, infinite in (("low", low, NO_LOW, -np.inf), ("high", high, NO_HIGH, np.inf)):
                codes = _of_matrix(grid[name], rows, columns, planes)
                ends[int(record["group"]), r, :, c] = np.where(codes == none, np.float32(infinite), microsiemens(codes, tile))
        return low, high

    def _parts(self, layer: int | str, copy: int) -> Iterator[tuple[np.void, Array, Array, Array]]:
        """The segments of one copy: record, the cells of its tile, word lines, bit lines."""
        for record, rows, columns in self.segments(layer, copy):
            yield record, self.grid(int(record["tile_index"])), rows, columns


def _of_matrix(grid: Array, rows: Array, columns: Array, planes: int) -> Array:
    """Values of a segment's cells as a part of the matrix, ``[rows, planes, columns]``."""
    part: Array = grid[np.ix_(rows, columns)].reshape(len(rows), -1, planes).transpose(0, 2, 1)
    return part


def microsiemens(code: Array, tile: np.void) -> NDArray[np.float32]:
    """Codes of a tile as conductances, µS."""
    # Base and step are stored in siemens; rounding to the float32 of a device takes the last bits of the conversion off.
    value: NDArray[np.float32] = (float(tile["base_s"]) * 1e6 + code * (float(tile["step_s"]) * 1e6)).astype(np.float32)
    return value


def _cell(cell: np.void, base_us: float, step_us: float) -> dict[str, Any]:
    """A cell in words; an end that its window does not have is None."""
    code, low, high = (int(cell[name]) for name in ("code", "low", "high"))
    return {
        "use": USES[int(cell["use"])],
        "code": code,
        "g_us": base_us + code * step_us,
        "low_us": None if low == NO_LOW else base_us + low * step_us,
        "high_us": None if high == NO_HIGH else base_us + high * step_us,
        "plane": int(cell["plane"]),
    }


def text_of(field: Array) -> str:
    """A zero-padded text field."""
    return field.tobytes().rstrip(b"\0").decode(errors="replace")
