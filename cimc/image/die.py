"""Writing an image into a die: its own faults, its own devices, its own errors.

The order is that of a bring-up: hash (when the image is read), platform, fault map, registers, program, calibrate, self-test.
What does not fit is refused by name. Every copy of a layer is written, has errors and faults of its own, and takes its share
of the positions (`cimc.runtime.copies`); calibration looks at the first. As in the compiled simulation, each layer has
reference cells of its own, also where the image lets two layers share a word line of a unit column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.arguments import checked
from cimc.errors import ArtifactError, CimcError, RunError
from cimc.image.content import ImageContent
from cimc.image.control import registers
from cimc.image.faults import FaultMap, as_fault_map
from cimc.image.goals import platform
from cimc.image.selftest import check, moved, tests_of
from cimc.ir.samples import keyed
from cimc.runtime import rng
from cimc.runtime.arrays.devices import Devices
from cimc.runtime.cells import Cells, Keys, born_on, cells_of
from cimc.runtime.chip import Chip
from cimc.runtime.devices.model import Arrays
from cimc.runtime.programmers.report import Report, Writes
from cimc.runtime.wires.layer import LayerWires
from cimc.runtime.write import Writer, device_seed
from cimc.targets.description import Target
from cimc.targets.kinds import kinds_of
from cimc.targets.load import load_target

Array = NDArray[Any]
#: Another name of the programmer ``direct``.
_DIRECT = "gaussian"


@dataclass(frozen=True)
class LayerReport:
    """What programming one layer came to, device by device, ``[groups, rows, planes, columns]``."""

    success: NDArray[np.bool_]
    """The last read lay in the device's window."""
    readback_us: NDArray[np.float32]
    """Conductance read afterwards, read noise included, µS."""
    pulses: NDArray[np.int32] | None
    """None where the programmer gives no pulses."""
    writes: Writes
    """Totals, unit columns included."""
    copies: tuple[LayerReport, ...] = ()
    """The same of the layer's further copies."""

    @property
    def all(self) -> tuple[LayerReport, ...]:
        """Of the layer's copies, one each."""
        return self, *self.copies


@dataclass(frozen=True)
class ProgrammingReport:
    """What programming a die came to."""

    method: str
    """Kind of the programmer, with gaussian for direct; none of an error-free die."""
    layers: Mapping[str, LayerReport]
    calibration: str
    """Where input gains and ADC ranges come from: the image, or data given with it."""
    selftest_reads: int
    selftest_outside: int

    @property
    def writes(self) -> Writes:
        """Totals over all layers and copies; None stands for what is not modelled."""
        return sum((_total(report) for report in self.layers.values()), Writes())

    def to_dict(self) -> dict[str, Any]:
        """Totals and figures by layer, without the arrays."""
        layers = {
            name: {
                "copies": len(r.all),
                "cells": sum(copy.success.size for copy in r.all),
                "success": sum(int(copy.success.sum()) for copy in r.all),
                **asdict(_total(r)),
            }
            for name, r in self.layers.items()
        }
        return {
            "method": self.method,
            "calibration": self.calibration,
            "success_share": _share(self.layers),
            "totals": asdict(self.writes),
            "layers": layers,
            "selftest": {"reads": self.selftest_reads, "outside": self.selftest_outside},
        }

    def arrays(self) -> dict[str, Array]:
        """Success masks, read-back and pulses by name, as for an npz; copy k from 1 on as ``LAYER/copy k/...``."""
        found: dict[str, Array] = {}
        for layer, first in self.layers.items():
            for copy, report in enumerate(first.all):
                name = f"{layer}/copy {copy}" if copy else layer
                found[f"{name}/success"], found[f"{name}/readback_us"] = report.success, report.readback_us
                if report.pulses is not None:
                    found[f"{name}/pulses"] = report.pulses
        return found


class Die(Chip):
    """A chip that an image was written into."""

    programming: ProgrammingReport


@checked()
def program_die(
    image: ImageContent,
    seed: int = 0,
    *,
    target: str | Path | Target | None = None,
    fault_map: str | Path | FaultMap | None = None,
    calibration: Mapping[str, Array] | None = None,
    programming: str = "auto",
    error_free: bool = False,
    advance: Callable[[int], None] | None = None,
) -> Die:
    """Write an image into a die.

    Args:
        image: From `load_image` or `export_image`.
        seed: Of the die.
        target: Description of the die, where it is not the image's: it may differ in noise, errors and faults only.
        fault_map: Of the die; must be the one that the image was made for.
        calibration: Input images by name, to choose input gains and ADC ranges anew on this die; None: those of the image.
        programming: Kind of a programmer: write_verify: pulse by pulse; gaussian or direct: errors drawn as
            ``device.programming`` says; or another, see docs/devices.md. auto: that of the target, by which `Chip` writes too.
        error_free: Every device takes its goal exactly, and none is faulty.
        advance: Told how many devices were written, a copy of a layer at a time; of all copies they are `Image.devices`.

    Returns:
        The chip; its ``programming`` is the report.

    Raises:
        ArtifactError: Platform, fault map or registers are not those of the image.
        CimcError: An unknown way of programming, or a seed out of range.
        TargetError: The target lacks figures that the programmer needs.
        RunError: The self-test fails.
    """
    described = image.target if target is None else load_target(target)
    check_platform(image, described)
    check_faults(image, fault_map)
    check_registers(image)
    program = image.compiled.model_copy(update={"target": described})
    die = Die(program, seed)
    method = _method(described, programming, error_free)
    reports: dict[str, LayerReport] = {}
    held: dict[str, tuple[Devices, ...]] = {}
    for number, layer in enumerate(image.layers):
        written = []
        cells = cells_of(program, layer, seed, image.sites(number))
        die.crossbars[layer.name].cells = cells
        for copy in range(image.copies(number)):
            written.append(_write(image, number, cells[copy], described, seed, method))
            if advance is not None:
                advance(written[-1][0].g_us.size)
        held[layer.name] = tuple(devices for devices, _ in written)
        first, *others = (report for _, report in written)
        reports[layer.name] = replace(first, copies=tuple(others))
    for name, devices in held.items():
        die.crossbars[name].hold(devices)
    if calibration is not None:
        die.calibrate(calibration)
    reads, outside = _self_test(image, die, error_free)
    basis = "image" if calibration is None else "data"
    die.programming = ProgrammingReport(method, reports, basis, reads, outside)
    return die


def check_platform(image: ImageContent, described: Target) -> None:
    ours, theirs = platform(image.target), platform(described)
    paths = dict.fromkeys([*ours, *theirs])
    differing = [f"{path} {theirs.get(path)} instead of {ours.get(path)}" for path in paths if theirs.get(path) != ours.get(path)]
    if differing:
        raise ArtifactError(
            f"the image is for chip {image.target.name}, not {described.name}: {', '.join(differing[:4])}"
            f"{' and more' if len(differing) > 4 else ''}",
            where=image.name,
            fix=f"cimc export M.cim --chip {described.name}",
        )


def check_faults(image: ImageContent, given: str | Path | FaultMap | None) -> None:
    faults = as_fault_map(given)
    if faults is None:
        return
    made_for = image.fault_map_sha256
    if made_for != faults.sha256.hex():
        what = "any die" if made_for is None else f"the fault map {made_for[:12]}{f' of die {image.die}' if image.die else ''}"
        name = f" of die {faults.die}" if faults.die else ""
        raise ArtifactError(
            f"the image was made for {what}, this is the fault map {faults.sha256.hex()[:12]}{name}",
            where=image.name,
            fix="cimc export M.cim --chip T --fault-map FAULTS.npz",
        )


def check_registers(image: ImageContent) -> None:
    """The registers that would be written are those that the program was compiled for."""
    expected = registers(image.compiled)["REGI"]
    found = image.sections["REGI"]
    if len(found) != len(expected) or found.tobytes() != expected.tobytes():
        raise ArtifactError("its registers are not those of its program", where=image.name, fix="export it again")


def _method(target: Target, wanted: str, error_free: bool) -> str:
    if error_free:
        return "none"
    if wanted not in (known := ("auto", _DIRECT, *kinds_of("programmer"))):
        raise CimcError(f"programming is {wanted!r}, not one of: {', '.join(known)}", where="image.program")
    chosen = target.chosen_programmer.kind if wanted == "auto" else wanted
    return _DIRECT if chosen == "direct" else chosen


def _write(image: ImageContent, number: int, cells: Cells, target: Target, seed: int, method: str) -> tuple[Devices, LayerReport]:
    """One copy of a layer, on cells of its own."""
    copy = cells.copy
    goals, name = image.goals(number, copy), image.layers[number].name
    if method == "none":
        success = np.ones(goals.g_us.shape, np.bool_)
        return goals, LayerReport(success, goals.g_us.copy(), None, _free(goals.g_us.size))
    kind = "direct" if method == _DIRECT else method
    key, own = device_seed(seed, name), (copy,) if copy else ()
    key = rng.key(key, "copy", copy) if copy else key
    made, done = _program(target, goals.g_us, key, cells.keys, kind)
    units, more = _program(target, goals.unit_g_us, rng.key(key, "unit"), cells.unit_keys, kind)
    shape = goals.g_us.shape
    (g_us, arrays), (unit_g_us, unit_arrays) = _held(made, shape), _held(units, goals.unit_g_us.shape)
    held = Devices(g_us, unit_g_us, goals.coefficients, arrays, unit_arrays)
    noise = keyed("read-back", seed, name, *own).standard_normal(g_us.size, np.float32) * made.read_sigma_us(made.g_us)
    readback = np.maximum(g_us + noise.reshape(shape), np.float32(0))
    writes = done.totals() + more.totals()
    if done.success is not None:
        success = done.success.reshape(shape)
    else:
        low, high = image.windows(number, copy)
        success = (readback >= low) & (readback <= high)
        writes = replace(writes, failed=int((~success).sum()))
    return held, LayerReport(success, readback, None if done.pulses is None else done.pulses.reshape(shape), writes)


def _held(made: Writer, shape: tuple[int, ...]) -> tuple[Array, Arrays]:
    """What a writer's devices hold, and what the model keeps beside, in their shape."""
    return made.g_us.reshape(shape), {name: array.reshape(shape) for name, array in made.state.arrays.items()}


def _free(devices: int) -> Writes:
    return Writes(devices=devices, pulses=None, trials=None, reads=None, time_ns=None, energy_nj=None)


def _program(target: Target, goal_us: Array, key: int, keys: Keys, kind: str) -> tuple[Writer, Report]:
    """Devices as they were made, brought to their goals by a programmer of that kind."""
    cells, counters = keys(), np.zeros(goal_us.size, np.uint32)
    g_us = np.ascontiguousarray(born_on(target.device, cells))
    made = Writer(target, g_us, counters, key, keys=lambda: cells, training=False, kind=kind)
    return made, made.program(np.arange(goal_us.size), np.ascontiguousarray(goal_us.reshape(-1)))


def _self_test(image: ImageContent, die: Die, quiet: bool) -> tuple[int, int]:
    """Reads of all copies and those outside their bands; raises RunError where more than one in a hundred is."""
    reads = outside = 0
    target, wires = die.program.target, image.target.array.wires
    for number, layer in enumerate(image.layers):
        crossbar, goals = die.crossbars[layer.name], []
        if wires is not None and image.copies(number) > 1:
            copies = range(image.copies(number))
            goals = [LayerWires(crossbar.cells_of(copy), wires).solve(image.goals(number, copy)) for copy in copies]
        for k, (drive, of_first) in enumerate(tests_of(image.sections, number, layer)):
            for copy, devices in enumerate(crossbar.effective):
                own = (copy,) if copy else ()
                expected = moved(target, layer, drive, of_first, goals[0], goals[copy]) if goals and copy else of_first
                noise = keyed("self-test", die.seed, layer.name, k, *own).standard_normal(expected.shape) * (not quiet)
                found = check(target, layer, drive, expected, devices, noise)
                reads, outside = reads + found.reads, outside + found.outside
                if found.outside > max(1, found.reads // 100):
                    raise RunError(
                        f"the self-test finds {found.outside} of {found.reads} reads outside their bands; "
                        f"the first is {found.first}",
                        where=f"layer {layer.name}{f', copy {copy}' if copy else ''}, self-test",
                        fix="map the die's faults and export with --fault-map, or take another die",
                    )
    return reads, outside


def _total(report: LayerReport) -> Writes:
    return sum((copy.writes for copy in report.all), Writes())


def _share(layers: Mapping[str, LayerReport]) -> float | None:
    masks = [copy.success for report in layers.values() for copy in report.all]
    total = sum(mask.size for mask in masks)
    return sum(int(mask.sum()) for mask in masks) / total if total else None
