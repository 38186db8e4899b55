"""From a placed program and the goals of its devices to the sections of an image."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.image.control import instructions, recipe, registers
from cimc.image.faults import FaultMap
from cimc.image.goals import platform_sha256, target_sha256
from cimc.image.layout import (
    CELL,
    CODES_PER_LEVEL,
    CODES_PER_WINDOW,
    CONVERTER,
    FAULTY,
    IDENTITY,
    LAYER,
    LINE,
    NAME,
    NO_HIGH,
    NO_LOW,
    NONE,
    PARK,
    REFERENCE,
    SEGMENT,
    SOURCES,
    SPARE,
    TILE,
    USE,
)
from cimc.image.placement import Spots
from cimc.image.selftest import vectors
from cimc.ir.blocks import COLUMN_TILE, GROUP, SLICE, block_table
from cimc.ir.cells import weight_indices
from cimc.ir.encoding import level_step_us
from cimc.ir.program import DigitalStep, Layer, Program
from cimc.runtime.fabricate import Devices
from cimc.targets.description import Target

Array = NDArray[Any]

#: Tensors of a program that an image carries as they are.
_KEPT = ("initializer/", "segment/", "scale/", "offset/", "weight_max/")


@dataclass
class Names:
    """Every name once, by number."""

    numbers: dict[str, int] = field(default_factory=dict)

    def __call__(self, name: str) -> int:
        return self.numbers.setdefault(name, len(self.numbers))

    def sections(self) -> dict[str, Array]:
        """``NAME`` and ``TEXT``."""
        texts = [name.encode() for name in self.numbers]
        table = np.zeros(len(texts), NAME)
        table["bytes"] = [len(text) for text in texts]
        table["offset"] = np.cumsum(table["bytes"]) - table["bytes"]
        return {"NAME": table, "TEXT": np.frombuffer(b"".join(texts), "u1")}


def build(
    program: Program,
    goals: Mapping[str, Devices],
    spots: Spots,
    *,
    faults: FaultMap | None,
    source: str,
    seed: int,
    die: str,
    about: Mapping[str, Any],
) -> dict[str, Array]:
    """All sections of an image.

    Args:
        program: For the image's target.
        goals: What the devices of each layer are to hold.
        spots: Where the segments are.
        faults: Of the die it is for; None: for any.
        source: One of `SOURCES`.
        seed: Of the chip it comes from.
        die: Name of the die; "" where it is for any.
        about: Further entries of the ``META`` section.
    """
    names = Names()
    for layer in program.layers:
        names(layer.name)
    weights = _held_as_cells(program)
    kept = {
        name: np.require(array, requirements="C")
        for name, array in program.tensors.items()
        if name == "graph" or (name.startswith(_KEPT) and name.removeprefix("initializer/") not in weights)
    }
    cells = _Cells.of(program, spots, faults)
    sections = cells.fill(program, goals, spots)
    sections |= instructions(program, names) | vectors(program, goals) | registers(program) | recipe(program.target)
    sections |= names.sections()
    sections["IDEN"] = _identity(program, faults, source, seed, die)
    meta = {
        "program": json.loads(program.model_dump_json()),
        "weights": {name: {"dtype": array.dtype.name, "shape": list(array.shape)} for name, array in weights.items()},
        "inputs": [value.model_dump(mode="json") for value in program.inputs],
        "outputs": [value.model_dump(mode="json") for value in program.outputs],
        **about,
    }
    sections["META"] = np.frombuffer(json.dumps(meta, separators=(",", ":")).encode(), "u1")
    from safetensors.numpy import save

    sections["TENS"] = np.frombuffer(save(kept), "u1")
    return sections


def _held_as_cells(program: Program) -> dict[str, Array]:
    """Initializers that the cells hold whole, and that nothing else reads: the image does not store them again."""
    read = {name for step in program.steps if isinstance(step, DigitalStep) for name in _segment_initializers(program, step)}
    read |= {value.name for value in (*program.inputs, *program.outputs)}
    covered: dict[str, Array] = {}
    for layer in program.layers:
        name = layer.weight.tensor
        tensor = program.tensors[f"initializer/{name}"]
        mask = covered.setdefault(name, np.zeros(tensor.size, np.bool_))
        indices = weight_indices(layer, tensor.shape)
        mask[indices[indices >= 0]] = True
    return {name: program.tensors[f"initializer/{name}"] for name, mask in covered.items() if mask.all() and name not in read}


def _segment_initializers(program: Program, step: DigitalStep) -> set[str]:
    import onnx

    model = onnx.ModelProto.FromString(program.tensors[f"segment/{step.name}"].tobytes())
    return {tensor.name for tensor in model.graph.initializer} | set(step.inputs)


def _identity(program: Program, faults: FaultMap | None, source: str, seed: int, die: str) -> Array:
    record = np.zeros(1, IDENTITY)
    target = program.target
    hashes = {
        "target_sha256": target_sha256(target),
        "platform_sha256": platform_sha256(target),
        "model_sha256": bytes.fromhex(program.provenance.model_sha256 or "00" * 32),
        "fault_map_sha256": faults.sha256 if faults else bytes(32),
    }
    texts = {"target_name": target.name, "die_id": die, "compiler": f"cimc {program.provenance.cimc_version}"}
    for name, value in (hashes | {name: text.encode() for name, text in texts.items()}).items():
        room = record[name].shape[1]
        record[name][0, : min(room, len(value))] = np.frombuffer(value[:room], "u1")
    record["has_fault_map"], record["source"], record["seed"] = faults is not None, SOURCES.index(source), seed
    return record


@dataclass
class _Cells:
    """The tiles in use, and their cells one tile after the other."""

    tiles: Array
    cells: Array
    index: dict[tuple[int, int], int]

    @classmethod
    def of(cls, program: Program, spots: Spots, faults: FaultMap | None) -> _Cells:
        target, every = program.target, [spot for some in spots.values() for spot in some]
        places = sorted({(spot.chip, spot.tile) for spot in every})
        array = target.array
        rows = array.rows or max((int(spot.rows.max()) + 1 for spot in every), default=0)
        columns = (array.columns or max((int(spot.columns.max()) + 1 for spot in every), default=0)) + array.unit_column
        tiles = np.zeros(len(places), TILE)
        tiles["chip"], tiles["tile"] = np.array(places, np.int64).reshape(-1, 2).T
        tiles["rows"], tiles["columns"] = rows, columns
        tiles["first_cell"] = np.arange(len(places)) * rows * columns
        base_us, step_us, per_level = code_grid(target)
        tiles["base_s"], tiles["step_s"], tiles["codes_per_level"] = base_us * 1e-6, step_us * 1e-6, per_level
        cells = np.zeros(len(places) * rows * columns, CELL)
        cells["low"], cells["high"], cells["use"] = NO_LOW, NO_HIGH, SPARE
        result = cls(tiles, cells, {place: k for k, place in enumerate(places)})
        for (chip, tile), k in result.index.items() if faults else ():
            result.grid(k)["use"][faults.dead(chip, tile, rows, columns) if faults else ()] = FAULTY
        return result

    def grid(self, tile: int) -> Array:
        """Cells of one tile, ``[rows, columns]``, a view."""
        record = self.tiles[tile]
        shape = int(record["rows"]), int(record["columns"])
        first = int(record["first_cell"])
        return self.cells[first : first + shape[0] * shape[1]].reshape(shape)

    def fill(self, program: Program, goals: Mapping[str, Devices], spots: Spots) -> dict[str, Array]:
        """Write goals and windows into the cells; returns what describes them."""
        layers: list[Array] = []
        segments: list[Array] = []
        converters: list[Array] = []
        lines: list[Array] = [np.zeros(0, LINE)]
        count = [0, 0]
        for number, layer in enumerate(program.layers):
            table = block_table(program, layer)
            if table is None:
                raise RuntimeError(f"layer {layer.name} has no blocks")
            layers.append(_layer(program, layer, number, len(segments), len(table)))
            void = _void(program, layer)
            for k, (block, spot) in enumerate(zip(table, spots[layer.name], strict=True)):
                record = np.zeros(1, SEGMENT)
                tile = self.index[spot.chip, spot.tile]
                r0, c0 = layer.row_cuts[block[SLICE]], layer.column_cuts[block[COLUMN_TILE]]
                unit = int(self.tiles[tile]["columns"]) - 1 if program.target.array.unit_column else NONE
                values = {
                    "layer": number, "copy": k // layer.crossbars, "group": block[GROUP], "row_slice": block[SLICE],
                    "column_tile": block[COLUMN_TILE], "tile_index": tile, "chip": spot.chip, "tile": spot.tile,
                    "height": len(spot.rows), "width": len(spot.columns), "first_row": r0, "first_column": c0,
                    "rows_at": count[0], "columns_at": count[0] + len(spot.rows), "converters_at": count[1], "unit_column": unit,
                }  # fmt: skip
                for name, value in values.items():
                    record[name] = value
                segments.append(record)
                lines += [spot.rows.astype(LINE), spot.columns.astype(LINE)]
                part = _converters(program.target, layer, goals[layer.name], record[0])
                converters.append(part)
                count = [count[0] + len(spot.rows) + len(spot.columns), count[1] + len(part)]
                self._write(program.target, goals[layer.name], record[0], spot.rows, spot.columns, void)
        for k in range(len(self.tiles)):
            grid = self.grid(k)
            self.tiles[k]["used"] = np.isin(grid["use"], (USE, PARK, REFERENCE)).sum()
            self.tiles[k]["crc32"] = zlib.crc32(np.ascontiguousarray(grid).tobytes())
        joined = {"LAYR": (layers, LAYER), "SEGM": (segments, SEGMENT), "CONV": (converters, CONVERTER)}
        described = {tag: np.concatenate([np.zeros(0, record), *parts]) for tag, (parts, record) in joined.items()}
        return described | {"LINE": np.concatenate(lines), "TILE": self.tiles, "CELL": self.cells}

    def _write(self, target: Target, goals: Devices, segment: np.void, rows: Array, columns: Array, void: Array) -> None:
        grid, planes = self.grid(int(segment["tile_index"])), target.planes
        g, (r, c) = int(segment["group"]), matrix_part(segment, planes)
        goal = goals.g_us[g, r, :, c].transpose(0, 2, 1).reshape(len(rows), len(columns))
        cells = _cells(goal, target)
        cells["use"] = np.where(void[g, r, c].repeat(planes, axis=1), PARK, USE)
        cells["plane"] = np.arange(len(columns)) % planes
        grid[np.ix_(rows, columns)] = cells
        if segment["unit_column"] != NONE:
            reference = _cells(goals.unit_g_us[g, r, int(segment["column_tile"])], target)
            reference["use"] = REFERENCE
            grid[rows, int(segment["unit_column"])] = reference


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


def _void(program: Program, layer: Layer) -> Array:
    """Places of the matrix that hold no weight, ``[groups, rows, columns]``."""
    return weight_indices(layer, program.tensors[f"initializer/{layer.weight.tensor}"].shape) < 0


def _layer(program: Program, layer: Layer, number: int, first: int, segments: int) -> Array:
    record, coding = np.zeros(1, LAYER), layer.coding
    values = {
        "name": number, "groups": layer.groups, "rows": layer.rows, "columns": layer.columns, "planes": program.target.planes,
        "row_slices": len(layer.row_cuts) - 1, "column_tiles": len(layer.column_cuts) - 1, "copies": segments // layer.crossbars,
        "first_segment": first, "segments": segments, "input_signed": coding.signed, "input_gain": coding.gain,
        "input_full_scale": np.nan if coding.full_scale is None else coding.full_scale,
        "adc_range_a": np.nan if layer.adc_range_ua is None else layer.adc_range_ua * 1e-6,
    }  # fmt: skip
    for name, value in values.items():
        record[name] = value
    return record


def _converters(target: Target, layer: Layer, goals: Devices, segment: np.void) -> Array:
    """A record for each bit line of a segment: how its conversions count."""
    planes, c = target.planes, goals.coefficients
    _, columns = matrix_part(segment, planes)
    g, s = int(segment["group"]), int(segment["row_slice"])
    records = np.zeros(int(segment["width"]), CONVERTER)
    alpha = c.alpha[g, s, :, columns].T.reshape(-1)
    records["gain"], records["sign"] = np.abs(alpha), np.sign(alpha)
    records["weight_step"] = c.weight_step.reshape(layer.groups, layer.columns)[g, columns].repeat(planes)
    records["weight_column"] = np.arange(columns.start, columns.stop).repeat(planes)
    records["plane"] = np.arange(len(records)) % planes
    records["adc_range_a"] = np.nan if layer.adc_range_ua is None else layer.adc_range_ua * 1e-6
    if c.unit is not None:
        records["unit_gain"] = np.where(records["plane"] == 0, c.unit[g, s, columns].repeat(planes), 0)
    return records
