"""What each device is to hold, by a program's weights or by what a chip's devices hold; a row slice at a time."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cimc.ir.encoding import Coefficients, encode, unit_goal_us
from cimc.ir.program import Layer, Program, weight_matrix
from cimc.runtime.arrays.devices import Devices
from cimc.targets.description import Target, Wires, figures_of

if TYPE_CHECKING:
    from cimc.runtime.chip import Chip

#: Figures that an image depends on: what a die must have in common with the description the image was made for.
PLATFORM = (
    "array.rows", "array.columns", "array.tiles_per_chip", "array.unit_column", "device.kind", "device.g_min_us",
    "device.g_max_us", "device.levels", "device.read_voltage_v", "weights.representation", "weights.bits", "weights.cells",
    "dac.bits", "dac.signed", "adc.bits", "adc.range_ua", "adc.conversion", "adc.flipped", "adc.pair_read",
)  # fmt: skip
#: The same of a chip that has wires: currents of the self-test depend on them.
WIRED = tuple(f"array.wires.{name}" for name in Wires.model_fields if name != "solver")


class LayerGoals(Protocol):
    """What the devices of one layer are to hold."""

    def copy(self, copy: int) -> int:
        """The copy whose goals stand for those of this one."""

    def part(self, copy: int, group: int, row_slice: int) -> Devices:
        """Goals of one row slice of one group, as a layer of its own: one group, one slice, all its columns."""


class Goals(Protocol):
    """What the devices of each layer are to hold."""

    def of(self, layer: Layer) -> LayerGoals:
        """Those of one layer."""

    def shared_references(self) -> bool:
        """Whether layers that share a reference cell of a unit column want the same of it."""


@dataclass(frozen=True)
class ProgramGoals:
    """The conductances that a program's weights ask for."""

    program: Program

    def of(self, layer: Layer) -> LayerGoals:
        """See `Goals`."""
        weight_max = np.asarray(self.program.tensors[f"weight_max/{layer.name}"]).reshape(-1)
        return _Encoded(layer, self.program.target, weight_matrix(self.program, layer), weight_max)

    def shared_references(self) -> bool:
        """See `Goals`."""
        return True


@dataclass(frozen=True)
class _Encoded:
    layer: Layer
    target: Target
    matrix: NDArray[Any]
    weight_max: NDArray[Any]

    def copy(self, copy: int) -> int:
        return 0

    def part(self, copy: int, group: int, row_slice: int) -> Devices:
        layer, target = self.layer, self.target
        r0, r1 = layer.row_cuts[row_slice : row_slice + 2]
        largest = self.weight_max if self.weight_max.size == 1 else self.weight_max.reshape(layer.groups, -1)[group]
        encoded = encode(self.matrix[group : group + 1, r0:r1], largest, (0, r1 - r0), target)
        tiles = len(layer.column_cuts) - 1 if target.array.unit_column else 0
        unit = np.full((1, r1 - r0, tiles), unit_goal_us(target), np.float32)
        return Devices(encoded.g_us, unit, encoded.coefficients)


@dataclass(frozen=True)
class ChipGoals:
    """The conductances that a chip's devices hold at this moment."""

    chip: Chip

    def of(self, layer: Layer) -> LayerGoals:
        """See `Goals`."""
        return _Held(layer, self.chip.crossbars[layer.name].present)

    def shared_references(self) -> bool:
        """See `Goals`."""
        units = [crossbar.present[0].unit_g_us for crossbar in self.chip.crossbars.values()]
        return not any(np.ptp(unit) > 0 for unit in units if unit.size)


@dataclass(frozen=True)
class _Held:
    layer: Layer
    held: tuple[Devices, ...]

    def copy(self, copy: int) -> int:
        return min(copy, len(self.held) - 1)

    def part(self, copy: int, group: int, row_slice: int) -> Devices:
        devices, (r0, r1) = self.held[copy], self.layer.row_cuts[row_slice : row_slice + 2]
        g, s, c = slice(group, group + 1), slice(row_slice, row_slice + 1), devices.coefficients
        unit = None if c.unit is None else c.unit[g, s]
        step = c.weight_step.reshape(self.layer.groups, -1)[group]
        return Devices(devices.g_us[g, r0:r1], devices.unit_g_us[g, r0:r1], Coefficients(c.alpha[g, s], unit, step))


_YOUNGER = (("mapping.packing", "fast"),)


def target_sha256(target: Target) -> bytes:
    """Hash of a whole description, without where its figures come from.

    A field that is younger than the format counts where it differs from its default: hashes in older images stay right.
    """
    figures = {path: value for path, value in figures_of(target, written=True).items() if path != "description"}
    return _sha256({path: value for path, value in figures.items() if (path, value) not in _YOUNGER})


def platform(target: Target, *, written: bool = False) -> dict[str, object]:
    """The figures that a die must share with the image's target; ``written``: those that files hold."""
    figures = figures_of(target, written=written)
    return {path: figures[path] for path in (*PLATFORM, *WIRED) if path in figures}


def platform_sha256(target: Target) -> bytes:
    """Hash of `platform`."""
    return _sha256(platform(target, written=True))


def _sha256(figures: dict[str, object]) -> bytes:
    return hashlib.sha256(json.dumps(figures, sort_keys=True, separators=(",", ":")).encode()).digest()
