"""Self-test: two input vectors a layer with the currents and codes that its bit lines must show, and how far they may be off.

A band is five standard deviations of what the target's own figures let expect (programming error or tolerance, faults,
read and converter noise), the mean programming error, and half a code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.image.goals import Goals
from cimc.image.layout import DRIVE, READ, VECTOR
from cimc.image.placement import Spots, sites_of_first_copy
from cimc.ir.encoding import level_step_us
from cimc.ir.program import Layer, Program
from cimc.ir.samples import keyed
from cimc.runtime.arrays.devices import Devices
from cimc.runtime.cells import Cells
from cimc.runtime.coding import Coding
from cimc.runtime.wires.layer import LayerWires
from cimc.targets.description import Target

Array = NDArray[Any]
SIGMAS = 5.0


@dataclass(frozen=True)
class Vectors:
    """``STVE`` and ``STDR``: vectors, and what drives the word lines; `fill` adds what the bit lines must show."""

    program: Program
    spots: Spots
    heads: Array
    drives: Array

    @classmethod
    def of(cls, program: Program, spots: Spots) -> Vectors:
        """The vectors of all layers, whose segments lie at ``spots``."""
        heads: list[Array] = [np.zeros(0, VECTOR)]
        drives: list[Array] = [np.zeros(0, DRIVE)]
        at = [0, 0]
        for number, layer in enumerate(program.layers):
            for drive in _drives(program.target, layer):
                head = np.zeros(1, VECTOR)
                head["layer"], head["phases"], head["inputs"] = number, len(drive), drive[0].size
                head["reads"] = layer.groups * (len(layer.row_cuts) - 1) * bit_lines(program.target, layer)
                head["inputs_at"], head["reads_at"] = at
                heads.append(head)
                drives.append(drive.reshape(-1))
                at = [at[0] + drive.size, at[1] + len(drive) * int(head["reads"][0])]
        return cls(program, spots, np.concatenate(heads), np.concatenate(drives))

    @property
    def reads(self) -> int:
        """Records of ``STRE``."""
        return int((self.heads["phases"].astype(np.int64) * self.heads["reads"]).sum())

    def fill(self, reads: Array, goals: Goals, after: Callable[[int], None]) -> None:
        """Write ``STRE``, by the goals of the first copies; ``after`` is told how many bytes were written."""
        sections = {"STVE": self.heads, "STDR": self.drives, "STRE": reads}
        for number, layer in enumerate(self.program.layers):
            source, vectors = goals.of(layer), tests_of(sections, number, layer)
            wires = self.program.target.array.wires
            sites = None if wires is None else sites_of_first_copy(self.program, layer, self.spots)
            cells = Cells(layer, self.program.target, 0, 0, sites)
            for g, s in np.ndindex(layer.groups, len(layer.row_cuts) - 1):
                part = source.part(source.copy(0), g, s)
                if wires is not None:
                    part = LayerWires(cells, wires, (g, s)).solve(part)
                for drive, shown in vectors:
                    shown[:, g, s] = _expected(self.program.target, layer, drive, part, g, s)
                    after(shown[:, g, s].nbytes)


def bit_lines(target: Target, layer: Layer) -> int:
    """Bit lines of one slice of one group, unit columns included."""
    return target.planes * layer.columns + (len(layer.column_cuts) - 1 if target.array.unit_column else 0)


def currents_ua(target: Target, layer: Layer, drive: Array, held: Devices) -> Array:
    """Noise-free currents of every bit line, µA, ``[phases, groups, slices, bit lines]``, unit columns last.

    Args:
        target: The chip.
        layer: The layer.
        drive: Share of the read voltage on each word line, ``[phases, groups, rows]``.
        held: What a read sees of the devices.
    """
    parts = [
        _slice_ua(target, drive[:, :, r0:r1], held.g_us[:, r0:r1], held.unit_g_us[:, r0:r1])
        for r0, r1 in pairwise(layer.row_cuts)
    ]
    return np.stack(parts, axis=2)


def _slice_ua(target: Target, drive: Array, g_us: Array, unit_g_us: Array) -> Array:
    """The same of one slice, ``[phases, groups, bit lines]``; all arrays its rows alone."""
    lines = np.concatenate([g_us.reshape(*g_us.shape[:2], -1), unit_g_us], axis=2).astype(np.float64)
    current: Array = np.einsum("pgr,grc->pgc", drive.astype(np.float64), lines) * target.device.read_voltage_v
    return current


def norms(layer: Layer, drive: Array) -> Array:
    """Root of the sum of squared drives of each slice, ``[phases, groups, slices, 1]``."""
    squares = [np.square(drive[:, :, r0:r1].astype(np.float64)).sum(axis=2) for r0, r1 in pairwise(layer.row_cuts)]
    root: Array = np.sqrt(np.stack(squares, axis=2))[..., None]
    return root


def _drives(target: Target, layer: Layer) -> list[Array]:
    """A quarter of full scale on every word line; a key's own codes on a third of them. ``[phases, groups, rows]``."""
    coding = Coding.of(target, layer)
    random = keyed("self-test", layer.name)
    size = layer.groups * layer.rows
    top = (1 << (coding.bits or 8)) - 1
    if layer.coding.signed and target.dac.signed != "two_phase":
        top >>= 1
    some = random.integers(0, top + 1, size) * (random.random(size) < 1 / 3)
    found = []
    for codes in (np.full(size, max(1, top // 4)), some):
        unit = codes / np.float64(coding.gain if coding.bits is not None else top)
        phases, _ = coding.apply(unit.astype(np.float64))
        record = np.zeros((len(phases), layer.groups, layer.rows), DRIVE)
        shaped = phases.reshape(record.shape)
        record["drive"] = shaped / coding.full
        record["code"] = np.rint(shaped).astype(np.int64) if coding.bits is not None else 0
        found.append(record)
    return found


def _expected(target: Target, layer: Layer, drive: Array, part: Devices, group: int, row_slice: int) -> Array:
    """Reads of one slice of one group, ``[phases, bit lines]``."""
    g, (r0, r1) = slice(group, group + 1), layer.row_cuts[row_slice : row_slice + 2]
    current = _slice_ua(target, drive["drive"][:, g, r0:r1], part.g_us, part.unit_g_us)[:, 0]
    band = bands_ua(target, layer, drive["drive"])[:, group, row_slice]
    lsb = lsb_ua(target, layer)
    record = np.zeros(current.shape, READ)
    record["current_a"] = current * 1e-6
    record["band_a"] = np.broadcast_to(band, current.shape) * 1e-6
    if lsb is None:
        record["code"], record["band"] = -1, -1
    else:
        top = (1 << (target.adc.bits or 0)) - 1
        record["code"] = np.clip(np.rint(current / lsb), 0, top)
        record["band"] = np.ceil(np.broadcast_to(band, current.shape) / lsb)
    return record


def lsb_ua(target: Target, layer: Layer) -> float | None:
    """Current of one output code; None without an ADC."""
    if target.adc.bits is None:
        return None
    if target.adc.conversion == "per_bit":
        return target.device.read_voltage_v * level_step_us(target)
    return None if layer.adc_range_ua is None else layer.adc_range_ua / ((1 << target.adc.bits) - 1)


def bands_ua(target: Target, layer: Layer, drive: Array) -> Array:
    """How far a sound bit line's current may be from the expected one, µA, ``[phases, groups, slices, 1]``."""
    device = target.device
    window = device.g_max_us - device.g_min_us
    faults = window * np.sqrt(device.stuck_low_rate + device.stuck_high_rate)
    written = max(device.programming.sigma_us, device.write_verify.tolerance_us or 0.0)
    if target.programmer is not None and target.programmer.spread_us is not None:
        written = target.programmer.spread_us
    spread = np.sqrt(device.read_spread_us**2 + written**2 + faults**2)
    sums = np.stack([drive[:, :, r0:r1].astype(np.float64).sum(axis=2) for r0, r1 in pairwise(layer.row_cuts)], axis=2)[..., None]
    shift = max(abs(device.programming.mean_us), (device.write_verify.tolerance_us or 0.0) / 2)
    lsb = lsb_ua(target, layer) or 0.0
    noise = SIGMAS * target.adc.sigma_lsb * lsb + lsb / 2
    band: Array = device.read_voltage_v * (SIGMAS * norms(layer, drive) * spread + sums * shift) + noise + 1e-9
    return band


@dataclass(frozen=True)
class SelfTest:
    """What a chip's self-test found."""

    reads: int
    outside: int
    """Reads outside their bands."""
    first: str
    """The first of them in words."""


def check(target: Target, layer: Layer, drive: Array, expected: Array, held: Devices, noise: Array) -> SelfTest:
    """Compare currents, read noise included, with what is expected.

    Args:
        target: The chip.
        layer: The layer.
        drive: ``DRIVE`` records, ``[phases, groups, rows]``.
        expected: ``READ`` records, ``[phases, groups, slices, bit lines]``.
        held: What a read sees of the devices.
        noise: Standard normal draws of the shape of ``expected``.
    """
    current = currents_ua(target, layer, drive["drive"], held)
    if held.variance_us2 is None:
        spread = target.device.read_sigma_us * norms(layer, drive["drive"])
    else:
        spread = np.sqrt(_variances(layer, drive["drive"], held))
    current = current + noise * target.device.read_voltage_v * spread
    off = np.abs(current * 1e-6 - expected["current_a"]) > expected["band_a"].astype(np.float64) * 1.001
    first = ""
    for p, g, s, c in np.argwhere(off)[:1]:
        want = expected[p, g, s, c]
        first = (
            f"group {g}, slice {s}, bit line {c}: {current[p, g, s, c]:.4g} µA, "
            f"expected {want['current_a'] * 1e6:.4g} ± {want['band_a'] * 1e6:.3g}"
        )
    return SelfTest(off.size, int(off.sum()), first)


def _variances(layer: Layer, drive: Array, held: Devices) -> Array:
    """Sum of squared drives times the variance of each device's read, µS², ``[phases, groups, slices, bit lines]``."""
    assert held.variance_us2 is not None
    own = held.variance_us2.reshape(*held.variance_us2.shape[:2], -1)
    lines = own if held.unit_variance_us2 is None else np.concatenate([own, held.unit_variance_us2], axis=2)
    squares = np.square(drive.astype(np.float64))
    return np.stack([np.einsum("pgr,grc->pgc", squares[:, :, a:b], lines[:, a:b]) for a, b in pairwise(layer.row_cuts)], axis=2)


def moved(target: Target, layer: Layer, drive: Array, expected: Array, first: Devices, own: Devices) -> Array:
    """What another copy of a layer must show: wires lower its currents by another share than those of the first copy.

    Args:
        target: The chip.
        layer: The layer.
        drive: As `check`.
        expected: Of the first copy, as `check`.
        first: Goals of the first copy as a read sees them.
        own: The same of the other copy.
    """
    shift = currents_ua(target, layer, drive["drive"], own) - currents_ua(target, layer, drive["drive"], first)
    expected = expected.copy()
    expected["current_a"] += shift * 1e-6
    return expected


def tests_of(sections: Mapping[str, Array], number: int, layer: Layer) -> list[tuple[Array, Array]]:
    """The self-test vectors of layer ``number``, shaped: what drives it, what is expected."""
    found = []
    for head in sections["STVE"]:
        if head["layer"] != number:
            continue
        phases, i, r = int(head["phases"]), int(head["inputs_at"]), int(head["reads_at"])
        drive = sections["STDR"][i : i + phases * int(head["inputs"])].reshape(phases, layer.groups, layer.rows)
        reads = sections["STRE"][r : r + phases * int(head["reads"])]
        found.append((drive, reads.reshape(phases, layer.groups, len(layer.row_cuts) - 1, -1)))
    return found
