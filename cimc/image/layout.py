"""The records of an inference-chip image: little-endian, packed, the same in numpy and in C (see ``docs/image-format.md``).

Conductances are codes: ``siemens = base_s + code * step_s``, with base and step in the tile's record. Where weights are
written at whole levels, ``codes_per_level`` codes are one level step. Not-a-number stands for a figure that is not known.
"""

from __future__ import annotations

from typing import Any

import numpy as np

VERSION = (1, 0)
#: Every section starts at a multiple of this.
ALIGN = 64
#: Header flag: a signature follows the hash.
SIGNED = 1
#: No such index.
NONE = 0xFFFF_FFFF

#: Codes of one level step where weights are whole levels, and of the whole window where they are continuous.
CODES_PER_LEVEL, CODES_PER_WINDOW = 1 << 12, 1 << 20
#: Ends of an acceptance window that has none.
NO_LOW, NO_HIGH = -(2**31), 2**31 - 1

#: What a cell is for.
SPARE, USE, PARK, FAULTY, REFERENCE = range(5)
USES = ("spare", "use", "park", "faulty", "reference")

#: What the image holds: the program's weights, or what the devices of a chip held.
SOURCES = ("target", "readback")

OPCODES = {"end": 0, "input": 1, "digital": 2, "vmm": 3, "barrier": 4, "output": 5}


def _record(*fields: tuple[Any, ...]) -> np.dtype[np.void]:
    return np.dtype(list(fields))


HEADER = _record(
    ("magic", "u1", (8,)), ("version_major", "<u2"), ("version_minor", "<u2"), ("header_bytes", "<u4"), ("file_bytes", "<u8"),
    ("sections", "<u4"), ("alignment", "<u4"), ("flags", "<u4"), ("crc32", "<u4"), ("reserved", "u1", (24,)),
)  # fmt: skip
SECTION = _record(
    ("tag", "u1", (4,)), ("record_bytes", "<u4"), ("offset", "<u8"), ("bytes", "<u8"), ("records", "<u4"), ("crc32", "<u4"),
)  # fmt: skip
SIGNATURE = _record(("public_key", "u1", (32,)), ("signature", "u1", (64,)), ("crc32", "<u4"), ("reserved", "u1", (28,)))

IDENTITY = _record(
    ("target_sha256", "u1", (32,)), ("platform_sha256", "u1", (32,)), ("model_sha256", "u1", (32,)),
    ("fault_map_sha256", "u1", (32,)), ("has_fault_map", "<u4"), ("source", "<u4"), ("seed", "<u8"),
    ("target_name", "u1", (112,)), ("die_id", "u1", (64,)), ("compiler", "u1", (32,)), ("reserved", "u1", (32,)),
)  # fmt: skip
NAME = _record(("offset", "<u4"), ("bytes", "<u4"))
LAYER = _record(
    ("name", "<u4"), ("groups", "<u4"), ("rows", "<u4"), ("columns", "<u4"), ("planes", "<u4"), ("row_slices", "<u4"),
    ("column_tiles", "<u4"), ("copies", "<u4"), ("first_segment", "<u4"), ("segments", "<u4"), ("input_signed", "<u4"),
    ("row_repeats", "<u4"), ("input_gain", "<f8"), ("input_full_scale", "<f8"), ("adc_range_a", "<f8"),
    ("column_repeats", "<u4"), ("repeated_reads", "<u4"),
)  # fmt: skip
#: Fields of a layer that say how often its rows and columns lie on crossbars, and how often an input is read; 0 is 1.
REPEATS = ("row_repeats", "column_repeats", "repeated_reads")
SEGMENT = _record(
    ("layer", "<u4"), ("copy", "<u4"), ("group", "<u4"), ("row_slice", "<u4"), ("column_tile", "<u4"), ("tile_index", "<u4"),
    ("chip", "<u4"), ("tile", "<u4"), ("height", "<u4"), ("width", "<u4"), ("first_row", "<u4"), ("first_column", "<u4"),
    ("rows_at", "<u4"), ("columns_at", "<u4"), ("converters_at", "<u4"), ("unit_column", "<u4"),
)  # fmt: skip
TILE = _record(
    ("chip", "<u4"), ("tile", "<u4"), ("rows", "<u4"), ("columns", "<u4"), ("first_cell", "<u8"), ("base_s", "<f8"),
    ("step_s", "<f8"), ("codes_per_level", "<u4"), ("crc32", "<u4"), ("used", "<u4"), ("reserved", "u1", (12,)),
)  # fmt: skip
CELL = _record(("code", "<i4"), ("low", "<i4"), ("high", "<i4"), ("use", "u1"), ("plane", "u1"), ("reserved", "<u2"))
CONVERTER = _record(
    ("gain", "<f8"), ("offset_a", "<f8"), ("weight_step", "<f8"), ("unit_gain", "<f8"), ("adc_range_a", "<f8"), ("sign", "<i4"),
    ("weight_column", "<u4"), ("plane", "<u4"), ("reserved", "u1", (12,)),
)  # fmt: skip
REGISTER = _record(("address", "<u4"), ("layer", "<u4"), ("value", "<f8"))
RECIPE = _record(
    ("kind", "<u4"), ("trials", "<u4"), ("start_v", "<f8"), ("stop_v", "<f8"), ("step_v", "<f8"), ("set_s", "<f8"),
    ("reset_s", "<f8"), ("doubling_v", "<f8"), ("tolerance_s", "<f8"), ("read_v", "<f8"), ("pulse_time_s", "<f8"),
    ("verify_time_s", "<f8"), ("pulse_energy_j", "<f8"), ("verify_energy_j", "<f8"), ("reserved", "u1", (24,)),
)  # fmt: skip
INSTRUCTION = _record(
    ("opcode", "<u2"), ("inputs", "<u2"), ("outputs", "<u2"), ("reserved", "<u2"), ("stage", "<u4"), ("target", "<u4"),
    ("name", "<u4"), ("first_operand", "<u4"), ("positions", "<u4"), ("reserved2", "<u4"),
)  # fmt: skip
VECTOR = _record(
    ("layer", "<u4"), ("phases", "<u4"), ("inputs", "<u4"), ("reads", "<u4"), ("inputs_at", "<u4"), ("reads_at", "<u4"),
    ("reserved", "<u8"),
)  # fmt: skip
DRIVE = _record(("drive", "<f4"), ("code", "<u4"))
READ = _record(("current_a", "<f4"), ("band_a", "<f4"), ("code", "<i4"), ("band", "<i4"))
LINE = np.dtype("<u4")
BYTE = np.dtype("u1")

#: Sections in the order of the file: tag -> record, name in the C header.
SECTIONS: dict[str, tuple[np.dtype[Any], str]] = {
    "IDEN": (IDENTITY, "identity"),
    "META": (BYTE, "json"),
    "NAME": (NAME, "name"),
    "TEXT": (BYTE, "text"),
    "LAYR": (LAYER, "layer"),
    "SEGM": (SEGMENT, "segment"),
    "LINE": (LINE, "line"),
    "CONV": (CONVERTER, "converter"),
    "TILE": (TILE, "tile"),
    "CELL": (CELL, "cell"),
    "REGI": (REGISTER, "setting"),
    "RECI": (RECIPE, "recipe"),
    "INST": (INSTRUCTION, "instruction"),
    "OPER": (LINE, "operand"),
    "STVE": (VECTOR, "vector"),
    "STDR": (DRIVE, "drive"),
    "STRE": (READ, "read"),
    "TENS": (BYTE, "tensors"),
}

#: Logical registers, in order of address. Units are those of the target description.
REGISTERS = (
    "array.rows", "array.columns", "array.unit_column", "device.g_min_us", "device.g_max_us", "device.levels",
    "device.read_voltage_v", "weights.bits", "weights.cells", "dac.bits", "adc.bits", "layer.input_gain", "layer.input_signed",
    "layer.adc_range_ua",
)  # fmt: skip
