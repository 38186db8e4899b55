"""Segments, converters and cells of an image: described at once, written a part of a layer at a time."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.image.faults import FaultMap
from cimc.image.goals import Goals
from cimc.image.layout import (
    CELL,
    CODES_PER_LEVEL,
    CODES_PER_WINDOW,
    CONVERTER,
    FAULTY,
    LAYER,
    LINE,
    NO_HIGH,
    NO_LOW,
    NONE,
    PARK,
    REFERENCE,
    REPEATS,
    SEGMENT,
    SPARE,
    TILE,
    USE,
)
from cimc.image.placement import Spot, Spots
from cimc.ir.blocks import COLUMN_TILE, GROUP, SLICE, block_table
from cimc.ir.cells import weight_indices
from cimc.ir.encoding import level_step_us
from cimc.ir.program import Layer, Program
from cimc.runtime.arrays.devices import Devices
from cimc.targets.description import Target

Array = NDArray[Any]


@dataclass(frozen=True)
class Board:
    """What describes the cells, without the cells: ``LAYR``, ``SEGM``, ``LINE`` and ``TILE``.

    ``TILE`` lacks what `fill` counts: CRC-32 and cells in use.
    """

    program: Program
    layers: Array
    segments: Array
    lines: Array
    tiles: Array
    faults: FaultMap | None

    @classmethod
    def of(cls, program: Program, spots: Spots, faults: FaultMap | None) -> Board:
        """The board of a program whose segments are at ``spots``."""
        tiles = _tiles(program.target, [spot for some in spots.values() for spot in some])
        index = {place: k for k, place in enumerate(zip(tiles["chip"].tolist(), tiles["tile"].tolist(), strict=True))}
        layers, segments = [np.zeros(0, LAYER)], [np.zeros(0, SEGMENT)]
        lines: list[Array] = [np.zeros(0, LINE)]
        at = [0, 0, 0]  # segments, lines, converters
        for number, layer in enumerate(program.layers):
            some = spots[layer.name]
            layers.append(_layer(program, layer, number, at[0], len(some)))
            records = _segments(program, layer, number, some, tiles, index)
            records["rows_at"] = at[1] + _starts(records["height"].astype(np.int64) + records["width"])
            records["columns_at"] = records["rows_at"] + records["height"]
            records["converters_at"] = at[2] + _starts(records["width"])
            segments.append(records)
            lines += [part.astype(LINE) for spot in some for part in (spot.rows, spot.columns)]
            height, width = int(records["height"].sum()), int(records["width"].sum())
            at = [at[0] + len(some), at[1] + height + width, at[2] + width]
        return cls(program, np.concatenate(layers), np.concatenate(segments), np.concatenate(lines), tiles, faults)

    @property
    def counts(self) -> dict[str, int]:
        """Records of the sections that `fill` writes."""
        return {"CONV": int(self.segments["width"].astype(np.int64).sum()), "CELL": _size(self.tiles)}

    def fill(self, converters: Array, cells: Array, goals: Goals, after: Callable[[int], None]) -> None:
        """Write ``CONV`` and ``CELL``, and complete ``TILE``.

        Args:
            converters: The section's records, all zero.
            cells: The same.
            goals: What the devices are to hold.
            after: Told how many bytes were written, now and then.
        """
        for number in range(len(self.tiles)):
            grid = self._grid(cells, number)
            grid["low"], grid["high"], grid["use"] = NO_LOW, NO_HIGH, SPARE
            if self.faults is not None:
                chip, tile = (int(self.tiles[number][name]) for name in ("chip", "tile"))
                grid["use"][self.faults.dead(chip, tile, *grid.shape)] = FAULTY
            after(grid.nbytes)
        for number, layer in enumerate(self.program.layers):
            void = _void(self.program, layer)
            for segment, part in self._parts(number, layer, goals):
                first, width = int(segment["converters_at"]), int(segment["width"])
                converters[first : first + width] = _converters(self.program.target, layer, part, segment)
                self._write(cells, part, segment, void)
                after(int(segment["height"]) * width * CELL.itemsize)
        for number, tile in enumerate(self.tiles):
            grid = self._grid(cells, number)
            tile["used"] = np.isin(grid["use"], (USE, PARK, REFERENCE)).sum()
            tile["crc32"] = zlib.crc32(grid.reshape(-1).view("u1").data)
            after(grid.nbytes)

    def _grid(self, cells: Array, tile: int) -> Array:
        """Cells of one tile, ``[rows, columns]``, a view."""
        record = self.tiles[tile]
        rows, columns, first = (int(record[name]) for name in ("rows", "columns", "first_cell"))
        return cells[first : first + rows * columns].reshape(rows, columns)

    def _parts(self, number: int, layer: Layer, goals: Goals) -> Iterator[tuple[np.void, Devices]]:
        """The layer's segments with the goals of their rows, so ordered that each goal is worked out once."""
        first, count = int(self.layers[number]["first_segment"]), int(self.layers[number]["segments"])
        segments = self.segments[first : first + count]
        source, key, part = goals.of(layer), None, None
        for k in np.lexsort((segments["copy"], segments["row_slice"], segments["group"])):
            segment: np.void = segments[k]
            wanted = source.copy(int(segment["copy"])), int(segment["group"]), int(segment["row_slice"])
            if part is None or wanted != key:
                key, part = wanted, source.part(*wanted)
            yield segment, part

    def _write(self, cells: Array, part: Devices, segment: np.void, void: Array | None) -> None:
        target, lines = self.program.target, self.lines
        grid, planes = self._grid(cells, int(segment["tile_index"])), target.planes
        rows, columns = (
            lines[int(segment[at]) :][: int(segment[count])] for at, count in (("rows_at", "height"), ("columns_at", "width"))
        )
        r, c = matrix_part(segment, planes)
        made = _cells(part.g_us[0, :, :, c].transpose(0, 2, 1).reshape(len(rows), len(columns)), target)
        made["use"] = USE
        if void is not None:
            made["use"][void[int(segment["group"]), r, c].repeat(planes, axis=1)] = PARK
        made["plane"] = np.arange(len(columns)) % planes
        grid[np.ix_(rows, columns)] = made
        if segment["unit_column"] != NONE:
            reference = _cells(part.unit_g_us[0, :, int(segment["column_tile"])], target)
            reference["use"] = REFERENCE
            grid[rows, int(segment["unit_column"])] = reference


def _starts(sizes: Array) -> Array:
    ends: Array = np.cumsum(sizes, dtype=np.int64)
    return ends - sizes


def _size(tiles: Array) -> int:
    return int((tiles["rows"].astype(np.int64) * tiles["columns"]).sum())


def _tiles(target: Target, spots: list[Spot]) -> Array:
    """A record for each tile in use."""
    places = sorted({(spot.chip, spot.tile) for spot in spots})
    array, tiles = target.array, np.zeros(len(places), TILE)
    tiles["chip"], tiles["tile"] = np.array(places, np.int64).reshape(-1, 2).T
    tiles["rows"] = array.rows or max((int(spot.rows.max()) + 1 for spot in spots), default=0)
    columns = array.columns or max((int(spot.columns.max()) + 1 for spot in spots), default=0)
    tiles["columns"] = columns + array.unit_column
    tiles["first_cell"] = _starts(tiles["rows"].astype(np.int64) * tiles["columns"])
    base_us, step_us, per_level = code_grid(target)
    tiles["base_s"], tiles["step_s"], tiles["codes_per_level"] = base_us * 1e-6, step_us * 1e-6, per_level
    return tiles


def _layer(program: Program, layer: Layer, number: int, first: int, segments: int) -> Array:
    record, coding = np.zeros(1, LAYER), layer.coding
    values = {
        "name": number, "groups": layer.groups, "rows": layer.rows, "columns": layer.columns, "planes": program.target.planes,
        "row_slices": len(layer.row_cuts) - 1, "column_tiles": len(layer.column_cuts) - 1, "copies": segments // layer.crossbars,
        "first_segment": first, "segments": segments, "input_signed": coding.signed, "input_gain": coding.gain,
        "input_full_scale": np.nan if coding.full_scale is None else coding.full_scale,
        **dict(zip(REPEATS, (layer.repeats.rows, layer.repeats.columns, layer.repeats.reads), strict=True)),
        "adc_range_a": np.nan if layer.adc_range_ua is None else layer.adc_range_ua * 1e-6,
    }  # fmt: skip
    for name, value in values.items():
        record[name] = value
    return record


def _segments(
    program: Program, layer: Layer, number: int, spots: list[Spot], tiles: Array, index: dict[tuple[int, int], int]
) -> Array:
    """The layer's segments; where their lines and converters are is still open."""
    table = block_table(program, layer)
    if table is None or len(table) != len(spots):
        raise RuntimeError(f"layer {layer.name} has not a place for each block")
    records = np.zeros(len(spots), SEGMENT)
    records["layer"], records["copy"] = number, np.arange(len(spots)) // layer.crossbars
    for name, column in (("group", GROUP), ("row_slice", SLICE), ("column_tile", COLUMN_TILE)):
        records[name] = table[:, column]
    records["first_row"] = np.array(layer.row_cuts)[table[:, SLICE]]
    records["first_column"] = np.array(layer.column_cuts)[table[:, COLUMN_TILE]]
    records["chip"], records["tile"] = [spot.chip for spot in spots], [spot.tile for spot in spots]
    records["tile_index"] = [index[spot.chip, spot.tile] for spot in spots]
    records["height"], records["width"] = [len(spot.rows) for spot in spots], [len(spot.columns) for spot in spots]
    records["unit_column"] = tiles["columns"][records["tile_index"]] - 1 if program.target.array.unit_column else NONE
    return records


def matrix_part(segment: np.void, planes: int) -> tuple[slice, slice]:
    """Rows and weight columns of a segment in its group's matrix."""
    r0, c0 = int(segment["first_row"]), int(segment["first_column"])
    return slice(r0, r0 + int(segment["height"])), slice(c0, c0 + int(segment["width"]) // planes)


def code_grid(target: Target) -> tuple[float, float, int]:
    """Conductance of code 0 and of one code step, µS, and codes of one level step; 0 where weights are continuous."""
    whole_levels = target.device.levels is not None and target.weights.rounded
    if whole_levels:
        return target.device.g_min_us, level_step_us(target) / CODES_PER_LEVEL, CODES_PER_LEVEL
    return target.device.g_min_us, (target.device.g_max_us - target.device.g_min_us) / CODES_PER_WINDOW, 0


def tolerance_us(target: Target) -> float | None:
    """How far from its goal a device may be: as write-verify has it, else half a level step; None where nothing is known."""
    if target.device.write_verify.tolerance_us is not None:
        return target.device.write_verify.tolerance_us
    return level_step_us(target) / 2 if target.device.levels is not None else None


def _cells(goal_us: Array, target: Target) -> Array:
    """Codes and windows; a goal at or below g_min has no lower end, as only too high a conductance does harm there."""
    base, step, _ = code_grid(target)
    cells = np.zeros(goal_us.shape, CELL)
    code = np.rint((goal_us.astype(np.float64) - base) / step)
    cells["code"] = np.clip(code, NO_LOW + 1, NO_HIGH - 1)
    tolerance = tolerance_us(target)
    reach = None if tolerance is None else round(tolerance / step)
    cells["low"] = NO_LOW if reach is None else np.where(code <= 0, NO_LOW, np.clip(code - reach, NO_LOW, NO_HIGH))
    cells["high"] = NO_HIGH if reach is None else np.clip(code + reach, NO_LOW, NO_HIGH)
    return cells


def _void(program: Program, layer: Layer) -> Array | None:
    """Places of the matrix that hold no weight, ``[groups, rows, columns]``; None where there are none."""
    if layer.group_packing == 1:
        return None
    return weight_indices(layer, program.tensors[f"initializer/{layer.weight.tensor}"].shape) < 0


def _converters(target: Target, layer: Layer, part: Devices, segment: np.void) -> Array:
    """A record for each bit line of a segment: how its conversions count."""
    planes, c = target.planes, part.coefficients
    _, columns = matrix_part(segment, planes)
    records = np.zeros(int(segment["width"]), CONVERTER)
    alpha = c.alpha[0, 0, :, columns].T.reshape(-1)
    records["gain"], records["sign"] = np.abs(alpha), np.sign(alpha)
    records["weight_step"] = c.weight_step[columns].repeat(planes)
    records["weight_column"] = np.arange(columns.start, columns.stop).repeat(planes)
    records["plane"] = np.arange(len(records)) % planes
    records["adc_range_a"] = np.nan if layer.adc_range_ua is None else layer.adc_range_ua * 1e-6
    if c.unit is not None:
        records["unit_gain"] = np.where(records["plane"] == 0, c.unit[0, 0, columns].repeat(planes), 0)
    return records
