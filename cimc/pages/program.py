"""A compiled model as an artefact of the page."""

from __future__ import annotations

from typing import Any

import numpy as np

from cimc.ir.program import Program
from cimc.pages.arrays import arrays_of, arrays_section
from cimc.pages.costs import cost_section
from cimc.pages.forecast import forecast_section
from cimc.pages.graph import graph_section
from cimc.pages.held import chip_for_maps, conductance_maps
from cimc.pages.parts import Artefact, Section, Table
from cimc.pages.schedule import schedule_section
from cimc.pages.training import trained_section


def program_artefact(program: Program, name: str, prefix: str, seed: int | None = None) -> Artefact:
    """All that a compiled model tells.

    Args:
        program: Loaded, or of a chip image.
        name: Of the file.
        prefix: Of names on the page.
        seed: Of the simulated die whose conductances are shown; None: 0, or that of the chip in the program.
    """
    chip, held = chip_for_maps(program, seed)
    arrays = arrays_of(program)
    maps = {} if chip is None else conductance_maps(chip, arrays)
    compared = (
        {} if chip is None else {layer.name: np.asarray(chip.conductances(layer.name)).reshape(-1) for layer in program.layers}
    )
    sections = [graph_section(program), arrays_section(arrays, [layer.name for layer in program.layers], maps, held, prefix)]
    if program.layers:
        sections += [cost_section(program), schedule_section(program)]
    if program.expected is not None:
        sections.append(forecast_section(program.expected))
    sections += [trained_section(program.tensors), made_from(program)]
    found = tuple(section for section in sections if section is not None)
    return Artefact(name, "compiled model", program_facts(program), found, program.provenance.notes, compared)


def program_facts(program: Program) -> dict[str, object]:
    """The figures of a program, by name with unit."""
    cost, places = program.cost() if program.layers else None, [one.where for one in program.placements]
    facts: dict[str, object] = {
        "model": program.provenance.model or None,
        "target": program.target.name,
        "analog nodes": places.count("analog"),
        "digital nodes": places.count("digital"),
        "folded nodes": places.count("folded"),
    }
    if cost is not None:
        facts |= {
            "crossbars": cost.crossbars, "arrays": cost.tiles, "chips": cost.chips, "devices": cost.devices,
            "cells that hold a weight, %": None if cost.utilisation is None else 100 * cost.utilisation,
            "latency as placed, ms": cost.latency_ms.placed, "latency pipelined, ms": cost.latency_ms.pipelined,
            "analog energy, mJ": cost.energy_mj.analog,
        }  # fmt: skip
    for output in program.expected.outputs[:4] if program.expected is not None else ():
        facts[f"expected SQNR of {output.name}, dB"] = output.sqnr_db
        facts[f"decisions that change at {output.name}, %"] = None if output.changed_share is None else 100 * output.changed_share
    return facts


def made_from(program: Program) -> Section:
    """Where the program comes from."""
    source = program.provenance
    rows: list[tuple[str, object]] = [
        ("model", source.model), ("SHA-256 of the model", source.model_sha256), ("cimc", source.cimc_version),
        ("calibration", source.calibration), ("outputs fitted", source.fitted), ("target", program.target.name),
        ("about the target", program.target.description),
    ]  # fmt: skip
    rows += [(f"training: {name}", _words(value)) for name, value in (source.training or {}).items()]
    values = [("input", one) for one in program.inputs] + [("output", one) for one in program.outputs]
    rows += [(f"{word} {one.name}", f"{one.dtype} {_shape(one.shape)}") for word, one in values]
    return Section("Made from", [], [], [], [Table("Origin", ("", "value"), [row for row in rows if row[1]])])


def _shape(shape: tuple[int | str | None, ...] | None) -> str:
    return "of open rank" if shape is None else " × ".join("?" if size is None else str(size) for size in shape) or "scalar"


def _words(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 400 else f"{text[:400]}…"
