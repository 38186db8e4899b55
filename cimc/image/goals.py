"""What each device of a layer is to hold: from a program's weights, or from what a chip's devices hold."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np

from cimc.ir.encoding import encode, level_step_us
from cimc.ir.program import Layer, Program, weight_matrix
from cimc.runtime.fabricate import Devices
from cimc.targets.description import Target, figures_of

if TYPE_CHECKING:
    from cimc.runtime.chip import Chip

#: Figures that an image depends on: what a die must have in common with the description the image was made for.
PLATFORM = (
    "array.rows", "array.columns", "array.tiles_per_chip", "array.unit_column", "device.kind", "device.g_min_us",
    "device.g_max_us", "device.levels", "device.read_voltage_v", "weights.representation", "weights.bits", "weights.cells",
    "dac.bits", "dac.signed", "adc.bits", "adc.range_ua", "adc.conversion", "adc.flipped",
)  # fmt: skip


def goals_of_program(program: Program, layer: Layer) -> Devices:
    """The conductances that the layer's weights ask for, and how the digital side combines them."""
    target = program.target
    encoded = encode(weight_matrix(program, layer), program.tensors[f"weight_max/{layer.name}"], layer.row_cuts, target)
    tiles = len(layer.column_cuts) - 1 if target.array.unit_column else 0
    unit = np.full((layer.groups, layer.rows, tiles), target.device.g_min_us + level_step_us(target), np.float32)
    return Devices(encoded.g_us, unit, encoded.coefficients)


def goals_of_chip(chip: Chip, layer: Layer) -> Devices:
    """The conductances that the layer's devices hold at this moment."""
    crossbar = chip._crossbars[layer.name]
    return Devices(crossbar.g_us, crossbar.unit_g_us, crossbar.coefficients)


def target_sha256(target: Target) -> bytes:
    """Hash of a whole description, without where its figures come from."""
    return _sha256({path: value for path, value in figures_of(target).items() if path != "description"})


def platform(target: Target) -> dict[str, object]:
    """The figures that a die must share with the image's target."""
    figures = figures_of(target)
    return {path: figures[path] for path in PLATFORM}


def platform_sha256(target: Target) -> bytes:
    """Hash of `platform`."""
    return _sha256(platform(target))


def _sha256(figures: dict[str, object]) -> bytes:
    return hashlib.sha256(json.dumps(figures, sort_keys=True, separators=(",", ":")).encode()).digest()
